"""A source: a file, a folder, or the name of a data set on the hub -> what there is to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from labkit.errors import LabError

TEXT_ENDINGS = (".txt", ".text", ".md", ".markdown")
TABLE_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
ENDINGS = (*TEXT_ENDINGS, *TABLE_ENDINGS)
ABOUT = ("readme", "license", "licence", "copying", "dataset_infos", "dataset_info", "dataset_dict", "state")
"""Files that tell of the others in a folder."""
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}


class File(NamedTuple):
    """A file to read. name: its path within the source. split: train, validation or test, where its name says so."""

    path: Path
    name: str
    split: str = ""


class Found(NamedTuple):
    """What a source is made of: its files, or the name of a hub data set; and what of a folder is passed over."""

    files: list[File]
    hub: str = ""
    passed_over: tuple[str, ...] = ()


def find_files(source: str | Path) -> Found:
    """What there is to read in a source. Raises LabError when it is nothing, or a folder without a file to read."""
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return Found([File(path, path.name)])
    is_name = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?", str(source))
    if not is_name or ending(path) in ENDINGS:
        raise LabError(f"There is no file or folder {path}.")
    return Found([], hub=str(source))


def ending(path: Path) -> str:
    """rows.JSONL.gz -> .jsonl"""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def split_of(name: str) -> str:
    """train-00000-of-00002 -> train; '' where a name is of no split."""
    first = re.match(r"[a-z]*", name.lower())
    word = first.group() if first else ""
    return next((split for split, words in SPLITS.items() if word in words), "")


def _folder(folder: Path) -> Found:
    files, passed_over = [], []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file():
            continue
        if any(part.startswith((".", "__MACOSX")) for part in inside.parts):
            passed_over.append(f"file {inside} (hidden)")
        elif path.stem.lower() in ABOUT:
            passed_over.append(f"file {inside} (about the others)")
        elif ending(path) not in ENDINGS:
            passed_over.append(f"file {inside} (not a kind that is read)")
        else:
            files.append(File(path, str(inside), next(filter(None, map(split_of, _names(inside))), "")))
    if not files:
        raise LabError(f"The folder {folder} holds no {', '.join(ENDINGS)} file.")
    if not any(file.split == "train" for file in files):  # then a file called test is a file like any other
        files = [file._replace(split="") for file in files]
    return Found(files, passed_over=tuple(passed_over))


def _names(inside: Path) -> Iterator[str]:
    """Names that may say a file's split: its own, then those of the folders it is in."""
    yield inside.name
    yield from reversed(inside.parts[:-1])
