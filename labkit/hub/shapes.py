"""Which shape of ours a published config.json means, and which family has a shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.configs import to_dict
from labkit.errors import LabError
from labkit.hub.families import FAMILIES
from labkit.hub.parts import Family
from labkit.model.feedforward import Gated, MoE
from labkit.model.positions import ALiBi, Learned, NoPosition, Rotary, T5Buckets
from labkit.model.rwkv import RWKV
from labkit.model.transformer import ModelConfig


def family_name(config: ModelConfig) -> str:
    """The family that has this shape. Raises LabError when none has."""
    match config.position:
        case Rotary() if _like_llama(config):
            return _family_of_llama(config)
        case Learned() if config.norm == "layer" and config.bias:
            return "gpt2" if config.causal else "bert"
        case ALiBi() if config.norm == "layer" and config.bias and config.embedding_norm:
            return "bloom"
        case T5Buckets() if config.encoder_depth:
            return "switch_transformers" if isinstance(config.feed_forward, MoE) else "t5"
        case NoPosition() if isinstance(config.mixer, RWKV) and config.embedding_norm and config.token_shift:
            return "rwkv7"
    raise LabError(
        f"No architecture of transformers has this config: {type(config.position).__name__} positions, {config.norm} "
        f"norm, {config.norm_placement}-normalised, {type(config.feed_forward).__name__} feed-forward. Supported: "
        f"{', '.join(FAMILIES)}."
    )


def _like_llama(config: ModelConfig) -> bool:
    layer = config.feed_forward.expert if isinstance(config.feed_forward, MoE) else config.feed_forward
    pre_norm = config.norm == "rms" and config.norm_placement == "pre"
    return pre_norm and config.causal and not config.bias and isinstance(layer, Gated)


def _family_of_llama(config: ModelConfig) -> str:
    """Of the families that differ in little: experts, a norm of queries and keys, biases, a window."""
    match isinstance(config.feed_forward, MoE), config.qk_norm, config.qkv_bias, config.window > 0:
        case True, False, False, _:
            return "mixtral"
        case False, True, False, _:
            return "qwen3"
        case False, False, True, _:
            return "qwen2"
        case False, False, False, True:
            return "mistral"
        case False, False, False, False:
            return "llama"
    raise LabError(
        "No architecture of transformers has this config: each has at most one of experts, qk_norm and qkv_bias."
    )


def config_to_hf(name: str, config: ModelConfig) -> dict[str, Any]:
    """config.json. Raises LabError where a model that is made of it would not be this one."""
    family = FAMILIES[name]
    described = {"architectures": [family.architecture], "model_type": name, "dtype": "float32"} | family.write_config(
        config
    )
    again, wanted = (to_dict(_same(one)) for one in (config_from_hf(family, described, Path("config.json")), config))
    lost = [key for key in wanted if again[key] != wanted[key]]
    if lost:
        said = ", ".join(f"{key} = {wanted[key]}" for key in lost)
        raise LabError(f"No architecture of transformers has this config: a {name} cannot have {said}.")
    return described


def _same(config: ModelConfig) -> ModelConfig:
    """The config with what does not change the model's numbers at a value of its own, to compare two."""
    moe, mixer = config.feed_forward, config.mixer
    if isinstance(moe, MoE):
        unlimited = moe.capacity_factor is None or moe.capacity_factor >= moe.num_experts
        moe = dataclasses.replace(moe, aux_loss_coef=0.0, capacity_factor=None if unlimited else moe.capacity_factor)
    if isinstance(mixer, RWKV):
        mixer = RWKV(mixer.ranks_at_width(config.width))
    window = 0 if config.window >= config.context else config.window
    return dataclasses.replace(
        config,
        previous_token_init=0,
        head_dim=config.attention_config.head_dim,
        key_value_heads=config.attention_config.key_value_heads,
        feed_forward=moe,
        mixer=mixer,
        window=window,
    )


def family_from_config(config: Mapping[str, Any], folder: Path) -> Family:
    """The family of a config.json. Raises LabError for one that is not known."""
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise LabError(f"{folder} has the model type {name!r}; supported are {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def config_from_hf(family: Family, config: Mapping[str, Any], where: Path) -> ModelConfig:
    """Our config, of theirs. Raises LabError for keys that are missing, of another kind, or at an unknown value."""
    family.config_keys.check(config, str(where))
    try:
        return family.read_config({**family.config_keys.defaults, **config})
    except KeyError as error:
        raise LabError(f"{where} has no {error}, which a {config['model_type']} needs.") from error
    except LabError as error:
        raise LabError(f"{where}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise LabError(f"{where} does not describe a {config['model_type']}: {error}") from error
