"""CSV -> the cells of its rows. A row whose quotes are broken is dropped whole, up to where its quotes close again."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from labkit.errors import LabError
from labkit.text.reading.report import RowError

LONGEST = 100
"""Lines in which the closing quote of a broken row is looked for."""
csv.field_size_limit(2**31 - 1)


_SEPARATOR = re.compile(r"[\ufeff\s]*\"?sep=([,;|\t])\"?[ ,;|\t]*\r?(?:\n|$)", re.IGNORECASE)
"""The line by which Excel is told what stands between the cells."""


class SniffedDelimiter(NamedTuple):
    """What stands between the cells of a table, and the name of that format: csv or tsv."""

    delimiter: str
    format: str


def sniff_delimiter(text: str) -> SniffedDelimiter:
    """What stands between the names of the first line, or what that line says does."""
    named = _SEPARATOR.match(text)
    first = text.lstrip("\ufeff\r\n ").partition("\n")[0]
    best = named[1] if named else max(",\t;|", key=first.count)
    return SniffedDelimiter(best, "tsv" if best == "\t" else "csv")


def csv_rows(text: str, delimiter: str, name: str) -> Iterator[dict[str, str] | RowError]:
    """The rows by the columns that the first line names. Raises LabError, with the file's `name`, where it names one
    twice or cannot be read.
    """
    names: list[str] | None = None
    for values in _values(_SEPARATOR.sub("", text, count=1), delimiter):
        if not isinstance(values, RowError) and not any(map(str.strip, values)):
            continue
        if names is None:
            if isinstance(values, RowError):
                raise LabError(f"{name}: its first line, which names the columns, {values}")
            names = check_unique_names(values, name)
        elif isinstance(values, RowError):
            yield values
        elif len(values) == len(names):
            yield dict(zip(names, values, strict=True))
        else:
            yield RowError("broken line", f"has {len(values)} of {len(names)} columns.")


class _Lines:
    """The lines of a text, one after another. at: the number of the next, which may be set back."""

    def __init__(self, text: str):
        self.lines = list(io.StringIO(text, newline=""))
        self.at = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.at == len(self.lines):
            raise StopIteration
        self.at += 1
        return self.lines[self.at - 1]


def _values(text: str, delimiter: str) -> Iterator[list[str] | RowError]:
    """The cells of each row. After a row with a bad quote, which may swallow others, it goes on where that one ends."""
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = lines.at
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            count = _span(lines.lines[start : start + LONGEST], delimiter)
            lines.at = start + count
            more = f" Its {count} lines are left out." if count > 1 else ""
            yield RowError("broken line", f"is not CSV: {error}.{more}")


def _span(lines: list[str], delimiter: str) -> int:
    """How many of some lines are of the broken row that they begin with: up to the one with the quote at a cell's end
    that closes all before; the first alone where there is none.

        ['"a "quote" here', 'and on', 'the end"', 'Hi'] -> 3
    """
    closes = re.compile(rf'"[ \t]*({re.escape(delimiter)}|[\r\n]|$)')
    quotes = 0
    for number, line in enumerate(lines, start=1):
        quotes += line.count('"')
        if quotes % 2 == 0 and (number == 1 or closes.search(line)):
            return number
    return 1


def check_unique_names(names: list[str], name: str) -> list[str]:
    """Names of columns. Raises LabError where one stands there twice, as one of the two would be lost."""
    spelled = [one.strip().lower() for one in names]
    twice = next((one for one in spelled if one and spelled.count(one) > 1), None)
    if twice is not None:
        raise LabError(f"{name} has the column {twice} twice. Rename or remove one.")
    return names
