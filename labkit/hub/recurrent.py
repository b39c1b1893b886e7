"""RWKV-7, in the form in which its checkpoints are published as safetensors.

The names are those of flash-linear-attention (PyPI, fla/models/rwkv7); the weights are the authors' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labkit.errors import LabError
from labkit.hub.config_keys import ConfigKeys
from labkit.hub.parts import Family, Json, TensorMapping, activation_from_hf, activation_to_hf, weight_and_bias_mappings
from labkit.model.feedforward import Plain
from labkit.model.positions import NoPosition
from labkit.model.rwkv import RWKV
from labkit.model.transformer import ModelConfig

RANKS = ("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim")


def _read(config: Json) -> ModelConfig:
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    if set(config.get("value_dim") or [width]) != {width}:
        raise LabError("This RWKV-7 has a value_dim that differs from its width, which is not supported.")
    heads = width // (config["head_dim"] or 64)
    decay, rate, value, gate = (config[name] for name in RANKS)
    return ModelConfig(
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        width=width,
        depth=depth,
        heads=heads,
        key_value_heads=heads,
        feed_forward=Plain(config.get("intermediate_size") or 4 * width, activation_from_hf(config["hidden_act"])),
        mixer=RWKV((decay, rate, value, gate)),
        position=NoPosition(),
        qk_norm=False,
        tied=config.get("tie_word_embeddings", False),
        norm="layer",
        norm_eps=config["norm_eps"],
        embedding_norm=True,
        token_shift=True,
    )


def _write(c: ModelConfig) -> dict[str, Any]:
    assert isinstance(c.mixer, RWKV)
    return {
        "vocab_size": c.vocabulary,
        "max_position_embeddings": c.context,
        "hidden_size": c.width,
        "intermediate_size": c.feed_forward.intermediate_size,
        "num_hidden_layers": c.depth,
        "num_heads": c.heads,
        "head_dim": c.attention_config.head_dim,
        "hidden_act": activation_to_hf(c),
        "norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied,
        **dict(zip(RANKS, c.mixer.ranks_at_width(c.width), strict=True)),
    }


def _parts(c: ModelConfig) -> Iterator[TensorMapping]:
    yield TensorMapping("embedding.weight", ("model.embeddings.weight",))
    yield from _norm("embedding_norm", "model.layers.0.pre_norm")
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield from _norm(f"{ours}.mixer_norm", f"{theirs}.attn_norm")
        yield from _mixer_parts(c, f"{ours}.mixer", f"{theirs}.attn", first=i == 0)
        yield from _norm(f"{ours}.feed_forward_norm", f"{theirs}.ffn_norm")
        yield TensorMapping(f"{ours}.shift.mu", (f"{theirs}.ffn.x_k",))
        yield from weight_and_bias_mappings(f"{ours}.feed_forward.up", f"{theirs}.ffn.key", c)
        yield from weight_and_bias_mappings(f"{ours}.feed_forward.down", f"{theirs}.ffn.value", c)
    yield from _norm("norm", "model.norm")
    if not c.tied:
        yield TensorMapping("head.weight", ("lm_head.weight",))


def _mixer_parts(c: ModelConfig, ours: str, theirs: str, first: bool) -> Iterator[TensorMapping]:
    for part in "rwkvag":
        yield TensorMapping(
            f"{ours}.shifts.{part}.mu", (f"{theirs}.x_{part}",), "flattened", theirs_shape=(1, 1, c.width)
        )
    for name, letter in (("receptance", "r"), ("key", "k"), ("value", "v"), ("out", "o")):
        yield TensorMapping(f"{ours}.{name}.weight", (f"{theirs}.{letter}_proj.weight",))
    for name, letter in (("decay", "w"), ("rate", "a"), ("gate", "g"), *([] if first else [("mix_values", "v")])):
        yield TensorMapping(f"{ours}.{name}.down.weight", (f"{theirs}.{letter}_lora.lora.0.weight",))
        yield TensorMapping(f"{ours}.{name}.up.weight", (f"{theirs}.{letter}_lora.lora.2.weight",))
        if name != "gate":
            yield TensorMapping(f"{ours}.{name}.start", (f"{theirs}.{letter}_lora.lora.2.bias",))
    yield TensorMapping(f"{ours}.xi", (f"{theirs}.k_k",))
    yield TensorMapping(f"{ours}.alpha", (f"{theirs}.k_a",))
    yield TensorMapping(
        f"{ours}.rho", (f"{theirs}.r_k",), "flattened", theirs_shape=(c.heads, c.attention_config.head_dim)
    )
    yield from _norm(f"{ours}.norm", f"{theirs}.g_norm")


def _norm(ours: str, theirs: str) -> Iterator[TensorMapping]:
    for kind in ("weight", "bias"):
        yield TensorMapping(f"{ours}.{kind}", (f"{theirs}.{kind}",))


_SWITCHES = ConfigKeys(
    "vocab_size max_position_embeddings hidden_size num_hidden_layers head_dim intermediate_size hidden_act norm_eps "
    f"tie_word_embeddings value_dim num_heads hidden_ratio {' '.join(RANKS)}",
    {
        "attn": (None,), "norm_first": (True,), "norm_bias": (True,), "is_encoder_decoder": (False,),
        "attn_mode": ("chunk", "fused_recurrent"),
    },
    "fuse_norm fuse_cross_entropy fuse_linear_cross_entropy use_l2warp auto_map",
    {"head_dim": 64, "max_position_embeddings": 2048, "hidden_act": "sqrelu", "norm_eps": 1e-5},
)  # fmt: skip
RWKV7 = Family("RWKV7ForCausalLM", _read, _write, _parts, _SWITCHES, "model.")
