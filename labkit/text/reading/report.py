"""What was made of a source: which files, how many rows, what was dropped and why. Shown, and kept with the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from labkit.errors import LabError, count_with_noun

LISTED = 5
"""Places, columns and files that are named before the rest is only counted."""
HARMLESS = ("duplicate", "held out too", "label false", "weight 0", "tie")
"""Reasons to drop a row that say nothing against the reading, however many rows go: another copy stays, or the file
itself says that it is nothing to learn from."""


class RowError(LabError):
    """One row cannot be used. reason: a few words, under which such rows are counted; the message: what to mend."""

    def __init__(self, reason: str, message: str = ""):
        super().__init__(message or f"has an {reason}.")
        self.reason = reason


@dataclass
class FileRead:
    """One file: its path within the source, what it turned out to be, and how many rows it holds."""

    path: str
    format: str
    encoding: str | None
    rows: int = 0


@dataclass
class ReadReport:
    """The record of one reading. All counts are of rows (documents, conversations, pairs) but `removed_characters`.

    read = kept + sum(dropped). dropped: by reason. unused: columns, files, lists and splits that were not read.
    warnings: whole sentences. removed_characters: how many cleaning took away inside the rows that were kept.
    row_remarks: what is odd in rows that are kept, and in how many. unread_turn_keys: keys of their turns, or beside
    these, that were not read. splits: how many rows were read of each split that the source names.
    """

    source: str
    files: list[FileRead] = field(default_factory=list)
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    removed_characters: int = 0
    drop_examples: dict[str, str] = field(default_factory=dict)
    dropped_locations: dict[str, list[str]] = field(default_factory=dict)
    row_remarks: Counter[str] = field(default_factory=Counter)
    unread_turn_keys: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, location: str = "", message: str = "", count: int = 1) -> None:
        """Count rows that are not used. location: file and row; message: what is wrong there."""
        self.dropped[reason] += count
        if location:
            self.dropped_locations.setdefault(reason, []).append(location)
            self.drop_examples.setdefault(reason, f"{location} {message or f'has an {reason}.'}")

    def finish_and_check(self, kept: int) -> ReadReport:
        """The record once all is read. Raises LabError when no row is left, or fewer than half of those read."""
        self.kept = kept
        for reason, places in self.dropped_locations.items():
            self.warnings.append(f"{reason}: {format_locations(places)}")
        lost = self.dropped.total() - sum(self.dropped[reason] for reason in HARMLESS)
        if 2 * lost > self.read or not kept:
            raise LabError(self._refusal(lost))
        return self

    def _refusal(self, lost: int) -> str:
        if not self.dropped:
            return f"{self.source} contains nothing to read."
        counted = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        if self.drop_examples:
            worst = max(self.drop_examples, key=self.dropped.__getitem__)
            return f"{self.drop_examples[worst]} ({self.source}: {lost} of {self.read} rows cannot be used: {counted}.)"
        return f"{self.source}: {lost} of {self.read} rows cannot be used: {counted}. Remove or correct them."

    def to_dict(self) -> dict[str, Any]:
        """As `labkit read --json` prints it and report.json keeps it, without the rows."""
        return {
            "files": [asdict(file) for file in self.files],
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "unused": self.unused,
            "warnings": self.warnings,
        }

    def to_dict_with_source(self) -> dict[str, Any]:
        """The same with the name of the source and `characters`, as report.json keeps it."""
        return {"source": self.source, "characters": self.removed_characters, **self.to_dict()}


def format_reading_lines(record: Mapping[str, Any]) -> list[str]:
    """A record of `ReadReport.to_dict_with_source` as lines: the counts, then a line for each thing that was odd."""
    return [format_reading_summary(record), *(f"  {warning}" for warning in record["warnings"])]


def format_reading_summary(record: Mapping[str, Any]) -> str:
    """A record in a line: what the files are, how many rows were read, kept and dropped, and what was not used."""
    files = record["files"]
    kinds = ", ".join(dict.fromkeys(_kind(file) for file in files))
    held = f"{len(files)} files, {kinds}" if len(files) > 1 else kinds
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in record["dropped"].items()) or "none"
    line = f"{record['source']} ({held}): read {record['read']:,}, kept {record['kept']:,}, dropped {dropped}"
    if record["characters"]:
        line += f", {count_with_noun(record['characters'], 'character')} removed by cleaning"
    return line + (f"; not used: {abbreviate_names(record['unused'])}." if record["unused"] else ".")


def abbreviate_names(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def format_locations(places: Iterable[str]) -> str:
    """['a.csv, row 1', 'a.csv, row 4'] -> 'a.csv, rows 1, 4'"""
    numbers: dict[str, list[str]] = {}
    for place in places:
        before, _, number = place.rpartition(" ")
        numbers.setdefault(before, []).append(number)
    return "; ".join(
        f"{before}{'s' * (len(given) > 1)} {abbreviate_names(given)}".strip() for before, given in numbers.items()
    )


def _kind(file: dict[str, Any]) -> str:
    return f"{file['format']} in {file['encoding']}" if file["encoding"] else file["format"]
