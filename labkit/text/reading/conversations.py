"""Conversations to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from labkit.errors import LabError
from labkit.text.clean import Removed, clean_text, distinct
from labkit.text.reading.containers import TableRow, column_names, named_rows
from labkit.text.reading.held_out import hold_out
from labkit.text.reading.values import INPUT_COLUMNS, as_text, read_message
from labkit.world import Document, Message

TURN_COLUMNS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
)
MESSAGE_COLUMNS = ("messages", "conversations")


class Conversations(NamedTuple):
    """The same for conversations; `removed.empty` counts those without a question or an answer."""

    train: list[Document]
    validation: list[Document]
    removed: Removed


def read_conversations(source: str | Path, held_out: float = 0.1) -> Conversations:
    """Conversations from `source`, cleaned and split by whole conversations.

    The columns are `messages` (a list of role and content), or instruction (with an optional input) and
    output, or prompt and response or completion, or question and answer. Raises LabError as `read_texts`
    does, and when the columns are none of these: it names those found and those needed.
    """
    documents = [_conversation(row, name) for name, row in named_rows(source)]
    filled = [document for document in documents if document is not None]
    keep, exact, near = distinct([_key(document) for document in filled])
    if len(keep) < 2:
        raise LabError(f"{source} holds {len(keep)} different conversations; at least 2 are needed, one held out.")
    removed = Removed(len(documents) - len(filled), exact, near)
    return Conversations(*hold_out([filled[index] for index in keep], held_out, key=_key), removed)


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
            return tuple(read_message(turn, name) for turn in row[column])
    for question, answer in TURN_COLUMNS:
        if question in row and answer in row:
            asked = [row[question], *(row[column] for column in INPUT_COLUMNS if row.get(column))]
            user = "\n\n".join(clean_text(as_text(part)).strip() for part in asked)
            return (Message("user", user), Message("assistant", clean_text(as_text(row[answer])).strip()))
    needed = " or ".join([*MESSAGE_COLUMNS[:1], *(" and ".join(pair) for pair in TURN_COLUMNS)])
    raise LabError(f"{name} has the columns {column_names(row)}; conversations need {needed}.")


def _key(document: Document) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in document.messages)
