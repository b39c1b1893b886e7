"""A source -> its rows, each turned into what is learned from; what cannot be is counted, with its place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from labkit.errors import LabError
from labkit.text.reading.columns import MEDIA, WEIGHTS, ColumnsSeen, TrackedRow, is_empty
from labkit.text.reading.containers import NoRows, OpenedDataFile, SourceRow, hub_rows, hub_splits, open_data_file
from labkit.text.reading.files import SPLITS, TABLE_ENDINGS, SourceFile, find_files, split_from_name_or_empty
from labkit.text.reading.report import FileRead, ReadReport, RowError
from labkit.text.reading.values import removed_characters, shorten_repr, unread_message_keys
from labkit.world import Message

T = TypeVar("T")
TEMPLATES = re.compile(
    r"<\|im_start\|>|\[INST\]|<\|start_header_id\|>|<start_of_turn>|<\|(?:user|assistant|system|begin_of_text)\|>"
)
"""Marks that chat templates put around turns."""
Convert = Callable[[Any, ReadReport], tuple[T, TrackedRow | None]]
"""One row's value -> what it is understood as, and its columns, if it has any. Raises RowError."""


@dataclass(frozen=True)
class ParsedRows(Generic[T]):
    """What was understood, in the order of the source. split_per_row: train, validation, test or '' for each."""

    values: list[T]
    split_per_row: list[str]
    reading: ReadReport

    def select(self, indices: Sequence[int]) -> ParsedRows[T]:
        """These of them."""
        return ParsedRows([self.values[i] for i in indices], [self.split_per_row[i] for i in indices], self.reading)

    def partition(self, split_names: Sequence[str]) -> tuple[list[T], list[T]]:
        """(train, validation), by the part that each belongs to; '' to neither."""
        train = [value for value, part in zip(self.values, split_names, strict=True) if part == "train"]
        return train, [value for value, part in zip(self.values, split_names, strict=True) if part == "validation"]


def parse_rows(path_or_hub_name: str | Path, convert: Convert[T], include_plain_text: bool = False) -> ParsedRows[T]:
    """Every row of a source, converted. A row that `convert` refuses is counted in the record, with its place.
    include_plain_text: whether files of plain text are rows too.

    Raises LabError for a source that is not there, or most of whose files are damaged. Whether enough rows are left is
    for `ReadReport.finish_and_check` to say.
    """
    reading = ReadReport(str(path_or_hub_name))
    values, split_per_row = [], []
    seen, contents = ColumnsSeen(), Counter[int]()
    for row in iterate_rows(path_or_hub_name, reading, include_plain_text):
        reading.read += 1
        split = row.split or _row_split(row.value)
        reading.splits[split] += 1
        try:
            if isinstance(row.value, RowError):
                raise row.value
            value, columns = convert(row.value, reading)
        except RowError as error:
            reading.drop(error.reason, row.location, str(error))
            continue
        values.append(value)
        split_per_row.append(split)
        contents[len(reading.files) - 1] += hash(value)
        if columns is not None:
            columns.used |= {"split"} if split else set()
            seen.add(columns)
    reading.warnings += _copies(reading.files, contents)
    reading.unused += seen.describe_unused()
    reading.unused += [f"key {key} ({count:,} times)" for key, count in reading.unread_turn_keys.items()]
    reading.warnings += [f"{count:,} row{'s' * (count > 1)}: {words}" for words, count in reading.row_remarks.items()]
    return ParsedRows(values, split_per_row, reading)


def _copies(files: Sequence[FileRead], contents: Mapping[int, int]) -> Iterator[str]:
    """A line for each file whose rows are those of one before, in any order. contents: of each file, the sum of its
    rows' hashes.
    """
    first: dict[tuple[int, int], str] = {}
    for number, content in contents.items():
        file = files[number]
        before = first.setdefault((content, file.rows), file.path)
        if before != file.path:
            yield (
                f"{file.path} has the same {file.rows:,} row{'s' * (file.rows > 1)} as {before}. If it is a copy, "
                "remove it."
            )


def _row_split(row: Any) -> str:
    """The split that a row's own column split names; '' for none."""
    if not isinstance(row, Mapping):
        return ""
    named = row.get("split", row.get("Split"))
    return next((split for split, words in SPLITS.items() if str(named).strip().lower() in words), "")


def to_tracked_row(row: Any) -> TrackedRow:
    """A row with named columns. Raises RowError for anything else."""
    if not isinstance(row, Mapping):
        kind = {str: "text", list: "a list", int: "a number", float: "a number"}.get(type(row), type(row).__name__)
        raise RowError("row without columns", f"is {kind} where a row with named columns is needed.")
    columns = TrackedRow(row)
    if len(columns.values) < len(columns.names):
        twice = next(name for name in columns.values if [other.lower() for other in columns.names].count(name) > 1)
        raise RowError("duplicate column", f"has the column {twice} twice, with different capitalisation. Keep one.")
    return columns


def check_weight_and_media(columns: TrackedRow) -> None:
    """Raises RowError for a row that its own columns call no example to learn: of weight 0, or with pictures or sound.

    So does a weight between, which nothing here would follow.
    """
    weight = columns.get(WEIGHTS)
    known = isinstance(weight, str | int | float) and str(weight).strip() in ("0", "1", "0.0", "1.0", "True", "False")
    if not is_empty(weight) and not known:
        raise RowError("weight", f"has the weight {shorten_repr(weight)}; it can be 1 (trained on) or 0 (not).")
    if known and str(weight).strip() in ("0", "0.0", "False"):
        raise RowError("weight 0", "has the weight 0.")
    for name in MEDIA:
        value = columns.values.get(name)
        given = value if isinstance(value, list) else [value]
        if not all(map(is_empty, given)):
            raise RowError(
                name, f"has {name} beside its text; only text is supported. Remove such rows, or the column."
            )


def record_turn_remarks(reading: ReadReport, messages: Sequence[Message], fields: Iterable[Any]) -> None:
    """Enter in the record what is to say about the turns of a row that is kept: what cleaning took away, keys that were
    not read, and marks of a template.

    fields: the columns that the turns were read from, as the file has them.
    """
    reading.removed_characters += sum(removed_characters(message.content) for message in messages)
    reading.unread_turn_keys.update(unread_message_keys(fields))
    found = next(filter(None, (TEMPLATES.search(message.content) for message in messages)), None)
    if found:
        reading.row_remarks[
            f"The text spells a chat template ({found[0]}): it is trained on as text, and turns are marked again "
            "around it. Give the turns without a template."
        ] += 1


def iterate_rows(path_or_hub_name: str | Path, reading: ReadReport, include_plain_text: bool) -> Iterator[SourceRow]:
    """The rows of all files of a source, which are entered in the record as they are read."""
    found = find_files(path_or_hub_name)
    reading.unused += found.skipped
    if found.hub_name:
        splits = hub_splits(found.hub_name)
        for split in splits:
            reading.splits[split_from_name_or_empty(split)] += 0
        yield from _counted(hub_rows(found.hub_name, splits), FileRead(found.hub_name, "hub data set", None), reading)
        return
    damaged: list[LabError] = []
    for file in found.files:
        reading.splits[file.split] += 0
        try:
            table = open_data_file(file)
            if table.format == "text" and not include_plain_text:
                kinds = ", ".join(TABLE_ENDINGS)
                words = f"{file.name} is plain text; this kind of data is read from {kinds}."
                raise NoRows("plain text", " ".join((words, *table.warnings)))
            yield from _counted(table.rows, _entry(file, table), reading)
        except NoRows as error:
            if len(found.files) == 1:
                raise
            reading.unused.append(f"file {file.name} ({error.kind})")
        except LabError as error:
            damaged.append(error)
            if file.split == "train" or 2 * len(damaged) > len(found.files):
                raise
            reading.warnings.append(f"Not read: {error}")
            reading.unused.append(f"file {file.name}")
        else:
            reading.warnings += table.warnings
            reading.unused += table.unused_parts


def _counted(rows: Iterable[SourceRow], entry: FileRead, reading: ReadReport) -> Iterator[SourceRow]:
    reading.files.append(entry)
    for row in rows:
        entry.rows += 1
        yield row


def _entry(file: SourceFile, table: OpenedDataFile) -> FileRead:
    return FileRead(file.name, table.format, table.encoding)
