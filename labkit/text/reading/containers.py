"""A file -> its rows: JSON, JSON lines, CSV, TSV, parquet; each packed with gzip too.

What a file is, is seen from what stands in it: the ending of its name is asked only where that leaves a doubt.
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.files import explain_read_errors
from labkit.text.reading.columns import KNOWN
from labkit.text.reading.csv_rows import check_unique_names, csv_rows, sniff_delimiter
from labkit.text.reading.encodings import (
    SAMPLE,
    decode,
    encoding_guess_warning,
    find_encoding,
    is_utf8,
    refuse_binary_files,
)
from labkit.text.reading.files import (
    ENDINGS,
    TEXT_ENDINGS,
    SourceFile,
    split_from_name_or_empty,
    suffix_without_gz,
)
from labkit.text.reading.json_values import parse_json_with_row_errors
from labkit.text.reading.long_text import LONG, LongText
from labkit.text.reading.report import RowError
from labkit.text.reading.wrappers import find_row_groups

JSON_ENDINGS = (".json", ".jsonl", ".ndjson")


class SourceRow(NamedTuple):
    """One row. value: an object, a list or a text; a RowError where it could not be read. location: file and row.
    split: train, validation, test or ''.
    """

    value: Any
    location: str
    split: str = ""


class OpenedDataFile(NamedTuple):
    """What a file turned out to be. format: json, jsonl, csv, tsv, parquet or text (then there is one row, the text).
    warnings: what was odd. unused_parts: names of what is no rows.
    """

    format: str
    encoding: str | None
    rows: Iterable[SourceRow]
    warnings: tuple[str, ...] = ()
    unused_parts: tuple[str, ...] = ()


class NoRows(LabError):
    """A file that is in order, and holds no rows: in a folder of others it is passed over. kind: what it is instead."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def open_data_file(file: SourceFile) -> OpenedDataFile:
    """Look into a file and read it. Raises LabError for what is empty, binary, damaged or of no known kind.

    A long file of plain text stays on the disk, as a LongText, unless it is parted into documents.
    """
    long = _long_table(file)
    if long is not None:
        return long
    data = read_bytes(file)
    if data.startswith(b"PAR1"):
        return OpenedDataFile("parquet", None, _parquet_rows(data, file))
    if suffix_without_gz(file.path) == ".parquet":
        refuse_binary_files(data, file.name)
        raise LabError(f"{file.name} is not a parquet file: it does not start like one. Is the download complete?")
    text, encoding, warning = decode(data, file.name)
    if not text.strip():
        raise LabError(f"{file.name} is empty.")
    warnings: tuple[str, ...] = (warning,) if warning else ()
    if suffix_without_gz(file.path) in (".csv", ".tsv"):
        delimiter, format = sniff_delimiter(text)
        rows = csv_rows(text, delimiter, file.name)
        numbered = (
            SourceRow(row, f"{file.name}, row {number}", file.split) for number, row in enumerate(rows, start=1)
        )
        return OpenedDataFile(format, encoding, numbered, warnings)
    _refuse_csv(text, file)
    if suffix_without_gz(file.path) in JSON_ENDINGS or looks_like_json_rows(text) and _is_json(text):
        return _json_table(text, encoding, warnings, file)
    if suffix_without_gz(file.path) not in TEXT_ENDINGS and file.path.suffix:
        raise LabError(
            f"{file.name} has an unknown file extension; supported are {', '.join(ENDINGS)}, and each with .gz."
        )
    if looks_like_json_rows(text):
        warnings += (f"{file.name} starts like JSON but is not valid JSON: it is read as plain text.",)
    return OpenedDataFile("text", encoding, _documents(text, file), warnings)


def _is_json(text: str) -> bool:
    """Whether a text is JSON, or at least half of its lines are: one that only begins so may be prose."""
    try:
        parse_json_with_row_errors(text)
    except ValueError:
        return _is_lines(text, first=False)
    return True


def _refuse_csv(text: str, file: SourceFile) -> None:
    """Raises LabError where a file of another name is a table with commas, which would be read as something else."""
    lines = list(itertools.islice(filter(str.strip, text.lstrip("\ufeff").split("\n")), 20))
    delimiter, format = sniff_delimiter(lines[0])
    names = [name.strip().strip('"').lower() for name in lines[0].split(delimiter)]
    named = len(names) > 1 and KNOWN.intersection(names) and all(re.fullmatch(r"[\w .-]{1,40}", n) for n in names)
    if named and len(lines) > 1 and all(line.count(delimiter) >= len(names) - 1 or '"' in line for line in lines):
        raise LabError(
            f"{file.name} is {format.upper()} by its content (its first line names the columns {', '.join(names)}), "
            f"not by its name. Rename it to {file.path.stem}.{format}."
        )


def _long_table(file: SourceFile) -> OpenedDataFile | None:
    """A file of one long plain text; None for any other."""
    if suffix_without_gz(file.path) not in TEXT_ENDINGS:
        return None
    with explain_read_errors(file.path), open(file.path, "rb") as opened:
        sample = opened.read(SAMPLE)
        if os.fstat(opened.fileno()).st_size <= LONG or sample.startswith(b"\x1f\x8b"):
            return None
    encoding = find_encoding(sample, file.name)
    begins = sample.decode(encoding, "replace")
    if looks_like_json_rows(begins):
        return None
    if begins.strip():
        _refuse_csv(begins.rpartition("\n")[0] or begins, file)
    text = _long_text(file, encoding, sample)
    encoding = text.encoding
    if text.parted or 20 * text.replaced > len(text):
        return None
    replaced = f"{file.name}: {text.replaced} bytes not of {encoding} replaced by U+FFFD" if text.replaced else ""
    warnings = tuple(filter(None, (encoding_guess_warning(sample, encoding, file.name), replaced)))
    return OpenedDataFile("text", encoding, [SourceRow(text, file.name, file.split)], warnings)


def _long_text(file: SourceFile, encoding: str, sample: bytes) -> LongText:
    """A long text in the encoding of its first bytes, or where these are ASCII alone, of those that are not UTF-8."""
    text = LongText(file.path, encoding)
    beyond = text.num_bytes - len(text) - 2 * text.replaced  # at least the characters beyond ASCII that are right
    if encoding != "utf-8" or not text.replaced or beyond > 10 * text.replaced:
        return text
    if is_utf8(text.stray):
        return text
    if not sample.isascii():
        raise LabError(
            f"{file.name} has mixed encodings: it begins in UTF-8, but not all of it is. Save all of it as UTF-8."
        )
    return LongText(file.path, find_encoding(text.stray, file.name))


def split_at_endoftext(text: str) -> list[str]:
    """A file of plain text -> its documents: parted by lines that hold <|endoftext|> alone, as TinyStories' are."""
    return re.split(r"(?m:\n?^)[ \t]*<\|endoftext\|>[ \t]*\r?(?:\n|$)", text)


def _documents(text: str, file: SourceFile) -> list[SourceRow]:
    documents = split_at_endoftext(text)
    if len(documents) == 1:
        return [SourceRow(text, file.name, file.split)]
    places = [f"{file.name}, document {number}" for number in range(1, len(documents) + 1)]
    return [SourceRow(text, place, file.split) for text, place in zip(documents, places, strict=True) if text.strip()]


def read_bytes(file: SourceFile) -> bytes:
    """A file's bytes, unpacked where they are gzip. Raises LabError where there are none, or they cannot be read."""
    try:
        data = file.path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LabError(f"{file.name} cannot be unpacked: {error}. Is the download complete?") from error
    except OSError as error:
        raise LabError(f"{file.name} cannot be read: {error.strerror or error}.") from error
    if not data.strip():
        raise LabError(f"{file.name} is empty.")
    return data


def looks_like_json_rows(text: str) -> bool:
    """Whether a text begins as JSON rows do: with an object of named values, in lists or not."""
    return re.match(r'\ufeff?\s*(\[\s*)*\{\s*"', text[:10_000]) is not None


def _json_table(text: str, encoding: str, warnings: tuple[str, ...], file: SourceFile) -> OpenedDataFile:
    """JSON, or a JSON value a line, whatever the file is called."""
    try:
        value = parse_json_with_row_errors(text)
    except ValueError as error:
        if _is_lines(text) or _is_strings(text, file):
            return OpenedDataFile("jsonl", encoding, _jsonl_rows(text, file), warnings)
        raise LabError(
            f"{file.name} is not JSON: {error}. Is the file complete? JSON lines have one whole object a line."
        ) from error
    try:
        found = find_row_groups(value)
    except LabError as error:
        raise LabError(f"{file.name} {error}") from error
    if isinstance(value, RowError):
        raise LabError(f"{file.name} {value}")
    if found is None and suffix_without_gz(file.path) in (".jsonl", ".ndjson"):
        return OpenedDataFile("jsonl", encoding, [SourceRow(value, f"{file.name}, line 1", file.split)], warnings)
    if found is None:
        raise NoRows("no rows", f"{file.name} contains no list of rows.")
    if not any(part.rows for part in found.row_groups):
        raise LabError(f"{file.name} is empty: it contains no row.")
    rows = [
        SourceRow(row, f"{file.name}, {f'{part.name} ' if part.name else ''}row {number}", part.split or file.split)
        for part in found.row_groups
        for number, row in enumerate(part.rows, start=1)
    ]
    return OpenedDataFile(
        "json", encoding, rows, warnings, tuple(f"{name} of {file.name}" for name in found.unused_parts)
    )


def _is_lines(text: str, first: bool = True) -> bool:
    """Whether at least half of the first lines are JSON by themselves; `first`: or the first line is."""
    lines = list(itertools.islice(filter(str.strip, text.split("\n")), 100))
    whole = [isinstance(_json(line), dict | list) for line in lines]
    return first and whole[0] or 2 * sum(whole) >= len(whole)


def _is_strings(text: str, file: SourceFile) -> bool:
    """Whether a file of JSON lines holds a text in quotes on most of them."""
    if suffix_without_gz(file.path) not in (".jsonl", ".ndjson"):
        return False
    lines = list(itertools.islice(filter(str.strip, text.split("\n")), 100))
    return 2 * sum(isinstance(_json(line), str) for line in lines) >= len(lines)


def _jsonl_rows(text: str, file: SourceFile) -> Iterator[SourceRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield SourceRow(_json(line), f"{file.name}, line {number}", file.split)


def _json(line: str) -> Any:
    """The value in a line, or a RowError."""
    try:
        return parse_json_with_row_errors(line)
    except ValueError as error:
        return RowError("broken line", f"is not JSON: {error}.")


def _parquet_rows(data: bytes, file: SourceFile) -> Iterator[SourceRow]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(io.BytesIO(data)) as table:
            check_unique_names(table.schema_arrow.names, file.name)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in table.iter_batches())
            for number, row in enumerate(rows, start=1):
                yield SourceRow(row, f"{file.name}, row {number}", file.split)
    except (ArrowException, OSError) as error:
        raise LabError(f"{file.name} is not a parquet file, or damaged: {error}") from error


def hub_splits(name: str) -> Mapping[str, Iterable[Any]]:
    """A data set on the Hugging Face hub, as its splits by their names. Raises LabError when there is none."""
    import datasets

    path, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, config or None)
    except Exception as error:  # whatever the library raises: no such name, no network
        raise LabError(
            f"{name} is not a file, and no data set of that name could be loaded from the hub: {error}"
        ) from error
    splits: Mapping[str, Iterable[Any]] = loaded if isinstance(loaded, dict) else {"train": loaded}
    training = [split for split in splits if split_from_name_or_empty(split) == "train"]
    if len(training) > 1:
        raise LabError(
            f"{name} has several splits to train on, {', '.join(training)}; which is meant? Save that one as a file "
            f"(datasets' to_parquet) and give the file."
        )
    return splits


def hub_rows(name: str, splits: Mapping[str, Iterable[Any]]) -> Iterator[SourceRow]:
    """The rows of all splits of a data set."""
    for split, rows in splits.items():
        for number, row in enumerate(rows, start=1):
            yield SourceRow(row, f"{name}, {split} row {number}", split_from_name_or_empty(split))
