"""A JSON value -> the lists of rows in it: a list, an object around lists, columns, or what pandas writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.text.reading.columns import ANSWER_LISTS, HISTORIES, KNOWN, QUESTIONS
from labkit.text.reading.files import split_from_name_or_empty
from labkit.text.reading.report import RowError

DEPTH = 3
"""Objects around objects that are looked into."""


class RowGroup(NamedTuple):
    """A list of rows. name: what it is called, '' when it has no name; split: train, validation, test or ''."""

    rows: list[Any]
    name: str = ""
    split: str = ""


class FoundRowGroups(NamedTuple):
    """The lists of rows in a value, and the names of those of its parts that are none."""

    row_groups: list[RowGroup]
    unused_parts: list[str]


def find_row_groups(value: Any) -> FoundRowGroups | None:
    """The rows in a JSON value; None where there are none. Raises LabError where several lists could be meant."""
    if isinstance(value, Mapping) and _is_viewer(value.get("rows")):
        return _of_viewer(value)
    if is_message_list(value):
        return FoundRowGroups([RowGroup([value])], [])
    if isinstance(value, list):
        return FoundRowGroups([RowGroup(value)], [])
    if isinstance(value, Mapping) and _is_row_with_answers(value):
        return FoundRowGroups([RowGroup([value])], [])
    found = _objects(value, DEPTH) if isinstance(value, Mapping) else None
    if found is not None or not isinstance(value, Mapping):
        return found
    fields = {str(name).lower(): field for name, field in value.items()}
    if any(name in KNOWN and isinstance(field, str) or is_message_list(field) for name, field in fields.items()):
        return FoundRowGroups([RowGroup([value])], [])
    return _named({name: inside for name, inside in value.items() if isinstance(inside, list)}, value)


def _is_row_with_answers(value: Mapping[str, Any]) -> bool:
    """Whether an object is one row: a question and a list of answers to it, as in UltraFeedback."""
    fields = {str(name).lower(): field for name, field in value.items()}
    asked = any(isinstance(fields.get(name), str) for name in QUESTIONS)
    return asked and any(isinstance(fields.get(name), list) for name in ANSWER_LISTS)


def _is_viewer(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and all(isinstance(r, Mapping) and "row" in r for r in rows)


def _of_viewer(value: Mapping[str, Any]) -> FoundRowGroups:
    """{"rows": [{"row_idx": 0, "row": {…}, "truncated_cells": []}, …]} as the API of the hub's viewer gives them."""
    rows = [
        RowError("truncated cell", "has truncated cells (truncated_cells).")
        if row.get("truncated_cells")
        else row["row"]
        for row in value["rows"]
    ]
    total = value.get("num_rows_total")
    more = [f"{total - len(rows):,} rows left out"] if isinstance(total, int) and total > len(rows) else []
    return FoundRowGroups([RowGroup(rows)], more)


def is_message_list(value: Any) -> bool:
    """Whether a value is one conversation: a list of messages, and not of those of a tree, which know their parent."""
    return (
        isinstance(value, list) and bool(value) and all(is_message(turn) and "parent_id" not in turn for turn in value)
    )


def is_message(value: Any) -> bool:
    """Whether a value is a message: who says it, and what."""
    if not isinstance(value, Mapping):
        return False
    return bool({"role", "from"} & value.keys()) and bool({"content", "value", "text", "parts"} & value.keys())


def _objects(value: Mapping[str, Any], depth: int) -> FoundRowGroups | None:
    """The rows that are objects or conversations, here or in an object inside."""
    columns = _from_columns(value)
    if columns is not None:
        return FoundRowGroups([RowGroup(columns)], [])
    lists = {name: inside for name, inside in value.items() if _is_rows(inside) and name.lower() not in HISTORIES}
    if lists:
        return _named(lists, value)
    inside = {name: _objects(box, depth - 1) for name, box in value.items() if isinstance(box, Mapping) and depth}
    found = {name: wrapped for name, wrapped in inside.items() if wrapped is not None}
    if len(found) != 1:
        return None
    ((name, wrapped),) = found.items()
    return FoundRowGroups(
        wrapped.row_groups, [*wrapped.unused_parts, *(f"part {other}" for other in value if other != name)]
    )


def _is_rows(value: Any) -> bool:
    if not isinstance(value, list) or is_message_list(value):
        return False
    return any(isinstance(row, Mapping) or is_message_list(row) for row in value)


def _named(lists: Mapping[str, list[Any]], value: Mapping[str, Any]) -> FoundRowGroups | None:
    """The only list of rows, or the lists that are named as splits are."""
    if not lists:
        return None
    training = [name for name in lists if split_from_name_or_empty(name) == "train"]
    empty = [name for name, rows in value.items() if split_from_name_or_empty(name) == "train" and rows == []]
    if empty and not training and any(map(split_from_name_or_empty, lists)):
        raise LabError(f"contains nothing to train on: its split {empty[0]} is empty. Give rows to train on.")
    if len(training) > 1:
        raise LabError(f"contains several splits to train on, {', '.join(training)}; which is meant? Keep one of them.")
    if len(lists) > 1 and not all(map(split_from_name_or_empty, lists)):
        names = ", ".join(lists)
        raise LabError(f"contains several lists, {names}; which is meant? Keep one, or make a file of each.")
    parts = [
        RowGroup(rows, name if len(lists) > 1 else "", split_from_name_or_empty(name)) for name, rows in lists.items()
    ]
    return FoundRowGroups(parts, [f"part {name}" for name in value if name not in lists])


def _from_columns(value: Mapping[str, Any]) -> list[Any] | None:
    """Rows from an object of equally long columns: {"a": [1, 2], "b": [3, 4]} -> [{"a": 1, "b": 3}, …].

    Also as pandas writes it: {"a": {"0": 1, "1": 2}, …}, {"0": {"a": 1, …}, …}, {"columns": […], "data": [[…], …]}.
    """
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        if all(isinstance(row, list) and len(row) == len(columns) for row in data):
            return [dict(zip(columns, row, strict=True)) for row in data]
    inside = list(value.values())
    if len(inside) > 1 and all(map(_is_column, inside)) and not any(map(split_from_name_or_empty, value)):
        if len(set(map(len, inside))) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*inside, strict=True)]
    if inside and all(isinstance(column, Mapping) and column for column in inside):
        keys = inside[0].keys()
        if all(_numbered(column) and column.keys() == keys for column in inside):
            return [{name: column[key] for name, column in value.items()} for key in keys]
        if _numbered(value):
            return inside
    return None


def _is_column(value: Any) -> bool:
    if not isinstance(value, list) or is_message_list(value):
        return False
    return not _is_rows(value) or all(map(is_message_list, value))


def _numbered(value: Mapping[str, Any]) -> bool:
    return all(str(key).isdigit() for key in value)
