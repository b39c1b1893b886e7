"""A source -> its rows, each turned into what is learned from; what cannot be is counted, with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from labkit.errors import LabError
from labkit.text.reading.columns import Columns
from labkit.text.reading.containers import NoRows, Row, Table, hub_rows, open_table
from labkit.text.reading.files import TABLE_ENDINGS, File, find_files
from labkit.text.reading.report import FileRead, Reading, RowError

T = TypeVar("T")
Convert = Callable[[Any, Reading], tuple[T, Columns | None]]
"""One row's value -> what it is understood as, and its columns, if it has any. Raises RowError."""


@dataclass(frozen=True)
class Items(Generic[T]):
    """What was understood, in the order of the source. splits: train, validation, test or '' for each."""

    values: list[T]
    splits: list[str]
    reading: Reading

    def only(self, indices: Sequence[int]) -> Items[T]:
        """These of them."""
        return Items([self.values[i] for i in indices], [self.splits[i] for i in indices], self.reading)

    def parted(self, parts: Sequence[str]) -> tuple[list[T], list[T]]:
        """(train, validation), by the part that each belongs to; '' to neither."""
        train = [value for value, part in zip(self.values, parts, strict=True) if part == "train"]
        return train, [value for value, part in zip(self.values, parts, strict=True) if part == "validation"]


def read_items(source: str | Path, convert: Convert[T], plain: bool = False) -> Items[T]:
    """Every row of a source, converted. A row that `convert` refuses is counted in the record, with its place.
    plain: whether files of plain text are rows too.

    Raises LabError for a source that is not there, or most of whose files are damaged. Whether enough rows are left is
    for `Reading.finish` to say.
    """
    reading = Reading(str(source))
    values, splits = [], []
    names: dict[str, None] = {}
    used: set[str] = set()
    for row in rows_of(source, reading, plain):
        reading.read += 1
        try:
            if isinstance(row.value, RowError):
                raise row.value
            value, columns = convert(row.value, reading)
        except RowError as error:
            reading.drop(error.reason, row.place, str(error))
            continue
        values.append(value)
        splits.append(row.split)
        if columns is not None:
            names.update(dict.fromkeys(columns.names))
            used |= columns.used
    reading.unused += [f"column {name}" for name in names if name.lower() not in used]
    return Items(values, splits, reading)


def as_columns(row: Any) -> Columns:
    """A row with named columns. Raises RowError for anything else."""
    if not isinstance(row, Mapping):
        kind = {str: "text", list: "a list", int: "a number", float: "a number"}.get(type(row), type(row).__name__)
        raise RowError("row without columns", f"is {kind} where a row with named columns is needed.")
    return Columns(row)


def rows_of(source: str | Path, reading: Reading, plain: bool) -> Iterator[Row]:
    """The rows of all files of a source, which are entered in the record as they are read."""
    found = find_files(source)
    reading.unused += found.passed_over
    if found.hub:
        yield from _counted(hub_rows(found.hub), FileRead(found.hub, "hub data set", None), reading)
        return
    damaged: list[LabError] = []
    for file in found.files:
        try:
            table = open_table(file)
            if table.format == "text" and not plain:
                kinds = ", ".join(TABLE_ENDINGS)
                raise NoRows("plain text", f"{file.name} is plain text; what is asked for is read from {kinds}.")
            yield from _counted(table.rows, _entry(file, table), reading)
        except NoRows as error:
            if len(found.files) == 1:
                raise
            reading.unused.append(f"file {file.name} ({error.kind})")
        except LabError as error:
            damaged.append(error)
            if 2 * len(damaged) > len(found.files):
                raise
            reading.warnings.append(f"Not read: {error}")
            reading.unused.append(f"file {file.name}")
        else:
            reading.warnings += table.warnings
            reading.unused += table.unused


def _counted(rows: Iterable[Row], entry: FileRead, reading: Reading) -> Iterator[Row]:
    reading.files.append(entry)
    for row in rows:
        entry.rows += 1
        yield row


def _entry(file: File, table: Table) -> FileRead:
    return FileRead(file.name, table.format, table.encoding)
