"""A source: a file, a folder, or the name of a data set on the hub -> what there is to read.

A file belongs to a split when its name, or that of its folder, is the split's: train.jsonl, train_sft.json,
valid-00001-of-00002.parquet. Where a name only holds such a word (training_day.txt, my_test.txt), it takes two of one
kind to mean splits: my_train.txt beside my_test.txt, or beside test.txt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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

STAGES = ("sft", "prefs", "pref", "gen", "rm", "reward", "ppo", "dpo", "kto", "rl")
"""What follows a split's name where a data set has several for the stages of a recipe, as HuggingFaceH4's have."""


class SourceFile(NamedTuple):
    """A file to read. name: its path within the source. split: train, validation or test, where its name says so."""

    path: Path
    name: str
    split: str = ""


class FoundFiles(NamedTuple):
    """What a source is made of: its files, or the name of a hub data set; and what of a folder is passed over."""

    files: list[SourceFile]
    hub_name: str = ""
    skipped: tuple[str, ...] = ()


def find_files(path_or_hub_name: str | Path) -> FoundFiles:
    """What there is to read in a source. Raises LabError when it is nothing, or a folder without a file to read."""
    if re.match(r"[a-zA-Z][a-zA-Z\d+.-]+://", str(path_or_hub_name)):
        raise LabError(
            f"{path_or_hub_name} is a URL. Download it and give the file, or name a hub data set OWNER/NAME."
        )
    if not str(path_or_hub_name).strip():
        raise LabError("The name of the source is empty. Is a shell variable not set? Name a file.")
    path = Path(path_or_hub_name)
    if broken := next((link for link in (path, *path.parents) if link.is_symlink() and not link.exists()), None):
        raise LabError(f"{broken} is a symbolic link to itself or to nothing. Name the file itself.")
    if path.is_dir():
        return _folder(path)
    if path.exists() and not path.is_file():
        raise LabError(
            f"{path} is a pipe or a device, not a file; a source is read more than once. Save it as a file first."
        )
    if path.exists():
        return FoundFiles([SourceFile(path, path.name)])
    is_name = re.fullmatch(r"\b[\w.-]+\b(/\b[\w.-]+\b)?(:[\w.-]+)?", str(path_or_hub_name), re.ASCII)  # as the hub
    if not is_name or suffix_without_gz(path) in ENDINGS:
        raise LabError(f"There is no file or folder {path}.")
    return FoundFiles([], hub_name=str(path_or_hub_name))


def suffix_without_gz(path: Path) -> str:
    """rows.JSONL.gz -> .jsonl"""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def split_from_name_or_empty(name: str) -> str:
    """train-00000-of-00002 -> train; '' where a name is of no split."""
    first = re.match(r"[a-z]*", name.lower())
    word = first.group() if first else ""
    return next((split for split, words in SPLITS.items() if word in words), "")


def _folder(folder: Path) -> FoundFiles:
    files, passed_over = [], []
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")) and any(folder.rglob("*.arrow")):
        raise LabError(
            f"{folder} is what datasets' save_to_disk writes, in Arrow files. With load_from_disk(…), save each split "
            f"with to_parquet(…) and give those files."
        )
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_dir():
            continue
        if not path.is_file():
            passed_over.append(f"file {inside} (a link to nothing, a pipe or a device)")
        elif any(part.startswith((".", "__MACOSX")) for part in inside.parts):
            passed_over.append(f"file {inside} (hidden)")
        elif path.stem.lower() in ABOUT:
            passed_over.append(f"file {inside} (describes the other files)")
        elif suffix_without_gz(path) not in ENDINGS:
            passed_over.append(f"file {inside} (unsupported type)")
        else:
            files.append(SourceFile(path, str(inside)))
    if not files:
        raise LabError(f"The folder {folder} contains no {', '.join(ENDINGS)} file.")
    splits = file_splits([Path(file.name) for file in files])
    if len(splits.stage_train_splits) > 1:
        raise LabError(
            f"{folder} has several splits to train on, {', '.join(splits.stage_train_splits)}; which is "
            f"meant? Put the files of one into a folder of their own."
        )
    files = [file._replace(split=split) for file, split in zip(files, splits.split_per_file, strict=True)]
    if not any(file.split == "train" for file in files):  # then a file called test is a file like any other
        files = [file._replace(split="") for file in files]
    return FoundFiles(files, skipped=tuple(passed_over))


class FileSplits(NamedTuple):
    """The split of each of some files, '' for none; and the splits to train on that name a stage, as train_sft."""

    split_per_file: list[str]
    stage_train_splits: list[str]


def file_splits(paths: Sequence[Path]) -> FileSplits:
    """Paths within a folder -> the split of each: by its own name, or else by those of the folders it is in."""
    parts = [[_split_and_rest(part) for part in (_stem(name), *reversed(name.parts[:-1]))] for name in paths]
    pairs = {part for found in parts for part in found if part is not None}
    sure = {(split, rest) for split, rest in pairs if not rest or rest in STAGES}
    for split, rest in pairs:
        if any({(other, rest), (other, "")} & pairs for other in SPLITS if other != split):
            sure.add((split, rest))
    chosen = [next((part for part in found if part in sure), None) for found in parts]
    several = {f"{part[0]}_{part[1]}" for part in chosen if part and part[0] == "train" and part[1] in STAGES}
    return FileSplits([part[0] if part else "" for part in chosen], sorted(several))


def _stem(name: Path) -> str:
    return name.name.lower().removesuffix(".gz").removesuffix(suffix_without_gz(name))


def _split_and_rest(name: str) -> tuple[str, str] | None:
    """train_sft-00000-of-00002-3f1d -> (train, sft); my_train -> (train, my); None for a name without such a word."""
    words = [word for word in re.split(r"[^a-z]+", re.sub(r"(?<=\d)-of-\d+(-[0-9a-f]+)?$", "", name.lower())) if word]
    for split, known in SPLITS.items():
        for at in (0, -1):
            if words and words[at] in known:
                return split, "_".join(words[1:] if at == 0 else words[:-1])
    return None
