"""A model's weights as files: one model.safetensors or, above MAX_SHARD_BYTES, shards with an index as on the hub.

    model.safetensors
    model-00001-of-00002.safetensors  model-00002-of-00002.safetensors  model.safetensors.index.json

Weights are replaced as a whole: new shards get names that no file has, the index is written once all of them are on the
disk, and only then is removed what it replaces: model.safetensors, or the index and the shards that it names. Shards
that no index names, as of a download that is not whole, are never removed. Meanwhile model.safetensors.replacing.json
lists the old files and the new, so that after a kill the next writer removes those that are not read. Where both forms
are there, model.safetensors is the one that is read, as in transformers; it is said.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labkit.errors import LabError, count_with_noun
from labkit.files import (
    PARTIAL,
    atomic_replace,
    check_not_lfs_pointer,
    explain_read_errors,
    explain_write_errors,
    read_object,
    write_json,
)
from labkit.machine import warn_once

R = TypeVar("R")

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
REPLACING = "model.safetensors.replacing.json"
MAX_SHARD_BYTES = 5 * 10**9
"""Of a file's tensors; a larger tensor has a file of its own. What is converted holds so much in memory at once."""

_SHARD = re.compile(r"model(-\d+)?-\d{5}-of-\d{5}\.safetensors")


def weights_or_index_file(folder: Path) -> Path:
    """The file that changes whenever a folder's weights do, and is there when they are: model.safetensors, or the index
    of the shards.
    """
    one, index = folder / WEIGHTS, folder / INDEX
    return index if index.is_file() and not one.is_file() else one


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder's weights. Raises LabError for an index that is damaged, that names a file
    outside the folder or one that is not there, and for shards without their index.
    """
    check_index_is_there(folder)
    if weights_or_index_file(folder).name == WEIGHTS:
        if (folder / INDEX).is_file() and not (folder / REPLACING).is_file():
            warn_once(
                f"{folder} holds its weights twice: {WEIGHTS} is read, and {INDEX} with the files that it names is "
                f"not. Remove the one that is not meant."
            )
        return [folder / WEIGHTS]
    names = _shard_names(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LabError(
            f"{folder} lacks {len(missing)} of the {len(names)} files that its {INDEX} names; the first is "
            f"{missing[0]}: the checkpoint is incomplete. Download or copy it again."
        )
    return [folder / name for name in names]


def check_index_is_there(folder: Path) -> None:
    """Raises LabError for a folder with shards of weights whose index is gone."""
    if weights_or_index_file(folder).is_file() or not folder.is_dir():
        return
    shards = sorted(file.name for file in folder.iterdir() if _SHARD.fullmatch(file.name))
    if shards and not (folder / REPLACING).is_file():
        raise LabError(
            f"{folder} has {count_with_noun(len(shards), 'file')} of sharded weights, {shards[0]} the first, but no "
            f"{INDEX}, which says what is in them. Copy it from where they came from; a run's stage can be trained "
            f"again (labkit STAGE RUN --again)."
        )


def _shard_names(folder: Path) -> list[str]:
    shards = read_checkpoint_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise LabError(f"{folder / INDEX} has no weight_map from tensors to files.")
    names = sorted(set(shards.values()))
    outside = [name for name in names if name != Path(name).name or "\\" in name or not name.endswith(".safetensors")]
    if outside:
        raise LabError(f"{folder / INDEX} names {outside[0]!r}, which is not a safetensors file in the same folder.")
    return names


def read_checkpoint_json(file: Path) -> dict[str, Any]:
    """An object of JSON that says what weights are. Raises LabError when it cannot be read or holds something else."""
    try:
        check_not_lfs_pointer(file)
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{file} cannot be read, so its weights cannot be identified: {error}") from error
    if not isinstance(read, dict):
        raise LabError(f"{file} is not a JSON object ({{…}}), so its weights cannot be identified.")
    return read


def hash_weights(folder: Path) -> str:
    """SHA-256 of a folder's weights: of model.safetensors, or of the shards' SHA-256 in the order of their names.

    Raises LabError as `weight_files`, and for a file that may not be read.
    """
    return _read_weight_files(folder, _hash_files)


def _hash_files(files: list[Path]) -> str:
    digests = []
    for file in files:
        with explain_read_errors(file), file.open("rb") as opened:
            check_not_lfs_pointer(file)
            digests.append(hashlib.file_digest(opened, "sha256").digest())
    return (digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()).hex()


def write_weights(folder: Path, model: nn.Module) -> None:
    """Write a model's weights into `folder`, in place of those that are there, whole or not at all.

    A tensor with several names is written once. Raises LabError as `explain_write_errors` does.
    """
    tensors = {name: tensor.detach() for name, tensor in _each_once(model).items()}
    like = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    write_tensors(folder, like, tensors.__getitem__)


def _each_once(model: nn.Module) -> dict[str, Tensor]:
    """What a model saves, a tensor with several names by the first of them."""
    state = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: tensor for name, tensor in state.items() if first[id(tensor)] == name}


def write_tensors(
    folder: Path,
    like: Mapping[str, Tensor],
    read: Callable[[str], Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """As `write_weights`, of tensors that are read when their file is written: no more than a file's are in memory.

    like: tensors of the same names, shapes and types, which may be on the device meta. metadata: of each file.
    """
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unread(folder)  # which a kill has left
        index, files = _split(like, {file.name for file in folder.iterdir()})
        listed = {*_files_in_use(folder), *files, *([INDEX] if index else [])}
        if listed != {WEIGHTS}:  # one file takes its place by itself
            write_json(folder / REPLACING, {"files": sorted(listed)})
        try:
            for file, names in files.items():
                with atomic_replace(folder / file) as partial:
                    save_file({name: read(name).contiguous() for name in names}, str(partial), metadata=metadata)
            if index:
                write_json(folder / INDEX, index)
                (folder / WEIGHTS).unlink(missing_ok=True)  # from now on the index is read
        except BaseException:
            with suppress(OSError, LabError):
                _remove_unread(folder)
            raise
        _remove_unread(folder)


def _split(like: Mapping[str, Tensor], taken: Collection[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The index, {} for one file; and {file: names of its tensors}, where no shard's name is one that is taken."""
    patterns = (f"model{f'-{number}' if number else ''}{{suffix}}.safetensors" for number in count())
    splits = (
        split_torch_state_dict_into_shards(dict(like), filename_pattern=pattern, max_shard_size=MAX_SHARD_BYTES)
        for pattern in patterns
    )
    split = next(one for one in splits if not one.is_sharded or not one.filename_to_tensors.keys() & set(taken))
    if not split.is_sharded:
        return {}, {WEIGHTS: list(like)}
    return {"metadata": split.metadata, "weight_map": split.tensor_to_filename}, split.filename_to_tensors


def _files_in_use(folder: Path) -> set[str]:
    """The files that are read; of a damaged index, it alone."""
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS}
    if not (folder / INDEX).is_file():
        return set()
    try:
        return {INDEX, *_shard_names(folder)}
    except LabError:
        return {INDEX}


def _remove_unread(folder: Path) -> None:
    """Remove what a replacement, finished or not, has left: of the files that it lists, those that are not read."""
    for partial in folder.glob(f".model*.safetensors*{PARTIAL}"):
        partial.unlink()
    if not (folder / REPLACING).is_file():
        return
    listed, in_use = read_object(folder / REPLACING, files=list)["files"], _files_in_use(folder)
    for name in sorted(file.name for file in folder.iterdir()):
        if name in listed and name not in in_use and (name in (WEIGHTS, INDEX) or _SHARD.fullmatch(name)):
            (folder / name).unlink()
    (folder / REPLACING).unlink()


def link_weights(source: Path, target: Path) -> None:
    """Let the folder `target`, which has no weights, hold those of `source`: the same files by other names, or copies
    where the disk has no hard links; never links to the same file. Weights are only ever replaced, so a change in one
    folder is none in the other.
    """
    files = weight_files(source)
    index = weights_or_index_file(source)
    with explain_write_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for file in [*files, *([index] if index not in files else [])]:
            try:
                os.link(os.path.realpath(file), target / file.name)
            except OSError:
                with atomic_replace(target / file.name) as partial:
                    shutil.copyfile(file, partial)


def _read_weight_files(folder: Path, read: Callable[[list[Path]], R]) -> R:
    """`read(weight_files(folder))`; once more where that failed and the weights were replaced meanwhile, since a reader
    with the old index misses its files then.
    """
    version = _version(folder)
    try:
        return read(weight_files(folder))
    except LabError:
        if _version(folder) == version:
            raise
    return read(weight_files(folder))


def _version(folder: Path) -> tuple[Path, int, int] | None:
    """What differs once weights are replaced; None where there are none."""
    file = weights_or_index_file(folder)
    try:
        found = file.stat()
    except OSError:
        return None
    return file, found.st_ino, found.st_mtime_ns


def load_weights(folder: Path, model: nn.Module) -> None:
    """Copy a folder's weights into `model`, one file after the other.

    Raises LabError for files that are missing, damaged or may not be read, and for tensors that are missing, left over
    or of another shape than the model's.
    """
    _read_weight_files(folder, lambda files: _load_files(files, model, weights_or_index_file(folder)))


def _load_files(files: list[Path], model: nn.Module, said_by: Path) -> None:
    """said_by: the file that says which tensors there are."""
    names = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    loaded: set[int] = set()
    for file in files:
        with explain_read_errors(file):
            check_not_lfs_pointer(file)  # and safetensors takes a file that it may not read for one that is not there
        try:
            missing, left = model.load_state_dict(load_file(file), strict=False)
        except (SafetensorError, RuntimeError) as error:
            raise _other_model(file, str(error)) from error
        here = {name: tensor for name, tensor in names.items() if name not in missing}
        again = [name for name, tensor in here.items() if tensor in loaded]
        if left or again:
            raise _other_model(file, f"it has no {left[0]}" if left else f"another file contains {again[0]} too")
        loaded |= set(here.values())
    lacking = [name for name, tensor in names.items() if tensor not in loaded]
    if lacking:
        raise _other_model(said_by, f"{lacking[0]} is missing")


def _other_model(file: Path, why: str) -> LabError:
    return LabError(f"{file} is damaged, or of a different model than config.json describes: {why}.")
