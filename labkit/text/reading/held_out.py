"""Which part of what was read is held out: what the source itself calls so, else a tenth, chosen by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from labkit.errors import LabError, count_with_noun
from labkit.text.clean import exact_duplicate_key
from labkit.text.pieces import Text
from labkit.text.reading.report import ReadReport

T = TypeVar("T")


def split_held_out(items: Sequence[T], fraction: float, key: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """Split items into (train, validation) by the hash of their content: the share with the lowest is held
    out.

    At least one is held out and at least one left. Order is kept; the split does not depend on it.
    """
    count = min(max(1, round(len(items) * fraction)), len(items) - 1)
    chosen = set(sorted(range(len(items)), key=_digests(items, key).__getitem__)[:count])
    return _parted(items, chosen)


def hold_out_texts(texts: Sequence[Text], share: float) -> tuple[list[Text], list[Text]]:
    """Split texts into (train, validation) by size: about `share` of their characters is held out.

    Texts are held out whole, lowest hash of the content first. One that is more than twice the share of all is split
    inside: its end is held out. Raises LabError when there are too few characters to hold any out.
    """
    large = 2 * share * sum(map(len, texts))
    small = [index for index, text in enumerate(texts) if len(text) <= large]
    digests = _digests(texts, exact_duplicate_key)
    held: set[int] = set()
    room = share * sum(len(texts[index]) for index in small)
    for index in sorted(small, key=digests.__getitem__):
        if len(texts[index]) > 2 * room:  # more than half of it would be too much
            break
        held.add(index)
        room -= len(texts[index])
    train, validation = [], []
    for index, text in enumerate(texts):
        cut = int(len(text) * (1 - share)) if len(text) > large else 0 if index in held else len(text)
        train.append(text[:cut])
        validation.append(text[cut:])
    train, validation = list(filter(None, train)), list(filter(None, validation))
    if not train or not validation:
        raise LabError(f"The text is too short to hold out a part: {sum(map(len, texts))} characters.")
    return train, validation


def normalize_given_splits(split_per_row: Sequence[str], reading: ReadReport) -> list[str] | None:
    """The split of each row as its file names it -> train, validation or '' (not used) for each; None where the
    source has not both rows to train on and others to hold out.

    What is called validation is held out; without it, what is called test. Raises LabError where the source names a
    split to train on of which nothing is left; of any other it is said.
    """
    names = set(split_per_row)
    _check_left(names, reading)
    apart = "validation" if "validation" in names else "test"
    if apart not in names:
        return None
    if not names & {"train", ""}:
        reading.warnings.append(f"All rows are of the split {apart}: they are trained on, except a held-out part.")
        return None
    held = count_with_noun(split_per_row.count(apart), "row")
    reading.warnings.append(f"The split {apart} ({held}) is the held-out data.")
    if apart == "validation" and "test" in names:
        reading.unused.append(f"split test ({count_with_noun(split_per_row.count('test'), 'row')})")
    return ["validation" if split == apart else "" if split == "test" else "train" for split in split_per_row]


def held_out_first_order(split_per_row: Sequence[str]) -> list[int]:
    """The places of rows in the order in which of equal ones the first is kept: a copy that is held out before one that
    is trained on, as else the held-out part would shrink to what training has not seen.
    """
    rank = {"validation": 0, "test": 1}
    return sorted(range(len(split_per_row)), key=lambda index: rank.get(split_per_row[index], 2))


def record_duplicates(
    kept_by_copy: Mapping[int, int], split_per_row: Sequence[str], reading: ReadReport, reason: str = "duplicate"
) -> None:
    """Enter rows that are copies in the record. kept_by_copy: {a row: the row kept that it repeats}."""
    for index, kept in kept_by_copy.items():
        apart = split_per_row[kept] in ("validation", "test") and split_per_row[index] != split_per_row[kept]
        reading.drop("held out too" if apart else reason)


def _check_left(names: set[str], reading: ReadReport) -> None:
    for split in filter(None, reading.splits):
        if split == "train" and not reading.splits[split]:
            raise LabError(f"{reading.source}: nothing is there to train on: its split train is empty.")
        if split not in names and split == "train":
            raise LabError(
                f"{reading.source}: nothing is left to train on: of the split train ({reading.splits[split]:,} rows) "
                f"every row is dropped, as one that is held out too or cannot be used. Give other rows to train on."
            )
        if split not in names:
            words = f"The split {split} ({reading.splits[split]:,} read) has no row left."
            reading.warnings.append(words)


def _digests(items: Sequence[T], key: Callable[[T], str]) -> list[bytes]:
    return [hashlib.blake2b(key(item).encode("utf-8", "replace"), digest_size=16).digest() for item in items]


def _parted(items: Sequence[T], chosen: set[int]) -> tuple[list[T], list[T]]:
    return (
        [item for index, item in enumerate(items) if index not in chosen],
        [item for index, item in enumerate(items) if index in chosen],
    )
