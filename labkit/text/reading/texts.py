"""Plain text to pretrain on: whole files of text, and tables with a column of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labkit.text.clean import clean_text, find_duplicates
from labkit.text.pieces import Text
from labkit.text.reading.columns import QUESTIONS, TEXTS, TURNS, TrackedRow
from labkit.text.reading.held_out import held_out_first_order, hold_out_texts, normalize_given_splits, record_duplicates
from labkit.text.reading.long_text import LongText
from labkit.text.reading.report import ReadReport, RowError
from labkit.text.reading.rows import ParsedRows, parse_rows, to_tracked_row
from labkit.text.reading.values import field_to_text


class Texts(NamedTuple):
    """Documents to train on, documents held out, and what was made of their source. A long file of plain text stays on
    the disk, as a LongText.
    """

    train: Sequence[Text]
    validation: Sequence[Text]
    reading: ReadReport


def read_texts(path_or_hub_name: str | Path, held_out: float = 0.1) -> Texts:
    """Plain text from `path_or_hub_name`, cleaned and split: about a tenth of its characters is held out.

    Raises LabError as `read_unsplit_texts` does, and when there is too little to hold out.
    """
    return split_texts(read_unsplit_texts(path_or_hub_name), held_out)


def split_texts(items: ParsedRows[Text], held_out: float = 0.1) -> Texts:
    """Documents parted as their source has it, else by size. Raises LabError where they are too short."""
    apart = normalize_given_splits(items.split_per_row, items.reading)
    if apart is None:
        return Texts(*hold_out_texts(items.values, held_out), items.reading)
    return Texts(*items.partition(apart), items.reading)


def read_unsplit_texts(path_or_hub_name: str | Path) -> ParsedRows[Text]:
    """All documents of `path_or_hub_name`, in its order, cleaned, without duplicates and near-duplicates: of two the
    one that is held out is kept.

    A file of plain text is one document, or several between lines of <|endoftext|>; a row of a table is one: a text by
    itself, or what stands in its column text, content, story or document. Raises LabError for a source without text,
    or when most of its rows cannot be used.
    """
    items = parse_rows(path_or_hub_name, _text, include_plain_text=True)
    exact, near = (
        find_duplicates(items.values, held_out_first_order(items.split_per_row)) if len(items.values) > 1 else ({}, {})
    )
    record_duplicates(exact, items.split_per_row, items.reading)
    record_duplicates(near, items.split_per_row, items.reading, "near duplicate")
    items = items.select([index for index in range(len(items.values)) if index not in exact and index not in near])
    items.reading.finish_and_check(len(items.values))
    return items


def _text(row: Any, reading: ReadReport) -> tuple[Text, TrackedRow | None]:
    """One row -> its text, cleaned. Raises RowError where it has none."""
    if isinstance(row, LongText):  # which is cleaned whenever it is read
        reading.removed_characters += max(0, row.uncleaned_length - len(row))
        return row, None
    columns = to_tracked_row(row) if isinstance(row, Mapping) else None
    raw = field_to_text(row) if columns is None else field_to_text(_column(columns))
    text = clean_text(raw)
    if not text.strip():
        raise RowError("empty text", "has no text.")
    reading.removed_characters += max(0, len(raw) - len(text))
    return text, columns


def _column(columns: TrackedRow) -> Any:
    if not columns.has_column(TEXTS):
        hint = " Conversations are given as instructions." if columns.has_column((*TURNS, *QUESTIONS)) else ""
        raise RowError(
            "unknown columns", f"has the columns {columns}; plain text needs one of {', '.join(TEXTS)}.{hint}"
        )
    return columns.get(TEXTS)
