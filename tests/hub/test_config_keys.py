"""What a config.json says is read, known to have no effect, or refused: beside transformers' own config classes."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from labkit.errors import LabError
from labkit.hub.config_keys import IDLE
from labkit.hub.families import FAMILIES
from labkit.hub.shapes import config_from_hf
from labkit.model.transformer import Transformer
from tests.hub.test_families import BERT, BLOOM, GPT2, LLAMA, SWITCH, T5, WINDOW

BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA),
    "mistral": ("Mistral", LLAMA | {"sliding_window": 5}),
    "mixtral": ("Mixtral", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5}),
    "qwen2": ("Qwen2", LLAMA | WINDOW),
    "qwen3": ("Qwen3", LLAMA | WINDOW),
    "gpt2": ("GPT2", GPT2),
    "bloom": ("Bloom", BLOOM | {"n_head": 4}),
    "bert": ("Bert", BERT),
    "t5": ("T5", T5),
    "switch_transformers": ("SwitchTransformers", SWITCH),
}


def as_saved(family: str) -> dict[str, Any]:
    name, options = BASES[family]
    return getattr(transformers, f"{name}Config")(**options).to_dict()


def shape(family: str, config: dict[str, Any]) -> Any:
    return config_from_hf(FAMILIES[family], config, Path("config.json"))


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 2 if value else 1
        case str():
            return "relu" if value != "relu" else "silu"
        case None:
            return True
        case dict():
            return value | {"rope_theta": 77.0, "rope_type": "default"}
        case list():
            return ["chunked_attention", *value[1:]]


@pytest.mark.parametrize("family", BASES)
def test_every_key_of_transformers_config_is_known(family):
    assert sorted(as_saved(family).keys() - FAMILIES[family].config_keys.all_keys()) == []


@pytest.mark.parametrize("family", BASES)
def test_no_switch_changes_the_model_in_silence(family):
    config, config_keys = as_saved(family), FAMILIES[family].config_keys
    before = shape(family, config)
    silent = []
    for key in config.keys() - IDLE - set(config_keys.ignored.split()):
        try:
            if shape(family, config | {key: changed(config[key])}) == before:
                silent.append(key)
        except LabError:
            continue
    derived = {"max_window_layers"} if "layer_types" in config else set()  # what layer_types says already
    assert set(silent) - derived - {"architectures"} == set()


@pytest.mark.parametrize("family", BASES)
def test_a_key_that_is_missing_is_what_it_is_in_transformers(family):
    config, name = as_saved(family), BASES[family][0]
    for key in FAMILIES[family].config_keys.used.split():
        if key not in config:
            continue
        short = {other: value for other, value in config.items() if other != key}
        ours = shape_or_words(family, short)
        if f"has no '{key}'" not in str(ours):
            filled = getattr(transformers, f"{name}Config").from_dict(dict(short)).to_dict()
            assert ours == shape_or_words(family, filled), key


def shape_or_words(family: str, config: dict[str, Any]) -> Any:
    try:
        return shape(family, config)
    except LabError as error:
        return str(error)


def test_keys_that_nobody_knows_are_refused_by_name():
    with pytest.raises(LabError, match="config.json has residual_scale, scale_emb, which no llama in"):
        shape("llama", as_saved("llama") | {"scale_emb": 12, "residual_scale": 0.1, "nothing_of_it": None})


@pytest.mark.parametrize("family,causal", [("llama", True), ("gpt2", True), ("bert", False), ("bert", True)])
def test_a_key_that_says_what_the_family_does_is_no_hindrance(family, causal):
    assert shape(family, as_saved(family) | {"is_causal": causal}) == shape(family, as_saved(family))


def test_keys_that_only_say_who_wrote_a_file_are_no_hindrance():
    more = {"is_llama_config": True, "transformers.js_config": {"dtype": "q4"}, "_flash_attn_2_enabled": True}
    assert shape("llama", as_saved("llama") | more | {"scale_emb": 0}) == shape("llama", as_saved("llama"))


@pytest.mark.parametrize(
    "family,change,message",
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key', which is not"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention = True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights = False"),
        ("llama", {"is_causal": False}, "is_causal = False, which is not supported, only True"),
        ("qwen2", {"is_causal": None}, "is_causal = None"),
        ("t5", {"is_causal": False}, "is_causal = False"),
        ("mistral", {"causal": False}, "causal = False"),
        ("mixtral", {"norm_topk_prob": False}, "norm_topk_prob = False"),
        ("qwen3", {"max_window_layers": 2, "layer_types": None}, "in some layers only is not supported"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta": 3}},
            "with beta are not supported",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "a share of 0.5 of each head"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "which is meant"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 0.5}}, "factor must be at least 1"),
        ("llama", {"hidden_size": "wide"}, "width must be a whole number, not 'wide'"),
        ("llama", {"num_hidden_layers": None}, "depth must be a whole number, not None"),
        ("llama", {"intermediate_size": 3.5}, "Gated: intermediate_size must be a whole number, not 3.5"),
        ("llama", {"rms_norm_eps": None}, "norm_eps must be a number, not None"),
    ],
)
def test_what_would_be_another_model_is_refused_by_name(family, change, message):
    with pytest.raises(LabError, match=message):
        Transformer(shape(family, as_saved(family) | change))


@pytest.mark.parametrize(
    "config,name",
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"load_in_4bit": True}, "bitsandbytes"),
    ],
)
def test_quantized_weights_are_refused_by_name(config, name):
    with pytest.raises(LabError, match=rf"the weights are quantized \({name}\)"):
        shape("llama", as_saved("llama") | {"quantization_config": config})
