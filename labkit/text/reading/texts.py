"""Plain text to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.text.clean import Removed, clean_texts
from labkit.text.reading.containers import as_row, column_names, read_text, table_rows
from labkit.text.reading.files import find_files
from labkit.text.reading.held_out import hold_out

TEXT_COLUMNS = ("text", "content", "story", "document")


class Texts(NamedTuple):
    """Documents to train on, documents held out, and what cleaning took away."""

    train: list[str]
    validation: list[str]
    removed: Removed


def read_texts(source: str | Path, held_out: float = 0.1) -> Texts:
    """Plain text from `source`, cleaned and split.

    One text is split by characters, its last tenth held out; several are split by whole documents. Raises
    LabError for a missing, empty, binary or unreadable file, an unknown ending, or a table without a column
    of text.
    """
    raw = list(_texts(source))
    cleaned, removed = clean_texts(raw)
    if not cleaned:
        raise LabError(f"{source} holds no text.")
    if len(cleaned) == 1:
        cut = int(len(cleaned[0]) * (1 - held_out))
        train, validation = [cleaned[0][:cut]], [cleaned[0][cut:]]
        if not train[0] or not validation[0]:
            raise LabError(f"{source} is too short to hold a part out: {len(cleaned[0])} characters.")
        return Texts(train, validation, removed)
    return Texts(*hold_out(cleaned, held_out, key=str), removed)


def _texts(source: str | Path) -> Iterator[str]:
    for file in find_files(source):
        if isinstance(file, Path) and file.suffix.lower() == ".txt":
            yield read_text(file)
        else:
            yield from _column_of_text(table_rows(file), str(file))


def _column_of_text(rows: Iterable[Any], name: str) -> Iterator[str]:
    for row in rows:
        if isinstance(row, str):
            yield row
            continue
        row = as_row(row, name)
        column = next((column for column in TEXT_COLUMNS if isinstance(row.get(column), str)), None)
        if column is None:
            raise LabError(
                f"{name} has the columns {column_names(row)}; plain text needs one of {', '.join(TEXT_COLUMNS)}."
            )
        yield row[column]
