"""The shape of a model in a GGUF file's header, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.hub.shapes import config_to_hf, family_name
from labkit.model.feedforward import Gated
from labkit.model.positions import Rotary, rotary_frequencies
from labkit.model.rotary_scaling import LinearScaling, Llama3Scaling, YaRN
from labkit.model.transformer import ModelConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURES = ("llama", "qwen2", "qwen3")
READ = frozenset(
    "block_count context_length embedding_length feed_forward_length attention.head_count attention.head_count_kv "
    "attention.key_length attention.value_length attention.layer_norm_rms_epsilon attention.sliding_window "
    "rope.freq_base rope.dimension_count rope.scaling.type rope.scaling.factor "
    "rope.scaling.original_context_length".split()
)
IDLE = frozenset("vocab_size tensor_data_layout rope.scaling.finetuned".split())
USUAL: Mapping[str, Any] = {
    "attention.causal": True,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
}
"""Keys that are known at these values alone; any other that is not listed must be 0, false or empty."""


def config_from_gguf(
    fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: Tensor | None, path: Path
) -> ModelConfig:
    """Our config, of a header. shapes: of the tensors. factors [E / 2]: what rope_freqs.weight divides the frequencies
    by. Raises LabError for an architecture or a key that is not known here.
    """
    architecture = fields.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise LabError(
            f"{path} contains a model of the architecture {architecture!r}; supported in GGUF files are "
            f"{', '.join(ARCHITECTURES)}."
        )
    start = f"{architecture}."
    own = {name.removeprefix(start): value for name, value in fields.items() if name.startswith(start)}
    for name, value in own.items():
        if name not in READ | IDLE and (value != USUAL[name] if name in USUAL else value):
            raise LabError(f"{path} has {start}{name} = {value!r}, which is not supported.")
    try:
        config = _shape(own, str(architecture), shapes, factors)
        return config
    except KeyError as error:
        raise LabError(f"{path} has no {start}{error.args[0]}, which is needed to build the model.") from error
    except LabError as error:
        raise LabError(f"{path}: {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise LabError(f"{path} does not describe a model: {error}") from error


def _shape(
    own: Mapping[str, Any], architecture: str, shapes: Mapping[str, tuple[int, ...]], factors: Tensor | None
) -> ModelConfig:
    if "token_embd.weight" not in shapes:
        raise LabError("there is no token embedding (token_embd.weight): the model is not complete.")
    heads, width, context = own["attention.head_count"], own["embedding_length"], own["context_length"]
    head_dim = own.get("attention.key_length", width // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if own.get(name, head_dim) != head_dim:
            raise LabError(f"{name} = {own[name]} differs from head_dim, {head_dim}: not supported.")
    if 0 < (own.get("attention.sliding_window") or 0) < context:
        raise LabError(
            f"a window of {own['attention.sliding_window']} tokens (attention.sliding_window) below the context of "
            f"{context} is not supported in GGUF files; import the model in transformers' format."
        )
    return ModelConfig(
        vocabulary=shapes["token_embd.weight"][0],
        context=context,
        width=width,
        depth=own["block_count"],
        heads=heads,
        key_value_heads=own.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        feed_forward=Gated(own["feed_forward_length"]),
        position=_rotary(own, factors),
        qk_norm=architecture == "qwen3",
        tied="output.weight" not in shapes,
        norm_eps=own["attention.layer_norm_rms_epsilon"],
        qkv_bias=architecture == "qwen2",
    )


def _rotary(own: Mapping[str, Any], factors: Tensor | None) -> Rotary:
    scaled = own.get("rope.scaling.factor", 0) not in (0, 1)
    usual = "linear" if scaled else "none"  # llama.cpp's own, of a file that does not say the type
    base, kind = float(own.get("rope.freq_base", 10_000.0)), own.get("rope.scaling.type", usual)
    if factors is not None:
        if kind != "none":
            raise LabError(f"rotary positions are scaled twice, as {kind!r} and by rope_freqs.weight: not supported.")
        original = own.get("rope.scaling.original_context_length") or Llama3Scaling.original_max_position_embeddings
        return Rotary(base, _llama3(factors, base, original))
    if kind == "none":
        return Rotary(base)
    if kind == "linear":
        return Rotary(base, LinearScaling(float(own["rope.scaling.factor"])))
    if kind == "yarn":
        original = own.get("rope.scaling.original_context_length") or own["context_length"]
        return Rotary(base, YaRN(float(own["rope.scaling.factor"]), original))
    raise LabError(f"the rotary scaling {kind!r} is not supported; supported are none, linear and yarn.")


def _llama3(factors: Tensor, base: float, original: int) -> Llama3Scaling:
    """The scaling of Llama 3.1 and 3.2 that gives these factors [E / 2]. Raises LabError where there is none."""
    scaling = Llama3Scaling(factor=round(float(factors.max()), 4), original_max_position_embeddings=original)
    if factors.dim() != 1 or not torch.allclose(_factors(scaling, base, 2 * len(factors)), factors, rtol=1e-4):
        raise LabError("rope_freqs.weight scales rotary positions differently from Llama 3.1: not supported.")
    return scaling


def _factors(scaling: Llama3Scaling, base: float, head_dim: int) -> Tensor:
    usual = rotary_frequencies(base, head_dim)
    return usual / scaling.scale_frequencies(usual, base).frequencies


def rope_factors(config: ModelConfig) -> Tensor | None:
    """The tensor rope_freqs.weight of this model, [E / 2]; None without Llama 3's scaling. Raises LabError for a
    scaling that cannot be read back from it.
    """
    assert isinstance(config.position, Rotary)
    scaling, base = config.position.scaling, config.position.base
    if not isinstance(scaling, Llama3Scaling):
        return None
    factors = _factors(scaling, base, config.attention_config.head_dim)
    if _llama3(factors, base, scaling.original_max_position_embeddings) != scaling:
        raise LabError("A GGUF file cannot hold all settings of this RoPE scaling; export the model for transformers.")
    return factors


def gguf_architecture_name(config: ModelConfig) -> str:
    """llama.cpp's name for the shape. Raises LabError where it has none, or would work it out otherwise."""
    if not (isinstance(config.position, Rotary) and isinstance(config.feed_forward, Gated) and config.norm == "rms"):
        raise LabError(
            "Only the architectures of Llama, Qwen2 and Qwen3 (RoPE, RMSNorm, gated feed-forward) can be exported as "
            "GGUF."
        )
    name = family_name(config)
    config_to_hf(name, config)
    if name not in ARCHITECTURES or config.feed_forward.activation != "silu" or 0 < config.window < config.context:
        raise LabError(
            "llama.cpp supports no attention window and only silu in this architecture; export the model for "
            "transformers."
        )
    if name == "qwen2" and config.heads * config.attention_config.head_dim != config.width:
        raise LabError("llama.cpp needs heads × head_dim = width in a Qwen2; export the model for transformers.")
    scaling = config.position.scaling
    usual = isinstance(scaling, YaRN) and scaling == YaRN(scaling.factor, scaling.original_max_position_embeddings)
    if scaling is not None and not isinstance(scaling, LinearScaling | Llama3Scaling) and not usual:
        raise LabError("A GGUF file cannot hold these YaRN settings; export the model for transformers.")
    return name


def write_gguf_config(writer: GGUFWriter, c: ModelConfig) -> None:
    """Write the shape into a file's header."""
    assert isinstance(c.position, Rotary)
    writer.add_vocab_size(c.vocabulary)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.depth)
    writer.add_feed_forward_length(c.feed_forward.intermediate_size)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.attention_config.key_value_heads)
    writer.add_key_length(c.attention_config.head_dim)
    writer.add_value_length(c.attention_config.head_dim)
    writer.add_rope_dimension_count(c.attention_config.head_dim)
    writer.add_rope_freq_base(c.position.base)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    _describe_scaling(writer, c.position.scaling)


def _describe_scaling(writer: GGUFWriter, scaling: LinearScaling | Llama3Scaling | YaRN | None) -> None:
    from gguf import RopeScalingType

    if isinstance(scaling, LinearScaling | YaRN):
        kind = RopeScalingType.LINEAR if isinstance(scaling, LinearScaling) else RopeScalingType.YARN
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(scaling.factor)
    if isinstance(scaling, Llama3Scaling | YaRN):
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_position_embeddings)
