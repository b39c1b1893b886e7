"""Files -> rows: JSON, JSON lines, parquet, and data sets of the hub; and a file of plain text -> its text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.text.reading.files import ENDINGS, find_files

TableRow = Mapping[str, Any]


def named_rows(source: str | Path) -> Iterator[tuple[str, TableRow]]:
    for file in find_files(source):
        if isinstance(file, Path) and file.suffix.lower() == ".txt":
            raise LabError(f"{file} is plain text; conversations are read from {', '.join(ENDINGS[1:])}.")
        for row in table_rows(file):
            yield str(file), as_row(row, str(file))


def table_rows(file: Path | str) -> Iterable[Any]:
    """The rows of one table."""
    if isinstance(file, str):
        return _hub_rows(file)
    if file.suffix.lower() == ".parquet":
        return _parquet_rows(file)
    text = read_text(file)
    return _jsonl_rows(text, file) if file.suffix.lower() == ".jsonl" else _json_rows(text, file)


def read_text(file: Path) -> str:
    data = file.read_bytes()
    if not data.strip():
        raise LabError(f"{file} is empty.")
    if b"\0" in data[:65536]:
        raise LabError(f"{file} is a binary file, not text (it holds zero bytes).")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabError(
            f"{file} is not text in UTF-8: byte {data[error.start]:#04x} at position {error.start}. "
            "Convert it first, or is it a binary file?"
        ) from error


def _json_rows(text: str, file: Path) -> list[Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise LabError(f"{file} is not JSON: {error}.") from error
    if isinstance(data, dict):  # {"data": [rows]}, as many files are wrapped
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if not isinstance(data, list):
        raise LabError(f"{file} holds no list of rows.")
    if not data:
        raise LabError(f"{file} is empty.")
    return data


def _jsonl_rows(text: str, file: Path) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise LabError(f"{file}, line {number}, is not JSON: {error}.") from error


def _parquet_rows(file: Path) -> Iterator[TableRow]:
    from pyarrow import ArrowException, parquet

    if not file.stat().st_size:
        raise LabError(f"{file} is empty.")
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except ArrowException as error:
        raise LabError(f"{file} is not a parquet file: {error}") from error


def _hub_rows(name: str) -> Iterable[TableRow]:
    import datasets

    path, _, config = name.partition(":")
    try:
        return datasets.load_dataset(path, config or None, split="train")
    except Exception as error:  # whatever the library raises: no such name, no network, no train split
        raise LabError(f"{name} is no file here, and the hub gave no data set of that name: {error}") from error


def as_row(row: Any, name: str) -> TableRow:
    if not isinstance(row, Mapping):
        raise LabError(f"{name} holds {type(row).__name__} where a row with named columns is needed.")
    return row


def column_names(row: TableRow) -> str:
    return ", ".join(map(str, row)) or "none"
