"""Checkpoints as people have them: what is left over, missing, cut off, quantized, or no whole model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from labkit.errors import LabError
from labkit.hub import from_pretrained
from labkit.model.transformer import Transformer
from tests.hub.test_families import our_logits, refused, their_logits, theirs, tokens

EVERY = torch.ones(3, 13, dtype=torch.bool)
Tensors = dict[str, torch.Tensor]


def published(case: str, folder: Path, change: Callable[[Tensors], Tensors] = lambda tensors: tensors) -> Any:
    """A checkpoint in the folder whose tensors were changed; the model that it was."""
    model = theirs(case)
    model.save_pretrained(folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return model


def set_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def renamed(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


def with_buffers(tensors: Tensors) -> Tensors:
    """GPT-2 as it was published: names of the model without its head, and causal masks among the tensors."""
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64) for i in range(3)}
    return short | masks | {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(3)}


HARMLESS: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "compiled": ("llama", renamed(lambda name: f"_orig_mod.{name}")),
    "compiled layer by layer": ("llama", renamed(lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."))),
    "data parallel": ("llama", renamed(lambda name: f"module.{name}")),
    "frequencies": ("llama", lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    "without prefix": ("llama-tied", renamed(lambda name: name.removeprefix("model."))),
    "head beside the embedding": (
        "llama-tied",
        lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()},
    ),
    "head for the embedding": (
        "llama-tied",
        renamed(lambda name: "lm_head.weight" if name == "model.embed_tokens.weight" else name),
    ),
    "gpt2 as published": ("gpt2", with_buffers),
    "bert of tensorflow": (
        "bert",
        renamed(lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")),
    ),
    "bert with its pooler": (
        "bert",
        lambda t: t | {"bert.pooler.dense.weight": torch.ones(2), "bert.embeddings.position_ids": torch.arange(9)},
    ),
    "embedding of each stack": ("t5", lambda t: t | {"encoder.embed_tokens.weight": t["shared.weight"].clone()}),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_says_nothing_new_is_passed_over(kind, tmp_path):
    case, change = HARMLESS[kind]
    model = published(case, tmp_path, change)
    expected = their_logits(model, tokens(), EVERY)
    torch.testing.assert_close(our_logits(from_pretrained(tmp_path), tokens(), EVERY), expected, atol=1e-4, rtol=0)


REFUSED: dict[str, tuple[str, Callable[[Tensors], Tensors], str]] = {
    "a bias": (
        "llama",
        lambda t: t | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
        "1 tensors that the model of its config.json does not have; the first is model.layers.0.self_attn.q_proj.bias",
    ),
    "another head": (
        "llama-tied",
        lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"] + 1},
        "says that lm_head.weight is model.embed_tokens.weight",
    ),
    "no head": (
        "llama",
        lambda t: {name: x for name, x in t.items() if name != "lm_head.weight"},
        "has no head: lm_head.weight is not in its files",
    ),
    "one twice": (
        "llama",
        lambda t: t | {"_orig_mod.model.norm.weight": torch.ones(32)},
        "model.norm.weight twice",
    ),
    "float8": (
        "llama",
        lambda t: {n: x.to(torch.float8_e4m3fn) if "mlp" in n else x for n, x in t.items()},
        "9 tensors of F8_E4M3; the first is model.layers.0.mlp.down_proj.weight: quantized",
    ),
    "int8 with scales": (
        "llama",
        lambda t: {n: x.to(torch.int8) if "down_proj" in n else x for n, x in t.items()} | {"a.scale": torch.ones(1)},
        "3 tensors of I8",
    ),
    "packed": (
        "llama",
        lambda t: t | {"model.layers.0.mlp.up_proj.qweight": torch.ones(4, 4, dtype=torch.int32)},
        "of I32; the first is model.layers.0.mlp.up_proj.qweight",
    ),
    "NaN": (
        "llama",
        lambda t: t | {"model.norm.weight": torch.full((32,), torch.nan)},
        "32 of 32 numbers in model.norm.weight are NaN or infinite",
    ),
    "infinity in half precision": (
        "llama",
        lambda t: {n: x.half() * (1 + 1e9 * (n == "lm_head.weight")) for n, x in t.items()},
        "numbers in lm_head.weight are NaN or infinite",
    ),
    "an attention's shape": (
        "llama",
        lambda t: t | {"model.layers.1.self_attn.k_proj.weight": torch.ones(16)},
        "do not belong together",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_lost_is_refused_by_name(kind, tmp_path):
    case, change, message = REFUSED[kind]
    published(case, tmp_path, change)
    assert message in refused(tmp_path)


def test_a_checkpoint_that_is_not_whole(tmp_path):
    theirs("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    original = json.loads(index.read_text())
    index.rename(tmp_path / "away")
    assert "but no model.safetensors.index.json, which lists their tensors: download it too" in refused(tmp_path)
    (tmp_path / "away").rename(index)
    shard = tmp_path / sorted(original["weight_map"].values())[-1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-40])
    assert f"{shard} cannot be read, or is truncated" in refused(tmp_path)
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12\n")
    assert f"{shard} is a Git LFS pointer, not the file itself" in refused(tmp_path)
    shard.unlink()
    assert f"names; the first is {shard.name}: the checkpoint is incomplete" in refused(tmp_path)
    first = tmp_path / sorted(original["weight_map"].values())[0]
    shard.write_bytes(first.read_bytes())
    assert f"twice, in {first.name} and {shard.name}" in refused(tmp_path)
    for map_ in ({"model.norm.weight": "../model.safetensors"}, {"a": "/etc/passwd"}, {"a": "weights.bin"}):
        index.write_text(json.dumps({"weight_map": map_}))
        assert "which is not a safetensors file in the same folder" in refused(tmp_path)
    for odd in ("[]", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}'):
        index.write_text(odd)
        assert "not a JSON object" in refused(tmp_path) or "no weight_map" in refused(tmp_path)


def test_an_adapter_is_no_whole_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Some/Base", "r": 8}))
    save_file({"base_model.model.lora_A.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    assert "an adapter (LoRA) of Some/Base, not a whole model. Merge the two first" in refused(tmp_path)


def test_a_config_that_is_no_object(tmp_path):
    published("llama", tmp_path)
    for text in ("[1, 2]", '"llama"', "null"):
        (tmp_path / "config.json").write_text(text)
        assert "is not a JSON object" in refused(tmp_path)


def test_absurd_counts_are_said_at_once(tmp_path):
    published("llama", tmp_path)
    for key in ("num_hidden_layers", "max_position_embeddings", "hidden_size", "vocab_size", "intermediate_size"):
        set_config(tmp_path, num_hidden_layers=3, max_position_embeddings=64, hidden_size=32, vocab_size=61)
        set_config(tmp_path, **{key: 10**12})
        assert "must be at least 1 and at most" in refused(tmp_path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.floats(allow_nan=True) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=3,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_config_gives_a_model_or_words(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.is_dir():
        published("qwen3-window", folder)
        (folder / "config.json").rename(folder / "kept.json")
    config = json.loads((folder / "kept.json").read_text())
    key = data.draw(st.sampled_from(sorted(config)))
    (folder / "config.json").write_text(json.dumps(config | {key: data.draw(JUNK)}))
    try:
        assert isinstance(from_pretrained(folder), Transformer)
    except LabError as error:
        assert str(error)


def test_a_folder_without_a_checkpoint_is_told_what_was_looked_for_and_what_lies_there(tmp_path):
    with pytest.raises(
        LabError, match="looked for config.json with model.safetensors or .*, or a .gguf file; there is"
    ):
        from_pretrained(tmp_path)
    for name in ("a.txt", "b.bin", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    with pytest.raises(LabError, match=r"there are a.txt, b.bin, deeper/\.$"):
        from_pretrained(tmp_path)
    (tmp_path / "recipe.json").touch()
    with pytest.raises(LabError, match="It is a run of labkit, which needs no import"):
        from_pretrained(tmp_path)
