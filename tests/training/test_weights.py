"""Weights in one file or in shards: what was written comes back, and a stop at any moment leaves the old or the new."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from labkit.errors import LabError
from labkit.training import weights
from labkit.training.weights import (
    INDEX,
    WEIGHTS,
    check_index_is_there,
    hash_weights,
    link_weights,
    load_weights,
    weight_files,
    weights_or_index_file,
    write_tensors,
    write_weights,
)
from tests.faults import Killed, faults, tree
from tests.tiny import weights_hash

SHARD = 20_000


@pytest.fixture
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(weights, "MAX_SHARD_BYTES", SHARD)


def layers(seed: int, widths: tuple[int, ...] = (60, 50, 40, 30, 20)) -> nn.Sequential:
    """30 kB in eight tensors, of three shards' size."""
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)))


def loaded(folder: Path) -> str:
    model = layers(99)
    load_weights(folder, model)
    return weights_hash(model)


def test_one_file_is_what_safetensors_makes_of_the_model(tmp_path):
    model = layers(0)
    write_weights(tmp_path, model)
    save_model(model, str(tmp_path / "expected"))
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "expected").read_bytes()
    assert weight_files(tmp_path) == [weights_or_index_file(tmp_path)] == [tmp_path / WEIGHTS]
    assert loaded(tmp_path) == weights_hash(model)


@pytest.mark.usefixtures("small_shards")
def test_shards_without_their_index_are_refused_in_words(tmp_path):
    write_weights(tmp_path, layers(0))
    (tmp_path / INDEX).unlink()
    for read in (weight_files, hash_weights, loaded, check_index_is_there):
        with pytest.raises(
            LabError, match=r"has 2 files of sharded weights, model-00001-.*Copy it from where they came"
        ):
            read(tmp_path)


def test_weights_in_both_forms_are_said_to_be_and_one_is_read(tmp_path, monkeypatch):
    """As after a download of both; a replacement, which has both for a moment, is none."""
    write_weights(tmp_path, layers(1))
    monkeypatch.setattr(weights, "MAX_SHARD_BYTES", SHARD)
    write_weights(tmp_path / "shards", layers(0))
    for file in (tmp_path / "shards").iterdir():
        file.rename(tmp_path / file.name)
    with pytest.warns(UserWarning, match=r"holds its weights twice: model.safetensors is read, and .*index.json with"):
        assert loaded(tmp_path) == weights_hash(layers(1))


@pytest.mark.usefixtures("small_shards")
def test_large_weights_are_in_shards_with_an_index_and_come_back_bit_for_bit(tmp_path):
    model = layers(0)
    write_weights(tmp_path, model)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in model.parameters()) > SHARD
    for file in weight_files(tmp_path):
        held = load_file(file)
        assert {index["weight_map"][name] for name in held} == {file.name}
        assert sum(4 * tensor.numel() for tensor in held.values()) <= SHARD
    assert index["weight_map"].keys() == model.state_dict().keys()
    assert loaded(tmp_path) == weights_hash(model) and weights_or_index_file(tmp_path) == tmp_path / INDEX


@pytest.mark.usefixtures("small_shards")
def test_shared_tensors_come_back_shared_from_shards(tmp_path):
    def tied() -> nn.Sequential:
        model = layers(0, (60, 60, 60, 60))
        model[2].weight = model[0].weight
        return model

    first, second = tied(), tied()
    nn.init.normal_(first[0].get_parameter("weight"))
    write_weights(tmp_path, first)
    assert len(weight_files(tmp_path)) == 2
    load_weights(tmp_path, second)
    assert weights_hash(first) == weights_hash(second) and second[2].weight is second[0].weight


def test_tensors_are_read_shard_by_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAX_SHARD_BYTES", 400)
    like = {name: torch.empty(50, device="meta") for name in "abcd"}
    seen: list[Any] = []

    def read(name: str) -> Tensor:
        seen.append((name, len(list(tmp_path.glob("model-*")))))
        return torch.full((50,), float(ord(name)))

    write_tensors(tmp_path, like, read, {"format": "pt"})
    assert seen == [("a", 0), ("b", 0), ("c", 1), ("d", 1)]
    assert load_file(weight_files(tmp_path)[1])["d"].tolist() == [ord("d")] * 50


def write(folder: Path, model: nn.Module, sharded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_SHARD_BYTES", SHARD if sharded else 10**9)
    write_weights(folder, model)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["error", "kill"])
def test_stopped_anywhere_the_old_or_the_new_weights_are_read(tmp_path, monkeypatch, before, after, kind):
    old, new = layers(0), layers(1)
    write(tmp_path / "count", old, before, monkeypatch)
    with faults() as counted:
        write(tmp_path / "count", new, after, monkeypatch)
    whole = len(tree(tmp_path / "count"))
    ended = set()
    for at in range(1, counted.count + 1):
        folder = tmp_path / str(at)
        write(folder, old, before, monkeypatch)
        with faults(at, kind), suppress(Killed, LabError):
            write(folder, new, after, monkeypatch)
        ended.add(loaded(folder))
        write(folder, new, after, monkeypatch)
        assert loaded(folder) == weights_hash(new) and len(tree(folder)) == whole, at
    assert weights_hash(old) in ended and ended <= {weights_hash(old), weights_hash(new)}


@pytest.mark.usefixtures("small_shards")
def test_an_error_between_two_shards_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    write_weights(tmp_path, layers(0))
    before, writes = tree(tmp_path), []

    def full(tensors: dict[str, Tensor], *rest: Any, **more: Any) -> None:
        writes.append(tensors.keys())
        if len(writes) == 2:
            raise OSError(28, "No space left on device")
        save_file(tensors, *rest, **more)

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(LabError, match="The disk is full"):
        write_weights(tmp_path, layers(1))
    assert len(writes) == 2 and tree(tmp_path) == before


@pytest.mark.usefixtures("small_shards")
def test_shards_that_are_not_the_model_are_refused_by_name(tmp_path):
    write_weights(tmp_path, layers(0))
    index, (first, last) = json.loads((tmp_path / INDEX).read_text()), weight_files(tmp_path)
    whole, tensors = last.read_bytes(), load_file(last)

    def refused() -> str:
        with pytest.raises(LabError) as error:
            loaded(tmp_path)
        last.write_bytes(whole)
        (tmp_path / INDEX).write_text(json.dumps(index))
        return str(error.value)

    last.write_bytes(whole[:-9])
    assert f"{last} is damaged, or of a different model than config.json describes" in refused()
    last.unlink()
    assert f"{tmp_path} lacks 1 of the 2 files that its {INDEX} names; the first is {last.name}" in refused()
    name = next(iter(tensors))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, last)
    assert (
        f"{tmp_path / INDEX} is damaged, or of a different model than config.json describes: {name} is missing"
        in refused()
    )
    save_file(tensors | {"9.weight": torch.ones(2)}, last)
    assert f"{last} is damaged, or of a different model than config.json describes: it has no 9.weight" in refused()
    again = next(iter(load_file(first)))
    save_file(tensors | {again: load_file(first)[again]}, last)
    assert f"another file contains {again} too" in refused()
    save_file(tensors | {name: tensors[name][:1]}, last)
    assert f"{last} is damaged" in refused()
    for names, words in (({"a": "../x.safetensors"}, "'../x.safetensors'"), ({"a": "b.bin"}, "'b.bin'")):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": names}))
        assert f"{tmp_path / INDEX} names {words}, which is not a safetensors file in the same folder" in refused()
    for text in ("{", "[]", "{}", '{"weight_map": {}}'):
        (tmp_path / INDEX).write_text(text)
        assert str(tmp_path / INDEX) in refused()


def test_a_damaged_index_loses_nothing_until_new_weights_are_whole(tmp_path, monkeypatch):
    write(tmp_path, layers(0), True, monkeypatch)
    (tmp_path / INDEX).write_text("{")
    kept = {name for name in tree(tmp_path) if name.startswith("model-")}
    with monkeypatch.context() as broken:
        broken.setattr(weights, "write_json", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_weights(tmp_path, layers(1))
    assert kept < tree(tmp_path).keys()
    write(tmp_path, layers(1), True, monkeypatch)
    assert loaded(tmp_path) == weights_hash(layers(1)) and kept < tree(tmp_path).keys()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("there", ["half a download", "beside one file", "beside shards"])
def test_what_no_index_names_is_never_removed(tmp_path, monkeypatch, sharded, there):
    if there != "half a download":
        write(tmp_path, layers(0), there == "beside shards", monkeypatch)
    stray = [f"model-0000{number}-of-00009.safetensors" for number in (1, 2)]
    for name in (*stray, "model-00001-of-00002.safetensors", "model-1-00002-of-00002.safetensors"):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text("a download")
    kept = {name: found for name, found in tree(tmp_path).items() if name.endswith(".safetensors")}
    kept = {name: found for name, found in kept.items() if (tmp_path / name).read_bytes() == b"a download"}
    before = tree(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(weights, "save_file", lambda *given, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(tmp_path, layers(1), sharded, broken)
    assert tree(tmp_path) == before
    for seed in (1, 2, 3):
        write(tmp_path, layers(seed), sharded, monkeypatch)
        assert loaded(tmp_path) == weights_hash(layers(seed))
    found = tree(tmp_path)
    assert len(kept) >= 3 and found.items() >= kept.items()
    assert found.keys() == {
        ".",
        *kept,
        weights_or_index_file(tmp_path).name,
        *(file.name for file in weight_files(tmp_path)),
    }


@pytest.mark.parametrize(
    ("before", "when"),
    [(True, "read_checkpoint_json"), (True, "weight_files"), (True, "load_file"), (False, "weight_files")],
)
@pytest.mark.parametrize("after", [False, True])
def test_weights_that_are_replaced_while_they_are_read(tmp_path, monkeypatch, before, when, after):
    write(tmp_path, layers(0), before, monkeypatch)
    real = getattr(weights, when)
    replaced: list[Path] = []

    def read(path: Path) -> Any:
        found = real(path)
        if not replaced:
            replaced.append(path)
            write(tmp_path, layers(1), after, monkeypatch)
        return found

    monkeypatch.setattr(weights, when, read)
    assert loaded(tmp_path) == weights_hash(layers(1)) and replaced


def test_the_hash_of_weights_that_are_replaced_meanwhile_is_of_the_new(tmp_path, monkeypatch):
    for folder, seed in ((tmp_path, 0), (tmp_path / "new", 1)):
        write(folder, layers(seed), True, monkeypatch)
    replaced: list[Path] = []

    def listed(folder: Path) -> list[Path]:
        found = weight_files(folder)
        if not replaced:
            replaced.extend(found)
            write(folder, layers(1), True, monkeypatch)
        return found

    monkeypatch.setattr(weights, "weight_files", listed)
    assert hash_weights(tmp_path) == hash_weights(tmp_path / "new") and not replaced[0].exists()


def test_the_hash_is_of_the_weights(tmp_path, monkeypatch):
    found = set()
    for seed in (0, 1):
        for sharded in (False, True):
            write(tmp_path / f"{seed}", layers(seed), sharded, monkeypatch)
            write(tmp_path / "again", layers(seed), sharded, monkeypatch)
            assert hash_weights(tmp_path / "again") == hash_weights(tmp_path / f"{seed}")
            found.add(hash_weights(tmp_path / "again"))
    assert len(found) == 4


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("links", [False, True])
def test_linked_weights_are_the_same_and_change_alone(tmp_path, monkeypatch, sharded, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *given: os.stat("/nowhere"))
    write(tmp_path / "a", layers(0), sharded, monkeypatch)
    link_weights(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert {path.stat().st_nlink for path in (tmp_path / "b").iterdir()} == {2 if links else 1}
    write(tmp_path / "b", layers(1), sharded, monkeypatch)
    assert loaded(tmp_path / "a") == weights_hash(layers(0)) != loaded(tmp_path / "b")


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_behind_a_link_stay_there_and_change_alone(tmp_path, monkeypatch, sharded):
    write(tmp_path / "disk", layers(0), sharded, monkeypatch)
    (tmp_path / "a").mkdir()
    for file in (tmp_path / "disk").iterdir():
        (tmp_path / "a" / file.name).symlink_to(Path("..") / "disk" / file.name)
    link_weights(tmp_path / "a", tmp_path / "b")
    assert not any(file.is_symlink() for file in (tmp_path / "b").iterdir())
    write(tmp_path / "b", layers(1), sharded, monkeypatch)
    assert loaded(tmp_path / "disk") == loaded(tmp_path / "a") == weights_hash(layers(0))
    write(tmp_path / "a", layers(2), sharded, monkeypatch)
    assert weights_or_index_file(tmp_path / "a").is_symlink()
    assert loaded(tmp_path / "b") == weights_hash(layers(1)) and loaded(tmp_path / "a") == weights_hash(layers(2))


@pytest.mark.parametrize("use", [loaded, hash_weights])
def test_a_pointer_of_git_lfs_in_place_of_a_shard_is_named(tmp_path, monkeypatch, use):
    write(tmp_path, layers(0), True, monkeypatch)
    shard = weight_files(tmp_path)[-1]
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(LabError, match=f"{shard.name} is a Git LFS pointer, .* git lfs pull"):
        use(tmp_path)
