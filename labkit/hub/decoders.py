"""Decoder-only families: Llama, Mistral, Mixtral, Qwen2, Qwen3, GPT-2 and BLOOM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from labkit.model.positions import ALiBi, Learned, Rotary
from labkit.model.rotary_scaling import LinearScaling, Llama3Scaling, YaRN
from labkit.model.transformer import ModelConfig

# Llama, Mistral, Qwen2, Qwen3, Mixtral

ROPE = {
    "default": "",
    "linear": "factor",
    "llama3": "factor low_freq_factor high_freq_factor original_max_position_embeddings",
    "yarn": "factor original_max_position_embeddings beta_fast beta_slow attention_factor mscale mscale_all_dim "
    "truncate",
}
"""The rotary scalings that are known here, and what each is made of."""
_ORIGINAL = "original_max_position_embeddings"


def _rotary(config: Json) -> Rotary:
    """Both of transformers' ways to write it: rope_parameters, and before it rope_theta beside rope_scaling."""
    new, old = config.get("rope_parameters"), config.get("rope_scaling")
    if new and old and new != old:
        raise LabError(f"rope_parameters ({new}) and rope_scaling ({old}) differ: it is not clear which is meant.")
    given: dict[str, Any] = dict(new or old or {})
    kind = given.pop("rope_type", None) or given.get("type", "default")
    given.pop("type", None)
    base = float(given.pop("rope_theta", None) or config["rope_theta"])
    if kind not in ROPE:
        raise LabError(f"The rotary scaling {kind!r} is not supported; supported are {', '.join(ROPE)}.")
    share = given.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0
    unknown = [name for name, value in given.items() if name not in ROPE[kind].split() and value is not None]
    if share != 1 or unknown:
        what = f"of a share of {share} of each head" if share != 1 else f"with {', '.join(unknown)}"
        raise LabError(f"Rotary positions ({kind}) {what} are not supported.")
    context = config["max_position_embeddings"]
    original = next((one[_ORIGINAL] for one in (config, given) if one.get(_ORIGINAL)), context)
    if kind == "linear":
        return Rotary(base, LinearScaling(given["factor"]))
    if kind == "llama3":
        return Rotary(
            base, Llama3Scaling(given["factor"], given["low_freq_factor"], given["high_freq_factor"], original)
        )
    if kind == "yarn":
        return Rotary(base, _yarn(given, context, original))
    return Rotary(base)


def _yarn(given: Json, context: int, original: int) -> YaRN:
    """As transformers' _compute_yarn_parameters: mscale and mscale_all_dim, where both are given, are two factors of
    attention whose quotient is taken.
    """
    factor = given.get("factor") or context / original
    attention, mscale, all_dim = (given.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is None and mscale and all_dim and factor > 1:
        attention = (0.1 * mscale * math.log(factor) + 1) / (0.1 * all_dim * math.log(factor) + 1)
    fast, slow = given.get("beta_fast") or 32.0, given.get("beta_slow") or 1.0
    return YaRN(factor, original, fast, slow, attention, given.get("truncate", True))


def _rope_parameters(position: Rotary) -> dict[str, Any]:
    scaling, theta = position.scaling, {"rope_theta": position.base}
    match scaling:
        case LinearScaling():
            return theta | {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Scaling():
            low_high = {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
            original = {"original_max_position_embeddings": scaling.original_max_position_embeddings}
            return theta | {"rope_type": "llama3", "factor": scaling.factor} | low_high | original
        case YaRN():
            fast_slow = {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
            original = {"original_max_position_embeddings": scaling.original_max_position_embeddings}
            rest = {"attention_factor": scaling.attention_factor, "truncate": scaling.truncate}
            return theta | {"rope_type": "yarn", "factor": scaling.factor} | fast_slow | original | rest
    return theta | {"rope_type": "default"}


def _window(config: Json, sliding: Sequence[bool]) -> int:
    """How many tokens each one sees, 0 for all before it. sliding: which layers have a window."""
    window, context = config.get("sliding_window"), config["max_position_embeddings"]
    if window is None or window >= context or not any(sliding):
        return 0
    if not all(sliding):
        raise LabError(
            f"A window of {window} tokens (sliding_window) in some layers only is not supported. With "
            f"max_position_embeddings of at most {window} in config.json it is supported, for rows of that length."
        )
    return window


def _sliding_layers(config: Json) -> list[bool]:
    """Which layers of a Qwen have a window."""
    depth = config["num_hidden_layers"]
    kinds = config.get("layer_types") or ["sliding_attention"] * depth
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise LabError(f"Layers of the type {sorted(unknown)[0]!r} (layer_types) are not supported.")
    if not config.get("use_sliding_window"):
        return [False] * depth
    if config.get("layer_types"):
        return [kind == "sliding_attention" for kind in kinds]
    return [i >= config["max_window_layers"] for i in range(depth)]


def _read_llama(config: Json, qk_norm: bool = False, qkv_bias: bool = False, window: int = 0) -> ModelConfig:
    heads = config["num_attention_heads"]
    dense = Gated(config["intermediate_size"], activation_from_hf(config["hidden_act"]))
    experts = config.get("num_local_experts")
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        feed_forward=MoE(dense, experts, config["num_experts_per_tok"]) if experts else dense,
        position=_rotary(config),
        qk_norm=qk_norm,
        tied=bool(config["tie_word_embeddings"]),
        norm_eps=config["rms_norm_eps"],
        qkv_bias=qkv_bias,
        window=window,
    )


def _read_mistral(config: Json) -> ModelConfig:
    return _read_llama(config, window=_window(config, [True]))


def _read_qwen2(config: Json) -> ModelConfig:
    return _read_llama(config, qkv_bias=True, window=_window(config, _sliding_layers(config)))


def _read_qwen3(config: Json) -> ModelConfig:
    return _read_llama(config, qk_norm=True, window=_window(config, _sliding_layers(config)))


def _write_llama(c: ModelConfig) -> dict[str, Any]:
    assert isinstance(c.feed_forward, Gated | MoE) and isinstance(c.position, Rotary)
    moe = c.feed_forward if isinstance(c.feed_forward, MoE) else None
    experts = {"num_local_experts": moe.num_experts, "num_experts_per_tok": moe.top_k} if moe else {}
    return {
        "vocab_size": c.vocabulary,
        "max_position_embeddings": c.context,
        "hidden_size": c.width,
        "intermediate_size": c.feed_forward.intermediate_size,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.attention_config.key_value_heads,
        "head_dim": c.attention_config.head_dim,
        "hidden_act": activation_to_hf(c),
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": _rope_parameters(c.position),
        "rope_theta": c.position.base,
        "tie_word_embeddings": c.tied,
        **experts,
    }


def _write_mistral(c: ModelConfig) -> dict[str, Any]:
    return _write_llama(c) | {"sliding_window": c.window or None}


def _write_qwen(c: ModelConfig) -> dict[str, Any]:
    window = {"use_sliding_window": c.window > 0, "sliding_window": c.window or None, "max_window_layers": 0}
    return _write_llama(c) | (window if c.window else {})


def _llama_parts(c: ModelConfig) -> Iterator[TensorMapping]:
    yield TensorMapping("embedding.weight", ("model.embed_tokens.weight",))
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield TensorMapping(f"{ours}.mixer_norm.weight", (f"{theirs}.input_layernorm.weight",))
        names = tuple(f"{theirs}.self_attn.{part}_proj.weight" for part in "qkv")
        yield TensorMapping(f"{ours}.mixer.qkv.weight", names, split_sizes=qkv_split_sizes(c))
        if c.qkv_bias:
            names = tuple(f"{theirs}.self_attn.{part}_proj.bias" for part in "qkv")
            yield TensorMapping(f"{ours}.mixer.qkv.bias", names, split_sizes=qkv_split_sizes(c))
        yield TensorMapping(f"{ours}.mixer.out.weight", (f"{theirs}.self_attn.o_proj.weight",))
        if c.qk_norm:
            yield TensorMapping(f"{ours}.mixer.query_norm.weight", (f"{theirs}.self_attn.q_norm.weight",))
            yield TensorMapping(f"{ours}.mixer.key_norm.weight", (f"{theirs}.self_attn.k_norm.weight",))
        yield TensorMapping(f"{ours}.feed_forward_norm.weight", (f"{theirs}.post_attention_layernorm.weight",))
        yield from _llama_feed_forward(c, f"{ours}.feed_forward", theirs)
    yield TensorMapping("norm.weight", ("model.norm.weight",))
    if not c.tied:
        yield TensorMapping("head.weight", ("lm_head.weight",))


def _llama_feed_forward(c: ModelConfig, ours: str, theirs: str) -> Iterator[TensorMapping]:
    hidden = c.feed_forward.intermediate_size
    if not isinstance(c.feed_forward, MoE):
        names = tuple(f"{theirs}.mlp.{part}_proj.weight" for part in ("gate", "up"))
        yield TensorMapping(f"{ours}.gate_up.weight", names, split_sizes=(hidden, hidden))
        yield TensorMapping(f"{ours}.down.weight", (f"{theirs}.mlp.down_proj.weight",))
        return
    moe = f"{theirs}.block_sparse_moe"
    yield TensorMapping(f"{ours}.router.weight", (f"{moe}.gate.weight",))
    for e in range(c.feed_forward.num_experts):
        names = tuple(f"{moe}.experts.{e}.{part}.weight" for part in ("w1", "w3"))
        yield TensorMapping(f"{ours}.experts.{e}.gate_up.weight", names, split_sizes=(hidden, hidden))
        yield TensorMapping(f"{ours}.experts.{e}.down.weight", (f"{moe}.experts.{e}.w2.weight",))


# GPT-2


def _read_gpt2(config: Json) -> ModelConfig:
    width = config["n_embd"]
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["n_positions"],
        width=width,
        depth=config["n_layer"],
        heads=config["n_head"],
        key_value_heads=config["n_head"],
        feed_forward=Plain(config.get("n_inner") or 4 * width, activation_from_hf(config["activation_function"])),
        position=Learned(),
        qk_norm=False,
        tied=bool(config["tie_word_embeddings"]),
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
        "n_inner": c.feed_forward.intermediate_size,
        "activation_function": activation_to_hf(c),
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tied,
    }


def _gpt2_parts(c: ModelConfig) -> Iterator[TensorMapping]:
    yield TensorMapping("embedding.weight", ("transformer.wte.weight",))
    yield TensorMapping("position.table.weight", ("transformer.wpe.weight",))
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from weight_and_bias_mappings(f"{ours}.mixer_norm", f"{theirs}.ln_1", c)
        yield from weight_and_bias_mappings(f"{ours}.mixer.qkv", f"{theirs}.attn.c_attn", c, "transposed")
        yield from weight_and_bias_mappings(f"{ours}.mixer.out", f"{theirs}.attn.c_proj", c, "transposed")
        yield from weight_and_bias_mappings(f"{ours}.feed_forward_norm", f"{theirs}.ln_2", c)
        yield from weight_and_bias_mappings(f"{ours}.feed_forward.up", f"{theirs}.mlp.c_fc", c, "transposed")
        yield from weight_and_bias_mappings(f"{ours}.feed_forward.down", f"{theirs}.mlp.c_proj", c, "transposed")
    yield from weight_and_bias_mappings("norm", "transformer.ln_f", c)
    if not c.tied:
        yield TensorMapping("head.weight", ("lm_head.weight",))


# BLOOM


def _read_bloom(config: Json) -> ModelConfig:
    width = config["hidden_size"]
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["seq_length"],
        width=width,
        depth=config["n_layer"],
        heads=config["n_head"],
        key_value_heads=config["n_head"],
        feed_forward=Plain(4 * width, "gelu_tanh"),
        position=ALiBi(),
        qk_norm=False,
        tied=bool(config["tie_word_embeddings"]),
        norm="layer",
        norm_eps=config["layer_norm_epsilon"],
        bias=True,
        embedding_norm=True,
    )


def _write_bloom(c: ModelConfig) -> dict[str, Any]:
    if c.feed_forward.intermediate_size != 4 * c.width:
        raise LabError(f"BLOOM's feed-forward has four widths ({4 * c.width}), not {c.feed_forward.intermediate_size}.")
    return {
        "vocab_size": c.vocabulary,
        "seq_length": c.context,
        "hidden_size": c.width,
        "n_layer": c.depth,
        "n_head": c.heads,
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tied,
    }


def _bloom_parts(c: ModelConfig) -> Iterator[TensorMapping]:
    yield TensorMapping("embedding.weight", ("transformer.word_embeddings.weight",))
    yield from weight_and_bias_mappings("embedding_norm", "transformer.word_embeddings_layernorm", c)
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from weight_and_bias_mappings(f"{ours}.mixer_norm", f"{theirs}.input_layernorm", c)
        yield from weight_and_bias_mappings(
            f"{ours}.mixer.qkv", f"{theirs}.self_attention.query_key_value", c, "interleaved_qkv"
        )
        yield from weight_and_bias_mappings(f"{ours}.mixer.out", f"{theirs}.self_attention.dense", c)
        yield from weight_and_bias_mappings(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm", c)
        yield from weight_and_bias_mappings(f"{ours}.feed_forward.up", f"{theirs}.mlp.dense_h_to_4h", c)
        yield from weight_and_bias_mappings(f"{ours}.feed_forward.down", f"{theirs}.mlp.dense_4h_to_h", c)
    yield from weight_and_bias_mappings("norm", "transformer.ln_f", c)
    if not c.tied:
        yield TensorMapping("head.weight", ("lm_head.weight",))


_LLAMA = ConfigKeys(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "hidden_act max_position_embeddings rms_norm_eps tie_word_embeddings rope_theta rope_scaling rope_parameters "
    "partial_rotary_factor original_max_position_embeddings",
    {"attention_bias": (False,), "mlp_bias": (False,), "is_encoder_decoder": (False,)},
    defaults={
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10_000.0,
        "max_position_embeddings": 2048,
    },
)  # fmt: skip
_MISTRAL = _LLAMA._replace(
    used=f"{_LLAMA.used} sliding_window",
    required_values={"is_encoder_decoder": (False,)},
    defaults={**_LLAMA.defaults, "sliding_window": 4096, "num_key_value_heads": 8, "max_position_embeddings": 131_072},
)
_MIXTRAL = _MISTRAL._replace(
    used=f"{_MISTRAL.used} num_local_experts num_experts_per_tok",
    required_values={**_MISTRAL.required_values, "norm_topk_prob": (True,)},
    ignored="output_router_logits router_aux_loss_coef router_jitter_noise",
    defaults={
        **_MISTRAL.defaults, "sliding_window": None, "rope_theta": 1e6, "rms_norm_eps": 1e-5,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    },
)  # fmt: skip
_QWEN2 = _LLAMA._replace(
    used=f"{_LLAMA.used} sliding_window use_sliding_window max_window_layers layer_types",
    required_values={"is_encoder_decoder": (False,), "attention_bias": (True,)},
    defaults={**_LLAMA.defaults, "max_position_embeddings": 32_768, "max_window_layers": 28, "num_key_value_heads": 32},
)
_QWEN3 = _QWEN2._replace(
    required_values={"is_encoder_decoder": (False,), "attention_bias": (False,)},
    defaults={**_QWEN2.defaults, "head_dim": 128},
)
_GPT2 = ConfigKeys(
    "vocab_size n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon tie_word_embeddings",
    {
        "scale_attn_by_inverse_layer_idx": (False,), "is_encoder_decoder": (False,),
    },
    "resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj summary_activation summary_proj_to_labels "
    "summary_first_dropout reorder_and_upcast_attn n_ctx",
    {
        "n_positions": 1024, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
    },
)  # fmt: skip
_BLOOM = ConfigKeys(
    "vocab_size hidden_size n_layer n_head seq_length layer_norm_epsilon tie_word_embeddings",
    {"apply_residual_connection_post_layernorm": (False,), "is_encoder_decoder": (False,)},
    "hidden_dropout slow_but_exact offset_alibi skip_bias_add skip_bias_add_qkv attention_softmax_in_fp32 "
    "bias_dropout_fusion masked_softmax_fusion unk_token_id",
    {"seq_length": 2048, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
)
_HEAD = {"lm_head.weight": "model.embed_tokens.weight"}


def _of_llama(name: str, read: Callable[[Json], ModelConfig], write: Any, config_keys: ConfigKeys) -> Family:
    return Family(f"{name}ForCausalLM", read, write, _llama_parts, config_keys, "model.", _HEAD)


LLAMA = _of_llama("Llama", _read_llama, _write_llama, _LLAMA)
MISTRAL = _of_llama("Mistral", _read_mistral, _write_mistral, _MISTRAL)
MIXTRAL = _of_llama("Mixtral", _read_mistral, _write_mistral, _MIXTRAL)
QWEN2 = _of_llama("Qwen2", _read_qwen2, _write_qwen, _QWEN2)
QWEN3 = _of_llama("Qwen3", _read_qwen3, _write_qwen, _QWEN3)
GPT2 = Family(
    "GPT2LMHeadModel", _read_gpt2, _write_gpt2, _gpt2_parts, _GPT2, "transformer.",
    {"lm_head.weight": "transformer.wte.weight"}, r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
)  # fmt: skip
BLOOM = Family(
    "BloomForCausalLM", _read_bloom, _write_bloom, _bloom_parts, _BLOOM, "transformer.",
    {"lm_head.weight": "transformer.word_embeddings.weight"},
)  # fmt: skip
