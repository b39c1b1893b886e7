"""Families that write on from what came before: Llama, Qwen3, Mixtral, GPT-2 and BLOOM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labkit.errors import LabError
from labkit.hub.parts import Family, Json, Part, activation, both, qkv_rows, their_activation
from labkit.model.feedforward import Gated, MoE, Plain
from labkit.model.positions import ALiBi, Learned, Linear, Llama3, Rotary, YaRN
from labkit.model.transformer import ModelConfig

# Llama, Qwen3, Mixtral


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
    dense = Gated(config["intermediate_size"], activation(config.get("hidden_act", "silu")))
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
        "hidden_act": their_activation(c),
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
        feed_forward=Plain(config.get("n_inner") or 4 * width, activation(config["activation_function"])),
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
        "activation_function": their_activation(c),
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


LLAMA = Family("LlamaForCausalLM", _read_llama, _write_llama, _llama_parts)
QWEN3 = Family("Qwen3ForCausalLM", lambda config: _read_llama(config, qk_norm=True), _write_llama, _llama_parts)
MIXTRAL = Family("MixtralForCausalLM", _read_llama, _write_llama, _llama_parts)
GPT2 = Family("GPT2LMHeadModel", _read_gpt2, _write_gpt2, _gpt2_parts)
BLOOM = Family("BloomForCausalLM", _read_bloom, _write_bloom, _bloom_parts)
