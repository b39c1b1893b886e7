"""Readers given rows of any nesting give rows and counts, or words: never a raw error, and no text of their own.

LABKIT_FUZZ sets how many files are tried: LABKIT_FUZZ=10000 python -m pytest tests/text/reading/test_fuzz.py
"""

import ast
import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.commands.read import KINDS, read_rows
from labkit.errors import LabError
from labkit.text.clean import clean_text
from labkit.text.reading.columns import KNOWN

TRIES = int(os.environ.get("LABKIT_FUZZ", "100"))

words = st.sampled_from(
    ["Hi?", "Yes.", "", " ", "数えて", "\n\nHuman: Hi\n\nAssistant: Yes", "<|end|>", "[", '{"role": 1}', "\x0c"]
)
scalars = st.one_of(words, st.text(max_size=6), st.none(), st.booleans(), st.integers(), st.floats(), st.just(10**400))
values = st.recursive(
    scalars,
    lambda inside: st.one_of(st.lists(inside, max_size=3), st.dictionaries(words, inside, max_size=3)),
    max_leaves=6,
)
fields = st.one_of(words, values)
roles = st.one_of(st.sampled_from(["user", "assistant", "system", "Human", "gpt", "tool", "x"]), values)
parts = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": fields}), max_size=2)
turns = st.one_of(
    st.fixed_dictionaries({"role": roles, "content": st.one_of(fields, parts)}, optional={"weight": values}),
    st.fixed_dictionaries({"from": roles, "value": fields}, optional={"tool_calls": values}),
    values,
)
talks = st.one_of(
    st.lists(turns, max_size=4),
    st.lists(turns, max_size=2).map(json.dumps),
    st.lists(turns, max_size=2).map(str),
    fields,
)


def rows_with(*names, **optional):
    return st.fixed_dictionaries(dict.fromkeys(names, talks), optional=optional)


pointers = st.one_of(st.sampled_from(["a", "b", "answer_a", "tie", 0, 1, 2, "1", True]), values)
extra = {"system": fields, "history": talks, "label": values, "weight": values, "input": fields}
SHAPES = [
    rows_with("messages", **extra),
    rows_with("conversations", **extra),
    rows_with("instruction", "output", **extra),
    rows_with("prompt", "completion", rating=values, **extra),
    rows_with("question", "answer", context=fields),
    rows_with("text", title=values),
    rows_with("prompt", "chosen", "rejected", **extra),
    rows_with("chosen", "rejected", score=values),
    st.fixed_dictionaries(
        {"prompt": fields, "chosen": pointers, "answer_a": talks, "answer_b": talks},
        optional={"rejected": pointers, "responses": st.lists(talks, max_size=3), "label": pointers, "images": values},
    ),
    rows_with("prompt", "question", "answer", choices=st.lists(words, max_size=3), response=talks),
    st.fixed_dictionaries({"data": st.lists(fields, max_size=4)}),
    st.fixed_dictionaries({"row_idx": values, "row": values}, optional={"truncated_cells": values}),
    st.fixed_dictionaries(
        {"input": st.fixed_dictionaries({"messages": talks}), "preferred_output": talks, "non_preferred_output": talks}
    ),
    st.lists(turns, max_size=4),
]
"""The shapes of rows that are used most."""


def as_csv(rows):
    file = io.StringIO()
    table = [row for row in rows if isinstance(row, dict)] or [{"text": 1}]
    writer = csv.DictWriter(file, list(table[0]), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue()


CONTAINERS: dict[str, Callable[[Any], str]] = {
    "list.json": json.dumps,
    "lines.jsonl": lambda rows: "\n".join(map(json.dumps, rows)),
    "lines.json": lambda rows: "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    "wrapped.json": lambda rows: json.dumps({"tags": ["a"], "data": rows}),
    "splits.json": lambda rows: json.dumps({"train": rows, "test": rows[:2]}),
    "columns.json": lambda rows: json.dumps({name: list(range(len(rows))) for name in "ab"} | {"text": rows}),
    "numbered.json": lambda rows: json.dumps({str(index): row for index, row in enumerate(rows)}),
    "cut.json": lambda rows: json.dumps(rows)[:-2],
    "twice.json": lambda rows: json.dumps(rows).replace('"chosen"', '"prompt"').replace('"role"', '"content"'),
    "viewer.json": lambda rows: json.dumps({"rows": [{"row": row} for row in rows], "features": []}),
    "table.csv": as_csv,
    "rows.txt": lambda rows: json.dumps(rows),
}


LISTS = ("list.json", "lines.jsonl", "lines.json", "wrapped.json")
"""Containers whose rows are the rows that are put in."""
MARKS = {"Human:", "Assistant:"}


def leaves(value: Any) -> Iterator[str]:
    """The texts and numbers in a value, those in a list that is written out as a text too, and parts as one text."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, dict)]
        yield "".join(part for part in parts if isinstance(part, str))
        for inside in value:
            yield from leaves(inside)
    elif isinstance(value, str):
        yield value
        if value.lstrip()[:1] in ("[", "{"):
            yield from leaves(spelled(value))
    elif value is not None and not isinstance(value, bool):
        yield repr(value)


def spelled(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError):
            continue
    return None


def words_in(row: Any) -> str:
    return "\n".join(map(clean_text, leaves(row)))


def contents(row: dict[str, Any]) -> list[str]:
    """All that is said in a row that was kept."""
    said = [message["content"] for message in row.get("messages", row.get("prompt", []))]
    return said + [row[name] for name in ("text", "chosen", "rejected") if name in row]


def check_own_words(found: list[dict[str, Any]], rows: list[Any], name: str) -> None:
    """Each row that is kept is made of the words of one row."""
    if name == "table.csv":
        rows = [list(map(str, row.values())) for row in rows if isinstance(row, dict)] or ["1"]
    sources = [words_in(row) for row in rows]
    sources += ["\n".join(sources)] * (name in ("numbered.json", "columns.json"))
    for row in found:
        words = " ".join(contents(row)).split()
        assert any(all(word in source for word in words) for source in sources), row


def check_columns(found: list[dict[str, Any]], rows: list[dict[str, Any]], record: dict[str, Any]) -> None:
    """Each known column with a text is learned from, or named as one that is not, or points to an answer."""
    points = any("point to answers" in warning for warning in record["warnings"])
    for kept, row in zip(found, rows, strict=True):
        said = " ".join(contents(kept))
        for column, value in row.items():
            if column not in KNOWN or not isinstance(value, str) or points and column in ("chosen", "rejected"):
                continue
            named = any(entry.startswith(f"column {column}") for entry in record["unused"])
            if named or value.lstrip()[:1] in ("[", "{"):
                continue
            assert all(word in said for word in {*clean_text(value).split()} - MARKS), (column, row, kept)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.one_of(
        *(st.lists(shape, max_size=6) for shape in SHAPES), st.lists(st.one_of(*SHAPES, values), max_size=6)
    ),
    good=st.integers(0, 8),
    name=st.sampled_from(sorted(CONTAINERS)),
    packed=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-16", "gb18030", "cp1252", "cp866", "hz", "iso2022_jp"]),
)
def test_any_rows_give_rows_and_counts_or_words(tmp_path_factory, kind, rows, good, name, packed, encoding):
    sound = {"prompt": "Hi {}?", "completion": "Yes {}.", "chosen": "Yes {}.", "rejected": "No.", "text": "Text {}"}
    first = [{key: text.format(n) for key, text in sound.items()} for n in range(good)]
    written = CONTAINERS[name]([*first, *rows])
    data = written.encode(encoding, "replace")
    path = tmp_path_factory.getbasetemp() / f"{kind}-{name}"
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    try:
        found, reading = read_rows(str(path), kind)
    except LabError as error:
        assert str(error).strip()
        return
    assert found and reading.read == reading.kept + reading.dropped.total() and reading.kept == len(found)
    assert json.dumps(reading.to_dict_with_source() | {"rows": found})
    assert all(isinstance(text, str) for row in found for text in contents(row))
    encodings = {file.encoding for file in reading.files}
    exact = encoding.startswith("utf") and encodings <= {"utf-8", "utf-16"} or data.isascii() and encodings == {"utf-8"}
    exact = exact and data.decode(encoding) == written  # not every encoding has every sign
    if not exact or any(file.format == "text" for file in reading.files):
        return  # an older encoding is a guess
    every = [*first, *rows]
    check_own_words(found, every, name)
    if name in LISTS and len(found) == reading.read == len(every) and all(isinstance(row, dict) for row in every):
        check_columns(found, every, reading.to_dict())
