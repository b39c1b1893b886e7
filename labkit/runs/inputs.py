"""What a recipe reads, known again by its content: hashes of files and folders, and where they stood."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from labkit.errors import LabError
from labkit.files import explain_read_errors
from labkit.paths import data_folder
from labkit.preferences.principles import Principles
from labkit.runs.recipe import Recipe
from labkit.stages.registry import DATA_FIELDS
from labkit.text.reading.files import find_files
from labkit.text.tokenizer import Tokenizer

WORLD = "data/world"
"""What the world's files are called among a run's inputs, wherever they lie."""
PRINCIPLES = "principles.yaml"
"""The one file among them that only some runs read: those whose judge follows its principles."""
KEPT_TEXTS = "kept texts"
"""What those texts are called among them that are left of a source once it is cleaned, where they were noted once for
all stages; see `kept_texts_key`."""


def kept_texts_key(stage: str) -> str:
    """What the texts are called among a run's inputs that are left of a source for this stage."""
    return f"{KEPT_TEXTS} of {stage}"


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of each file or folder that a recipe reads, the world's included; hub data sets have none.

    Raises LabError for one that may not be read.
    """
    world = {} if recipe.text and recipe.instructions else {WORLD: hash_path(data_folder() / "world")}
    if isinstance(recipe.annotation.judge, Principles):
        world[f"{WORLD}/{PRINCIPLES}"] = hash_path(data_folder() / "world" / PRINCIPLES)
    return {name: hash_path(Path(name)) for name in _given(recipe)} | world


def check_world_unchanged(run: Path, inputs: Mapping[str, str]) -> None:
    """Raises LabError for files of the world that are not as they were hashed among the inputs of the run in `run`."""
    here = {WORLD: data_folder() / "world", f"{WORLD}/{PRINCIPLES}": data_folder() / "world" / PRINCIPLES}
    changed = next((name for name, at in here.items() if name in inputs and not matches_hash(at, inputs[name])), None)
    if changed:
        raise LabError(
            f"{changed} has changed since {run} was started, so it cannot be resumed. Put the old files back, or start "
            f"a new run in another folder."
        )


def check_same_tokenizer(other: Path, run: Path) -> None:
    """Raises LabError where the run in `other` reads other tokens than the run in `run`, once this has a tokenizer."""
    mine, its = run / "tokenizer.json", other / "tokenizer.json"
    if not mine.is_file() or mine.read_bytes() == its.read_bytes():
        return
    sizes = [Tokenizer.load(folder).vocab_size for folder in (other, run)]
    raise LabError(
        f"{other} has a different tokenizer from {run}: {sizes[0]} and {sizes[1]} tokens, so that the same id means "
        "another token. Models of both cannot be used together: train them with one tokenizer."
    )


def absolute_input_paths(recipe: Recipe) -> dict[str, str]:
    """Where each file or folder that a recipe reads stands: by the name it was given, its absolute path."""
    return {name: str(Path(name).absolute()) for name in _given(recipe)}


def _given(recipe: Recipe) -> list[str]:
    names = [getattr(recipe, field) for field in DATA_FIELDS]
    return [name for name in names if name and Path(name).exists()]


def hash_path(path: Path) -> str:
    """SHA-256 of what a file holds, or of the names and contents of those files in a folder that are read.

    Raises LabError for one that may not be read, and for a folder without any.
    """
    if not path.is_dir():
        return _digest(path).hex()
    named = [(name, _digest(file)) for name, file in _files_read(path)]
    return hashlib.sha256(b"".join(os.fsencode(name) + b"\0" + digest for name, digest in named)).hexdigest()


def matches_hash(path: Path, expected_hash: str) -> bool:
    """Whether a file or folder holds what was once hashed as `expected_hash`, by `hash_path` or by an older labkit."""
    return expected_hash == hash_path(path) or (path.is_dir() and expected_hash in _older_hashes(path))


def _older_hashes(folder: Path) -> list[str]:
    """As before names counted: of the contents of all files in a folder; or of those that are read, where only others
    have come or gone.
    """
    digests = {file: _digest(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    read = {file for _, file in _files_read(folder)}
    kept = [digests.values(), [digest for file, digest in digests.items() if file in read]]
    return [hashlib.sha256(b"".join(part)).hexdigest() for part in kept]


def _files_read(folder: Path) -> list[tuple[str, Path]]:
    """The files of a folder that are read, by their names in it."""
    if folder == data_folder() / "world":
        files = [file for file in sorted(folder.rglob("[!.]*.yaml")) if file.name != PRINCIPLES]
        return [(file.relative_to(folder).as_posix(), file) for file in files]
    return [(file.name, file.path) for file in find_files(folder).files]


def _digest(file: Path) -> bytes:
    with explain_read_errors(file), file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
