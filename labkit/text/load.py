"""Real text and real conversations: a file, a folder, or a data set of the hub, cleaned and split.

`.txt` is one document; `.jsonl`, `.json` and `.parquet` are tables with one document a row; a folder is all
such files in it. A name that is no path ("owner/name", "owner/name:config") is loaded by the `datasets`
library. What is held out depends on the content alone, not on the order of the rows, so it stays the same
when a run is repeated.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from labkit.errors import LabError
from labkit.text.clean import Removed, clean_text, clean_texts, distinct
from labkit.text.pairs import Pair
from labkit.world import Document, Message

TableRow = Mapping[str, Any]
T = TypeVar("T")

ENDINGS = (".txt", ".jsonl", ".json", ".parquet")
TEXT_COLUMNS = ("text", "content", "story", "document")
TURN_COLUMNS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
)
INPUT_COLUMNS = ("input", "context")
PROMPT_COLUMNS = ("prompt", "instruction", "question")
MESSAGE_COLUMNS = ("messages", "conversations")
ROLES = {"human": "user", "gpt": "assistant"}


class Texts(NamedTuple):
    """Documents to train on, documents held out, and what cleaning took away."""

    train: list[str]
    validation: list[str]
    removed: Removed


class Conversations(NamedTuple):
    """The same for conversations; `removed.empty` counts those without a question or an answer."""

    train: list[Document]
    validation: list[Document]
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


def read_conversations(source: str | Path, held_out: float = 0.1) -> Conversations:
    """Conversations from `source`, cleaned and split by whole conversations.

    The columns are `messages` (a list of role and content), or instruction (with an optional input) and
    output, or prompt and response or completion, or question and answer. Raises LabError as `read_texts`
    does, and when the columns are none of these: it names those found and those needed.
    """
    documents = [_conversation(row, name) for name, row in _rows(source)]
    filled = [document for document in documents if document is not None]
    keep, exact, near = distinct([_key(document) for document in filled])
    if len(keep) < 2:
        raise LabError(f"{source} holds {len(keep)} different conversations; at least 2 are needed, one held out.")
    removed = Removed(len(documents) - len(filled), exact, near)
    return Conversations(*hold_out([filled[index] for index in keep], held_out, key=_key), removed)


class Preferences(NamedTuple):
    """The same for preference pairs; `removed.empty` counts those that lack an answer or whose answers are equal."""

    train: list[Pair]
    validation: list[Pair]
    removed: Removed


def read_preferences(source: str | Path, held_out: float = 0.1) -> Preferences:
    """Preference pairs from `source`, cleaned and split by prompts, so that no held-out prompt was trained on.

    The columns are prompt (or instruction, with an optional input; or question), chosen and rejected; each is text or
    a list of messages. Raises LabError as `read_conversations` does, and when no two answers differ.
    """
    rows = [_pair(row, name) for name, row in _rows(source)]
    pairs = list(dict.fromkeys(pair for pair in rows if pair.chosen and pair.rejected and pair.chosen != pair.rejected))
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    if len(prompts) < 2:
        raise LabError(
            f"{source} holds {len(prompts)} prompts with a chosen and a rejected answer that differ; at least 2 are "
            f"needed, one held out."
        )
    _, validation = hold_out(prompts, held_out, key=str)
    apart = set(validation)
    train = [pair for pair in pairs if pair.prompt not in apart]
    different = sum(pair.chosen != pair.rejected and bool(pair.chosen and pair.rejected) for pair in rows)
    removed = Removed(len(rows) - different, different - len(pairs), 0)
    return Preferences(train, [pair for pair in pairs if pair.prompt in apart], removed)


def hold_out(items: Sequence[T], share: float, key: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """Split items into (train, validation) by the hash of their content: the share with the lowest is held
    out.

    At least one is held out and at least one left. Order is kept; the split does not depend on it.
    """
    count = min(max(1, round(len(items) * share)), len(items) - 1)
    digests = [hashlib.blake2b(key(item).encode(), digest_size=16).digest() for item in items]
    chosen = set(sorted(range(len(items)), key=digests.__getitem__)[:count])
    return (
        [item for index, item in enumerate(items) if index not in chosen],
        [item for index, item in enumerate(items) if index in chosen],
    )


def _texts(source: str | Path) -> Iterator[str]:
    for file in _files(source):
        if isinstance(file, Path) and file.suffix.lower() == ".txt":
            yield _read_text(file)
        else:
            yield from _column_of_text(_table(file), str(file))


def _rows(source: str | Path) -> Iterator[tuple[str, TableRow]]:
    for file in _files(source):
        if isinstance(file, Path) and file.suffix.lower() == ".txt":
            raise LabError(f"{file} is plain text; conversations are read from {', '.join(ENDINGS[1:])}.")
        for row in _table(file):
            yield str(file), _as_row(row, str(file))


def _files(source: str | Path) -> list[Path | str]:
    """A source -> its files, or the name of a hub data set as it stands."""
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        if not files:
            raise LabError(f"The folder {path} holds no {', '.join(ENDINGS)} file.")
        return list(files)
    if path.is_file():
        if path.suffix.lower() not in ENDINGS:
            raise LabError(f"{path} has an unknown ending; known are {', '.join(ENDINGS)}.")
        return [path]
    is_name = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?", str(source))
    if not is_name or path.suffix.lower() in ENDINGS:
        raise LabError(f"There is no file or folder {path}.")
    return [str(source)]


def _table(file: Path | str) -> Iterable[Any]:
    """The rows of one table."""
    if isinstance(file, str):
        return _hub_rows(file)
    if file.suffix.lower() == ".parquet":
        return _parquet_rows(file)
    text = _read_text(file)
    return _jsonl_rows(text, file) if file.suffix.lower() == ".jsonl" else _json_rows(text, file)


def _read_text(file: Path) -> str:
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


def _column_of_text(rows: Iterable[Any], name: str) -> Iterator[str]:
    for row in rows:
        if isinstance(row, str):
            yield row
            continue
        row = _as_row(row, name)
        column = next((column for column in TEXT_COLUMNS if isinstance(row.get(column), str)), None)
        if column is None:
            raise LabError(f"{name} has the columns {_names(row)}; plain text needs one of {', '.join(TEXT_COLUMNS)}.")
        yield row[column]


def _conversation(row: TableRow, name: str) -> Document | None:
    """One row -> a conversation, or None where a question or an answer is empty."""
    messages = _messages(row, name)
    if any(not message.content.strip() for message in messages):
        return None
    if not any(message.role == "assistant" for message in messages):
        return None
    return Document("conversation", "", messages)


def _messages(row: TableRow, name: str) -> tuple[Message, ...]:
    for column in MESSAGE_COLUMNS:
        if row.get(column) is not None:
            return tuple(_message(turn, name) for turn in row[column])
    for question, answer in TURN_COLUMNS:
        if question in row and answer in row:
            asked = [row[question], *(row[column] for column in INPUT_COLUMNS if row.get(column))]
            user = "\n\n".join(clean_text(_string(part)).strip() for part in asked)
            return (Message("user", user), Message("assistant", clean_text(_string(row[answer])).strip()))
    needed = " or ".join([*MESSAGE_COLUMNS[:1], *(" and ".join(pair) for pair in TURN_COLUMNS)])
    raise LabError(f"{name} has the columns {_names(row)}; conversations need {needed}.")


def _pair(row: TableRow, name: str) -> Pair:
    """One row -> a pair, its answers perhaps empty or equal."""
    column = next((column for column in PROMPT_COLUMNS if row.get(column)), None)
    if column is None or "chosen" not in row or "rejected" not in row:
        raise LabError(
            f"{name} has the columns {_names(row)}; preferences need chosen, rejected and one of "
            f"{', '.join(PROMPT_COLUMNS)}."
        )
    if isinstance(row[column], str):
        asked = [row[column], *(row[more] for more in INPUT_COLUMNS if row.get(more))]
        prompt: tuple[Message, ...] = (
            Message("user", "\n\n".join(clean_text(_string(part)).strip() for part in asked)),
        )
    else:
        prompt = tuple(_message(turn, name) for turn in row[column])
    return Pair(prompt, _answer(row["chosen"], name), _answer(row["rejected"], name))


def _answer(value: Any, name: str) -> str:
    """An answer as it stands, or the last of a list of messages."""
    if isinstance(value, str) or value is None:
        return clean_text(_string(value)).strip()
    messages = [_message(turn, name) for turn in value]
    return messages[-1].content if messages else ""


def _message(turn: Any, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise LabError(f"{name} has a message that is no object with role and content: {turn!r}.")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    role = ROLES.get(str(role), role)
    if role not in ("system", "user", "assistant"):
        raise LabError(f"{name} has a message with the role {role!r}; roles are system, user and assistant.")
    return Message(role, clean_text(_string(content)).strip())


def _key(document: Document) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in document.messages)


def _as_row(row: Any, name: str) -> TableRow:
    if not isinstance(row, Mapping):
        raise LabError(f"{name} holds {type(row).__name__} where a row with named columns is needed.")
    return row


def _string(value: Any) -> str:
    return "" if value is None else str(value)


def _names(row: TableRow) -> str:
    return ", ".join(map(str, row)) or "none"
