"""What stands in a row -> text and messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.errors import LabError
from labkit.text.clean import clean_text
from labkit.world import Message

INPUT_COLUMNS = ("input", "context")
ROLES = {"human": "user", "gpt": "assistant"}


def read_message(turn: Any, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise LabError(f"{name} has a message that is no object with role and content: {turn!r}.")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    role = ROLES.get(str(role), role)
    if role not in ("system", "user", "assistant"):
        raise LabError(f"{name} has a message with the role {role!r}; roles are system, user and assistant.")
    return Message(role, clean_text(as_text(content)).strip())


def as_text(value: Any) -> str:
    return "" if value is None else str(value)
