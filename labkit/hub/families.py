"""The published families, as values of our config and as names in their files.

A family says three things, each for both directions: what its config.json means (`read`, `write`) and which of its
tensors are which of ours (`parts`). No other file knows a family's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.model.feedforward import Gated, MoE, Plain
from labkit.model.positions import ALiBi, Learned, Linear, Llama3, Rotary, T5Buckets, YaRN
from labkit.model.transformer import ModelConfig

Json = Mapping[str, Any]
Layout = Literal["rows", "turned", "heads"]


class Part(NamedTuple):
    """One of our tensors, and what it is made of in a file.

    layout: "rows", theirs one below the other; "turned", theirs transposed; "heads", queries, keys and values of each
    head together, where ours have all queries first.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = "rows"
    rows: tuple[int, ...] = ()

    def join(self, tensors: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
        """Ours, of theirs."""
        found = [tensors[name] for name in self.theirs]
        if self.layout == "turned":
            return found[0].T
        if self.layout == "heads":
            return found[0].unflatten(0, (config.heads, 3, config.head_size)).transpose(0, 1).flatten(0, 2)
        return torch.cat(found) if len(found) > 1 else found[0]

    def split(self, tensor: Tensor, config: ModelConfig) -> dict[str, Tensor]:
        """Theirs, of ours."""
        if self.layout == "turned":
            found = [tensor.T]
        elif self.layout == "heads":
            found = [tensor.unflatten(0, (3, config.heads, config.head_size)).transpose(0, 1).flatten(0, 2)]
        else:
            found = list(tensor.split(self.rows)) if self.rows else [tensor]
        return {name: part.contiguous() for name, part in zip(self.theirs, found, strict=True)}


class Family(NamedTuple):
    """architecture: the class that transformers makes of it. read: config.json -> our config; write: the other way.
    parts: all tensors of a model.
    """

    architecture: str
    read: Callable[[Json], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    parts: Callable[[ModelConfig], Iterator[Part]]


def both(ours: str, theirs: str, config: ModelConfig, layout: Layout = "rows") -> Iterator[Part]:
    """A matrix and its bias, where there is one. A bias has nothing to be turned."""
    yield Part(f"{ours}.weight", (f"{theirs}.weight",), layout)
    if config.bias:
        yield Part(f"{ours}.bias", (f"{theirs}.bias",), "rows" if layout == "turned" else layout)


def qkv_rows(config: ModelConfig) -> tuple[int, int, int]:
    """How many rows of the matrix of queries, keys and values are whose."""
    E = config.head_size
    return config.heads * E, config.key_heads * E, config.key_heads * E


# Llama, Qwen3, Mixtral

ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def _activation(name: str) -> Any:
    if name not in ACTIVATIONS:
        raise LabError(f"The activation {name!r} is not known here; there are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def _their_activation(config: ModelConfig) -> str:
    layer = config.feed_forward.expert if isinstance(config.feed_forward, MoE) else config.feed_forward
    return {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[layer.activation]


def _rotary(config: Json) -> Rotary:
    """Both of transformers' ways to write it: rope_parameters, and before it rope_theta beside rope_scaling."""
    given: dict[str, Any] = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    all_of_it: dict[str, Any] = {"rope_theta": 10_000.0, "max_position_embeddings": 0} | dict(config) | given
    base = float(all_of_it["rope_theta"])
    kind = given.get("rope_type", given.get("type", "default"))
    original = all_of_it.get("original_max_position_embeddings", all_of_it["max_position_embeddings"])
    if kind == "default":
        return Rotary(base)
    if kind == "linear":
        return Rotary(base, Linear(given["factor"]))
    if kind == "llama3":
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        return Rotary(base, Llama3(given["factor"], low, high, original))
    if kind == "yarn":
        return Rotary(base, YaRN(given["factor"], original, given.get("beta_fast", 32.0), given.get("beta_slow", 1.0)))
    raise LabError(f"The rotary scaling {kind!r} is not known here; there are default, linear, llama3, yarn.")


def _rope_parameters(position: Rotary) -> dict[str, Any]:
    scaling, theta = position.scaling, {"rope_theta": position.base}
    match scaling:
        case Linear():
            return theta | {"rope_type": "linear", "factor": scaling.factor}
        case Llama3():
            low_high = {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
            original = {"original_max_position_embeddings": scaling.original}
            return theta | {"rope_type": "llama3", "factor": scaling.factor} | low_high | original
        case YaRN():
            fast_slow = {"beta_fast": scaling.fast, "beta_slow": scaling.slow}
            original = {"original_max_position_embeddings": scaling.original}
            return theta | {"rope_type": "yarn", "factor": scaling.factor} | fast_slow | original
    return theta | {"rope_type": "default"}


def _read_llama(config: Json, qk_norm: bool = False) -> ModelConfig:
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise LabError("This checkpoint has biases in some matrices only, which is not known here.")
    heads = config["num_attention_heads"]
    hidden, activation = config["intermediate_size"], _activation(config.get("hidden_act", "silu"))
    dense = Gated(hidden, activation)
    experts = config.get("num_local_experts")
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=heads,
        key_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or config["hidden_size"] // heads,
        feed_forward=MoE(dense, experts, config["num_experts_per_tok"]) if experts else dense,
        position=_rotary(config),
        qk_norm=qk_norm,
        tied=config.get("tie_word_embeddings", False),
        norm_eps=config["rms_norm_eps"],
    )


def _write_llama(c: ModelConfig) -> dict[str, Any]:
    assert isinstance(c.feed_forward, Gated | MoE) and isinstance(c.position, Rotary)
    moe = c.feed_forward if isinstance(c.feed_forward, MoE) else None
    experts = {"num_local_experts": moe.experts, "num_experts_per_tok": moe.top_k} if moe else {}
    return {
        "vocab_size": c.vocabulary,
        "max_position_embeddings": c.context,
        "hidden_size": c.width,
        "intermediate_size": c.feed_forward.hidden,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.key_heads,
        "head_dim": c.head_size,
        "hidden_act": _their_activation(c),
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": _rope_parameters(c.position),
        "rope_theta": c.position.base,
        "tie_word_embeddings": c.tied,
        "attention_bias": False,
        **experts,
    }


def _llama_parts(c: ModelConfig) -> Iterator[Part]:
    yield Part("embedding.weight", ("model.embed_tokens.weight",))
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield Part(f"{ours}.mixer_norm.weight", (f"{theirs}.input_layernorm.weight",))
        names = tuple(f"{theirs}.self_attn.{part}_proj.weight" for part in "qkv")
        yield Part(f"{ours}.mixer.qkv.weight", names, rows=qkv_rows(c))
        yield Part(f"{ours}.mixer.out.weight", (f"{theirs}.self_attn.o_proj.weight",))
        if c.qk_norm:
            yield Part(f"{ours}.mixer.query_norm.weight", (f"{theirs}.self_attn.q_norm.weight",))
            yield Part(f"{ours}.mixer.key_norm.weight", (f"{theirs}.self_attn.k_norm.weight",))
        yield Part(f"{ours}.feed_forward_norm.weight", (f"{theirs}.post_attention_layernorm.weight",))
        yield from _llama_feed_forward(c, f"{ours}.feed_forward", theirs)
    yield Part("norm.weight", ("model.norm.weight",))
    if not c.tied:
        yield Part("head.weight", ("lm_head.weight",))


def _llama_feed_forward(c: ModelConfig, ours: str, theirs: str) -> Iterator[Part]:
    hidden = c.feed_forward.hidden
    if not isinstance(c.feed_forward, MoE):
        names = tuple(f"{theirs}.mlp.{part}_proj.weight" for part in ("gate", "up"))
        yield Part(f"{ours}.gate_up.weight", names, rows=(hidden, hidden))
        yield Part(f"{ours}.down.weight", (f"{theirs}.mlp.down_proj.weight",))
        return
    moe = f"{theirs}.block_sparse_moe"
    yield Part(f"{ours}.router.weight", (f"{moe}.gate.weight",))
    for e in range(c.feed_forward.experts):
        names = tuple(f"{moe}.experts.{e}.{part}.weight" for part in ("w1", "w3"))
        yield Part(f"{ours}.experts.{e}.gate_up.weight", names, rows=(hidden, hidden))
        yield Part(f"{ours}.experts.{e}.down.weight", (f"{moe}.experts.{e}.w2.weight",))


# GPT-2


def _read_gpt2(config: Json) -> ModelConfig:
    if config.get("scale_attn_by_inverse_layer_idx") or not config.get("scale_attn_weights", True):
        raise LabError("This GPT-2 scales its attention in a way that is not known here.")
    width = config["n_embd"]
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["n_positions"],
        width=width,
        depth=config["n_layer"],
        heads=config["n_head"],
        key_heads=config["n_head"],
        feed_forward=Plain(config.get("n_inner") or 4 * width, _activation(config["activation_function"])),
        position=Learned(),
        qk_norm=False,
        tied=config.get("tie_word_embeddings", True),
        norm="layer",
        norm_eps=config["layer_norm_epsilon"],
        bias=True,
    )


def _write_gpt2(c: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocabulary,
        "n_positions": c.context,
        "n_embd": c.width,
        "n_layer": c.depth,
        "n_head": c.heads,
        "n_inner": c.feed_forward.hidden,
        "activation_function": _their_activation(c),
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tied,
    }


def _gpt2_parts(c: ModelConfig) -> Iterator[Part]:
    yield Part("embedding.weight", ("transformer.wte.weight",))
    yield Part("position.table.weight", ("transformer.wpe.weight",))
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from both(f"{ours}.mixer_norm", f"{theirs}.ln_1", c)
        yield from both(f"{ours}.mixer.qkv", f"{theirs}.attn.c_attn", c, "turned")
        yield from both(f"{ours}.mixer.out", f"{theirs}.attn.c_proj", c, "turned")
        yield from both(f"{ours}.feed_forward_norm", f"{theirs}.ln_2", c)
        yield from both(f"{ours}.feed_forward.up", f"{theirs}.mlp.c_fc", c, "turned")
        yield from both(f"{ours}.feed_forward.down", f"{theirs}.mlp.c_proj", c, "turned")
    yield from both("norm", "transformer.ln_f", c)
    if not c.tied:
        yield Part("head.weight", ("lm_head.weight",))


# BLOOM


def _read_bloom(config: Json) -> ModelConfig:
    if config.get("apply_residual_connection_post_layernorm"):
        raise LabError("This BLOOM adds its residuals after the norms, which is not known here.")
    width = config["hidden_size"]
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config.get("seq_length", 2048),
        width=width,
        depth=config["n_layer"],
        heads=config["n_head"],
        key_heads=config["n_head"],
        feed_forward=Plain(4 * width, "gelu_tanh"),
        position=ALiBi(),
        qk_norm=False,
        tied=config.get("tie_word_embeddings", True),
        norm="layer",
        norm_eps=config["layer_norm_epsilon"],
        bias=True,
        embedding_norm=True,
    )


def _write_bloom(c: ModelConfig) -> dict[str, Any]:
    if c.feed_forward.hidden != 4 * c.width:
        raise LabError(f"BLOOM's feed-forward has four widths ({4 * c.width}), not {c.feed_forward.hidden}.")
    return {
        "vocab_size": c.vocabulary,
        "seq_length": c.context,
        "hidden_size": c.width,
        "n_layer": c.depth,
        "n_head": c.heads,
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tied,
    }


def _bloom_parts(c: ModelConfig) -> Iterator[Part]:
    yield Part("embedding.weight", ("transformer.word_embeddings.weight",))
    yield from both("embedding_norm", "transformer.word_embeddings_layernorm", c)
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from both(f"{ours}.mixer_norm", f"{theirs}.input_layernorm", c)
        yield from both(f"{ours}.mixer.qkv", f"{theirs}.self_attention.query_key_value", c, "heads")
        yield from both(f"{ours}.mixer.out", f"{theirs}.self_attention.dense", c)
        yield from both(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm", c)
        yield from both(f"{ours}.feed_forward.up", f"{theirs}.mlp.dense_h_to_4h", c)
        yield from both(f"{ours}.feed_forward.down", f"{theirs}.mlp.dense_4h_to_h", c)
    yield from both("norm", "transformer.ln_f", c)
    if not c.tied:
        yield Part("head.weight", ("lm_head.weight",))


# BERT


def _read_bert(config: Json) -> ModelConfig:
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        key_heads=config["num_attention_heads"],
        feed_forward=Plain(config["intermediate_size"], _activation(config["hidden_act"])),
        position=Learned(),
        qk_norm=False,
        norm="layer",
        norm_eps=config["layer_norm_eps"],
        order="post",
        bias=True,
        causal=False,
        token_types=config["type_vocab_size"],
        embedding_norm=True,
        head="masked",
    )


def _write_bert(c: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocabulary,
        "max_position_embeddings": c.context,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.feed_forward.hidden,
        "hidden_act": _their_activation(c),
        "layer_norm_eps": c.norm_eps,
        "type_vocab_size": c.token_types,
    }


def _bert_parts(c: ModelConfig) -> Iterator[Part]:
    embeddings = "bert.embeddings"
    yield Part("embedding.weight", (f"{embeddings}.word_embeddings.weight",))
    yield Part("position.table.weight", (f"{embeddings}.position_embeddings.weight",))
    yield Part("types.weight", (f"{embeddings}.token_type_embeddings.weight",))
    yield from both("embedding_norm", f"{embeddings}.LayerNorm", c)
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"bert.encoder.layer.{i}"
        for kind in ("weight", "bias"):
            names = tuple(f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value"))
            yield Part(f"{ours}.mixer.qkv.{kind}", names, rows=qkv_rows(c))
        yield from both(f"{ours}.mixer.out", f"{theirs}.attention.output.dense", c)
        yield from both(f"{ours}.mixer_norm", f"{theirs}.attention.output.LayerNorm", c)
        yield from both(f"{ours}.feed_forward.up", f"{theirs}.intermediate.dense", c)
        yield from both(f"{ours}.feed_forward.down", f"{theirs}.output.dense", c)
        yield from both(f"{ours}.feed_forward_norm", f"{theirs}.output.LayerNorm", c)
    yield from both("head.dense", "cls.predictions.transform.dense", c)
    yield from both("head.norm", "cls.predictions.transform.LayerNorm", c)
    yield Part("head.bias", ("cls.predictions.bias",))


# T5


def _read_t5(config: Json) -> ModelConfig:
    name = config["feed_forward_proj"].removeprefix("gated-")
    gated = name != config["feed_forward_proj"]
    activation: Any = (
        "gelu_tanh" if gated and name == "gelu" else _activation(name)
    )  # its name there for the one by tanh
    tied = config.get("tie_word_embeddings", True)
    feed_forward = (Gated if gated else Plain)(config["d_ff"], activation)
    scaled = config.get("scale_decoder_outputs", tied)
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config.get("n_positions", 512),
        width=config["d_model"],
        depth=config.get("num_decoder_layers") or config["num_layers"],
        encoder=config["num_layers"],
        heads=config["num_heads"],
        key_heads=config["num_heads"],
        head_width=config["d_kv"],
        feed_forward=feed_forward,
        position=T5Buckets(
            config["relative_attention_num_buckets"], config.get("relative_attention_max_distance", 128)
        ),
        qk_norm=False,
        tied=tied,
        norm_eps=config["layer_norm_epsilon"],
        logit_scale=config["d_model"] ** -0.5 if scaled else 1.0,
        attention_scale=1.0,
    )


def _write_t5(c: ModelConfig) -> dict[str, Any]:
    assert isinstance(c.feed_forward, Gated | Plain) and isinstance(c.position, T5Buckets)
    gated = isinstance(c.feed_forward, Gated)
    return {
        "vocab_size": c.vocabulary,
        "n_positions": c.context,
        "d_model": c.width,
        "d_kv": c.head_size,
        "d_ff": c.feed_forward.hidden,
        "num_layers": c.encoder,
        "num_decoder_layers": c.depth,
        "num_heads": c.heads,
        "relative_attention_num_buckets": c.position.buckets,
        "relative_attention_max_distance": c.position.furthest,
        "layer_norm_epsilon": c.norm_eps,
        "feed_forward_proj": "gated-gelu" if gated else c.feed_forward.activation,
        "tie_word_embeddings": c.tied,
        "scale_decoder_outputs": c.logit_scale != 1,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
    }


def _t5_parts(c: ModelConfig) -> Iterator[Part]:
    yield Part("embedding.weight", ("shared.weight",))
    for stack, prefix, depth in (("encoder", "encoder.", c.encoder), ("decoder", "", c.depth)):
        relative = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield Part(f"{prefix}position.table.weight", (relative,))
        for i in range(depth):
            ours, theirs = f"{prefix}blocks.{i}", f"{stack}.block.{i}.layer"
            last = 2 if stack == "decoder" else 1
            names = tuple(f"{theirs}.0.SelfAttention.{part}.weight" for part in "qkv")
            yield Part(f"{ours}.mixer.qkv.weight", names, rows=qkv_rows(c))
            yield Part(f"{ours}.mixer.out.weight", (f"{theirs}.0.SelfAttention.o.weight",))
            yield Part(f"{ours}.mixer_norm.weight", (f"{theirs}.0.layer_norm.weight",))
            if stack == "decoder":
                cross = f"{theirs}.1.EncDecAttention"
                yield Part(f"{ours}.cross.query.weight", (f"{cross}.q.weight",))
                yield Part(
                    f"{ours}.cross.key_value.weight", (f"{cross}.k.weight", f"{cross}.v.weight"), rows=qkv_rows(c)[1:]
                )
                yield Part(f"{ours}.cross.out.weight", (f"{cross}.o.weight",))
                yield Part(f"{ours}.cross_norm.weight", (f"{theirs}.1.layer_norm.weight",))
            dense = f"{theirs}.{last}.DenseReluDense"
            if isinstance(c.feed_forward, Gated):
                hidden = c.feed_forward.hidden
                both_in = (f"{dense}.wi_0.weight", f"{dense}.wi_1.weight")
                yield Part(f"{ours}.feed_forward.gate_up.weight", both_in, rows=(hidden, hidden))
            else:
                yield Part(f"{ours}.feed_forward.up.weight", (f"{dense}.wi.weight",))
            yield Part(f"{ours}.feed_forward.down.weight", (f"{dense}.wo.weight",))
            yield Part(f"{ours}.feed_forward_norm.weight", (f"{theirs}.{last}.layer_norm.weight",))
        yield Part(f"{prefix}norm.weight", (f"{stack}.final_layer_norm.weight",))
    if not c.tied:
        yield Part("head.weight", ("lm_head.weight",))


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", _read_llama, _write_llama, _llama_parts),
    "qwen3": Family("Qwen3ForCausalLM", lambda config: _read_llama(config, qk_norm=True), _write_llama, _llama_parts),
    "mixtral": Family("MixtralForCausalLM", _read_llama, _write_llama, _llama_parts),
    "gpt2": Family("GPT2LMHeadModel", _read_gpt2, _write_gpt2, _gpt2_parts),
    "bloom": Family("BloomForCausalLM", _read_bloom, _write_bloom, _bloom_parts),
    "bert": Family("BertForMaskedLM", _read_bert, _write_bert, _bert_parts),
    "t5": Family("T5ForConditionalGeneration", _read_t5, _write_t5, _t5_parts),
}
