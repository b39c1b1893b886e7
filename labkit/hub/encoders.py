"""Families that read a text whole: BERT, and the encoder-decoders T5 and Switch Transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labkit.errors import LabError
from labkit.hub.config_keys import ConfigKeys
from labkit.hub.parts import (
    Family,
    Json,
    TensorMapping,
    activation_from_hf,
    activation_to_hf,
    qkv_split_sizes,
    weight_and_bias_mappings,
)
from labkit.model.feedforward import Gated, MoE, Plain
from labkit.model.positions import Learned, T5Buckets
from labkit.model.transformer import ModelConfig

# BERT


def _read_bert(config: Json) -> ModelConfig:
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        key_value_heads=config["num_attention_heads"],
        feed_forward=Plain(config["intermediate_size"], activation_from_hf(config["hidden_act"])),
        position=Learned(),
        qk_norm=False,
        norm="layer",
        norm_eps=config["layer_norm_eps"],
        norm_placement="post",
        bias=True,
        causal=False,
        token_types=config["type_vocab_size"],
        embedding_norm=True,
        head="masked",
        classes=2 if _next_sentence(config) else 0,
    )


def _next_sentence(config: Json) -> bool:
    """Whether it can tell if one sentence follows another."""
    return "BertForPreTraining" in (config.get("architectures") or [])


def _write_bert(c: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocabulary,
        "max_position_embeddings": c.context,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.feed_forward.intermediate_size,
        "hidden_act": activation_to_hf(c),
        "layer_norm_eps": c.norm_eps,
        "type_vocab_size": c.token_types,
        **({"architectures": ["BertForPreTraining"]} if c.classes else {}),
    }


def _bert_parts(c: ModelConfig) -> Iterator[TensorMapping]:
    embeddings = "bert.embeddings"
    yield TensorMapping("embedding.weight", (f"{embeddings}.word_embeddings.weight",))
    yield TensorMapping("position.table.weight", (f"{embeddings}.position_embeddings.weight",))
    yield TensorMapping("token_type_embedding.weight", (f"{embeddings}.token_type_embeddings.weight",))
    yield from weight_and_bias_mappings("embedding_norm", f"{embeddings}.LayerNorm", c)
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"bert.encoder.layer.{i}"
        for kind in ("weight", "bias"):
            names = tuple(f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value"))
            yield TensorMapping(f"{ours}.mixer.qkv.{kind}", names, split_sizes=qkv_split_sizes(c))
        yield from weight_and_bias_mappings(f"{ours}.mixer.out", f"{theirs}.attention.output.dense", c)
        yield from weight_and_bias_mappings(f"{ours}.mixer_norm", f"{theirs}.attention.output.LayerNorm", c)
        yield from weight_and_bias_mappings(f"{ours}.feed_forward.up", f"{theirs}.intermediate.dense", c)
        yield from weight_and_bias_mappings(f"{ours}.feed_forward.down", f"{theirs}.output.dense", c)
        yield from weight_and_bias_mappings(f"{ours}.feed_forward_norm", f"{theirs}.output.LayerNorm", c)
    yield from weight_and_bias_mappings("head.dense", "cls.predictions.transform.dense", c)
    yield from weight_and_bias_mappings("head.norm", "cls.predictions.transform.LayerNorm", c)
    yield TensorMapping("head.bias", ("cls.predictions.bias",))
    if c.classes:
        yield from weight_and_bias_mappings("classifier_head.dense", "bert.pooler.dense", c)
        yield from weight_and_bias_mappings("classifier_head.out", "cls.seq_relationship", c)


# T5, Switch Transformers


def _read_t5(config: Json) -> ModelConfig:
    name = config["feed_forward_proj"].removeprefix("gated-")
    gated = name != config["feed_forward_proj"]
    # What is "gelu" there is, where it is gated, the one by tanh.
    kind: Any = "gelu_tanh" if gated and name == "gelu" else activation_from_hf(name)
    return _encoder_decoder(config, (Gated if gated else Plain)(config["d_ff"], kind))


def _read_switch(config: Json) -> ModelConfig:
    depths = config["num_layers"], config.get("num_decoder_layers") or config["num_layers"]
    sparse = config["num_sparse_encoder_layers"], config["num_sparse_decoder_layers"]
    steps = {depth // experts if experts else depth for depth, experts in zip(depths, sparse, strict=True)}
    if len(steps) > 1:
        raise LabError(
            "This Switch Transformer has experts in different blocks of its encoder and its decoder, which is not "
            "supported."
        )
    experts, context = config["num_experts"], config["n_positions"]
    expert = Plain(config["d_ff"], activation_from_hf(config["dense_act_fn"]))
    capacity = config["expert_capacity"] * experts / context
    return _encoder_decoder(config, MoE(expert, experts, 1, False, capacity, sparse_step=steps.pop()))


def _encoder_decoder(config: Json, feed_forward: Gated | Plain | MoE) -> ModelConfig:
    tied = bool(config["tie_word_embeddings"])
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["n_positions"],
        width=config["d_model"],
        depth=config.get("num_decoder_layers") or config["num_layers"],
        encoder_depth=config["num_layers"],
        heads=config["num_heads"],
        key_value_heads=config["num_heads"],
        head_dim=config["d_kv"],
        feed_forward=feed_forward,
        position=T5Buckets(config["relative_attention_num_buckets"], config["relative_attention_max_distance"]),
        qk_norm=False,
        tied=tied,
        norm_eps=config["layer_norm_epsilon"],
        logit_scale=config["d_model"] ** -0.5 if config.get("scale_decoder_outputs", tied) else 1.0,
        attention_scale=1.0,
    )


def _write_t5(c: ModelConfig) -> dict[str, Any]:
    name = activation_to_hf(c)
    if isinstance(c.feed_forward, Gated):
        name = f"gated-{'gelu' if c.feed_forward.activation == 'gelu_tanh' else name}"
    return _write_encoder_decoder(c) | {"feed_forward_proj": name, "scale_decoder_outputs": c.logit_scale != 1}


def _write_switch(c: ModelConfig) -> dict[str, Any]:
    moe = c.feed_forward
    assert isinstance(moe, MoE)
    if moe.top_k != 1 or moe.norm_topk_prob or not isinstance(moe.expert, Plain):
        raise LabError(
            "A Switch Transformer needs top_k=1, experts without a gate, and outputs weighted by the router."
        )
    no_limit = c.context  # tokens of a row that one expert may take
    return _write_encoder_decoder(c) | {
        "num_experts": moe.num_experts,
        "num_sparse_encoder_layers": c.encoder_depth // moe.sparse_step,
        "num_sparse_decoder_layers": c.depth // moe.sparse_step,
        "expert_capacity": no_limit
        if moe.capacity_factor is None
        else round(moe.capacity_factor * c.context / moe.num_experts),
        "dense_act_fn": activation_to_hf(c),
    }


def _write_encoder_decoder(c: ModelConfig) -> dict[str, Any]:
    assert isinstance(c.position, T5Buckets)
    return {
        "vocab_size": c.vocabulary,
        "n_positions": c.context,
        "d_model": c.width,
        "d_kv": c.attention_config.head_dim,
        "d_ff": c.feed_forward.intermediate_size,
        "num_layers": c.encoder_depth,
        "num_decoder_layers": c.depth,
        "num_heads": c.heads,
        "relative_attention_num_buckets": c.position.num_buckets,
        "relative_attention_max_distance": c.position.max_distance,
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tied,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
    }


def _t5_parts(c: ModelConfig, feed_forward: str = "DenseReluDense") -> Iterator[TensorMapping]:
    yield TensorMapping("embedding.weight", ("shared.weight",))
    for stack, prefix, depth in (("encoder", "encoder.", c.encoder_depth), ("decoder", "", c.depth)):
        relative = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield TensorMapping(f"{prefix}position.table.weight", (relative,))
        for i in range(depth):
            ours, theirs = f"{prefix}blocks.{i}", f"{stack}.block.{i}.layer"
            last = 2 if stack == "decoder" else 1
            names = tuple(f"{theirs}.0.SelfAttention.{part}.weight" for part in "qkv")
            yield TensorMapping(f"{ours}.mixer.qkv.weight", names, split_sizes=qkv_split_sizes(c))
            yield TensorMapping(f"{ours}.mixer.out.weight", (f"{theirs}.0.SelfAttention.o.weight",))
            yield TensorMapping(f"{ours}.mixer_norm.weight", (f"{theirs}.0.layer_norm.weight",))
            if stack == "decoder":
                yield from _cross_parts(c, ours, f"{theirs}.1")
            layer = c.feed_forward.config_for_block(i)
            yield from _feed_forward_parts(layer, f"{ours}.feed_forward", f"{theirs}.{last}.{feed_forward}")
            yield TensorMapping(f"{ours}.feed_forward_norm.weight", (f"{theirs}.{last}.layer_norm.weight",))
        yield TensorMapping(f"{prefix}norm.weight", (f"{stack}.final_layer_norm.weight",))
    if not c.tied:
        yield TensorMapping("head.weight", ("lm_head.weight",))


def _cross_parts(c: ModelConfig, ours: str, theirs: str) -> Iterator[TensorMapping]:
    cross = f"{theirs}.EncDecAttention"
    yield TensorMapping(f"{ours}.cross.query.weight", (f"{cross}.q.weight",))
    both_of_it = (f"{cross}.k.weight", f"{cross}.v.weight")
    yield TensorMapping(f"{ours}.cross.key_value.weight", both_of_it, split_sizes=qkv_split_sizes(c)[1:])
    yield TensorMapping(f"{ours}.cross.out.weight", (f"{cross}.o.weight",))
    yield TensorMapping(f"{ours}.cross_norm.weight", (f"{theirs}.layer_norm.weight",))


def _feed_forward_parts(layer: Gated | Plain | MoE, ours: str, theirs: str) -> Iterator[TensorMapping]:
    match layer:
        case MoE():
            yield TensorMapping(f"{ours}.router.weight", (f"{theirs}.router.classifier.weight",))
            for e in range(layer.num_experts):
                yield from _feed_forward_parts(layer.expert, f"{ours}.experts.{e}", f"{theirs}.experts.expert_{e}")
            return
        case Gated():
            names = (f"{theirs}.wi_0.weight", f"{theirs}.wi_1.weight")
            yield TensorMapping(
                f"{ours}.gate_up.weight", names, split_sizes=(layer.intermediate_size, layer.intermediate_size)
            )
        case Plain():
            yield TensorMapping(f"{ours}.up.weight", (f"{theirs}.wi.weight",))
    yield TensorMapping(f"{ours}.down.weight", (f"{theirs}.wo.weight",))


_BERT = ConfigKeys(
    "vocab_size max_position_embeddings hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "layer_norm_eps type_vocab_size architectures",
    {
        "tie_word_embeddings": (True,), "position_embedding_type": ("absolute",), "is_encoder_decoder": (False,),
        "is_causal": (False, True), "causal": (False, True),  # an encoder looks both ways, whatever they say
    },
    "hidden_dropout_prob attention_probs_dropout_prob directionality pooler_fc_size pooler_num_attention_heads "
    "pooler_num_fc_layers pooler_size_per_head pooler_type",
    {
        "max_position_embeddings": 512, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2,
    },
)  # fmt: skip
_T5 = ConfigKeys(
    "vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads n_positions relative_attention_num_buckets "
    "relative_attention_max_distance layer_norm_epsilon tie_word_embeddings feed_forward_proj scale_decoder_outputs",
    {"is_encoder_decoder": (True,)},
    "dropout_rate initializer_factor dense_act_fn is_gated_act",  # the last two are of feed_forward_proj
    {
        "n_positions": 512, "feed_forward_proj": "relu", "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6, "tie_word_embeddings": True,
    },
)  # fmt: skip
_SWITCH = ConfigKeys(
    f"{_T5.used} num_experts num_sparse_encoder_layers num_sparse_decoder_layers expert_capacity dense_act_fn",
    {
        "router_bias": (False,), "router_dtype": ("float32",), "router_ignore_padding_tokens": (False,),
        "is_encoder_decoder": (True,), "feed_forward_proj": ("relu",), "is_gated_act": (False,),
    },
    "dropout_rate initializer_factor router_jitter_noise router_z_loss_coef router_aux_loss_coef router_type "
    "add_router_probs encoder_sparse_step decoder_sparse_step",  # the last two are of the counts of sparse layers
    {**_T5.defaults, "dense_act_fn": "relu", "expert_capacity": 64, "num_experts": 8},
)  # fmt: skip
_T5_TWINS = {
    name: "shared.weight" for name in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
}
_T5_SPARE = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"

BERT = Family(
    "BertForMaskedLM", _read_bert, _write_bert, _bert_parts, _BERT, "bert.",
    {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    r"bert\.pooler\..*|cls\.seq_relationship\..*",  # of BertForPreTraining; bert-base's own files keep them
)  # fmt: skip
T5 = Family("T5ForConditionalGeneration", _read_t5, _write_t5, _t5_parts, _T5, "", _T5_TWINS, _T5_SPARE)
SWITCH = Family(
    "SwitchTransformersForConditionalGeneration", _read_switch, _write_switch, lambda c: _t5_parts(c, "mlp"),
    _SWITCH, "", _T5_TWINS, _T5_SPARE,
)  # fmt: skip
