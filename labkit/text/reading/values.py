"""What stands in a field of a row -> text, or messages: one converter for all readers.

What it does not know it refuses, never writes out as Python would.
"""

from __future__ import annotations

import ast
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from labkit.text.clean import clean_text
from labkit.text.reading.columns import MEDIA, is_empty
from labkit.text.reading.report import RowError
from labkit.text.reading.wrappers import is_message
from labkit.world import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
TOOLS = ("tool", "tools", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
"""Roles of turns that are said to or by a tool."""
CALLS = ("tool_calls", "function_call")
MASKS = ("weight", "train", "training", "trainable", "do_train", "train_on_turn", "loss")
"""Keys of a turn that say whether it is learned."""
WORDS = ("content", "value", "text", "parts")
"""Keys of a turn that may hold what is said."""
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 60
TEXT_PARTS = ("text", "input_text", "output_text")
_QUOTE = r"\\*['\"]"
_LIST = re.compile(rf"\s*\[\s*\{{\s*{_QUOTE}")
"""How a list of objects begins that was written out as text."""
_TURN = re.compile(rf"{_QUOTE}(role|from){_QUOTE}\s*:")
_SAID = re.compile(rf"{_QUOTE}(content|value){_QUOTE}\s*:")
SPEAKERS = {
    "human": "user",
    "user": "user",
    "instruction": "user",
    "assistant": "assistant",
    "response": "assistant",
}
"""Who speaks in a transcript; instruction and response after ### alone."""


def field_to_text(value: Any) -> str:
    """One field -> its text. Numbers are written as they are spelled, None and NaN are empty, parts of text are joined,
    a list of one text is that text.

    Raises RowError for anything else: a list of several texts, an object, a picture, true and false.
    """
    if isinstance(value, RowError):
        raise value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        return value
    if is_empty(value):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(map(_is_part, value)):
        return "".join(map(_part, value))
    raise RowError(
        f"{_kind(value)} instead of text",
        f"has {_kind(value)} where a text is needed: {shorten_repr(value)}. Give one text.",
    )


class CleanedText(str):
    """A cleaned text. removed_characters: how many characters cleaning took away, its ends included."""

    removed_characters: int = 0


def clean_field(value: Any) -> CleanedText:
    """One field -> its text, cleaned, without blank lines at its ends and blanks at its end.

    Nor with one blank before it, as completions begin; more are the indentation of its first line, and stay.
    """
    raw = field_to_text(value)
    text = re.sub(r"\A\s*\n", "", clean_text(raw)).rstrip()
    cleaned = CleanedText(text[1:] if re.match(r" \S", text) else text)
    cleaned.removed_characters = max(0, len(raw) - len(cleaned))
    return cleaned


def join_with_blank_line(parts: Iterable[CleanedText]) -> CleanedText:
    """Some texts as one, with an empty line between those that are not empty."""
    parts = list(parts)
    joined = CleanedText("\n\n".join(filter(None, parts)))
    joined.removed_characters = sum(part.removed_characters for part in parts)
    return joined


def removed_characters(text: str) -> int:
    """How many characters cleaning took away from a text."""
    return text.removed_characters if isinstance(text, CleanedText) else 0


def field_to_messages(value: Any) -> tuple[Message, ...] | None:
    """A field that holds messages -> those that are not empty system messages; None for a field that holds a text.

    Read are a list of messages and one message, and a list as JSON (or Python) writes it. Raises RowError for a message
    that is not understood, and for a list of them that was written out and is damaged.
    """
    if isinstance(value, str):
        value = _parsed(value)
    if is_message(value):
        value = [value]
    for turn in value if isinstance(value, list) else ():
        if isinstance(turn, RowError):
            raise turn
    if not isinstance(value, list) or not value or not any(map(_is_message, value)):
        return None
    read = map(_message, value)
    return tuple(message for message in read if message.content or message.role != "system")


def parse_transcript(text: Any) -> tuple[Message, ...] | None:
    """'\\n\\nHuman: Hi.\\n\\nAssistant: Hello.' -> two messages; None for what does not begin so, or nobody answers in.

    Turns begin with Human:, User: or Assistant:, after an empty line where any does, else on a line of their own; or
    with ### before these, and Instruction: or Response: too. An answer that is still to come is left out.
    """
    if not isinstance(text, str):
        return None
    names = "Human|User|Assistant"
    blank = re.search(r"\n[ \t]*\n[ \t]*Assistant:", text)
    mark = rf"(?:^|\n[ \t]*\n)\s*({names}):[ \t]*" if blank else rf"(?:^|\n)\s*({names}):[ \t]*"
    if re.match(r"\s*###", text):
        mark = rf"###[ \t]*({names}|Instruction|Response):[ \t]*"
    marks = list(re.finditer(mark, text))
    if not marks or text[: marks[0].start()].strip():
        return None
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    messages = [
        Message(SPEAKERS[mark.group(1).lower()], clean_field(text[mark.end() : end]))
        for mark, end in zip(marks, ends, strict=True)
    ]
    if not any(message.role == "assistant" for message in messages):
        return None
    if messages[-1].role == "assistant" and not messages[-1].content:
        messages.pop()
    return tuple(messages)


def parse_turns(value: Any) -> tuple[Message, ...]:
    """A field that must hold messages -> them. Raises RowError where it holds something else."""
    messages = field_to_messages(value)
    if messages is None:
        kind = _kind(value)
        raise RowError(
            "not messages",
            f"has {kind} where a list of messages, each with role and content, is needed: {shorten_repr(value)}.",
        )
    return messages


def unread_message_keys(fields: Iterable[Any]) -> Iterator[str]:
    """Keys of the turns in some fields, or beside these, that have a value and were not read, once for each."""
    for field in fields:
        field = _parsed(field) if isinstance(field, str) else field
        if isinstance(field, Mapping) and not is_message(field) and "messages" in field:
            yield from (str(key) for key, value in field.items() if key != "messages" and not is_empty(value))
            field = field.get("messages")
        for turn in field if isinstance(field, list) else [field]:
            if is_message(turn):
                read = ("role" if "role" in turn else "from", _words(turn), *MASKS, "masked")
                yield from (str(key) for key, value in turn.items() if key not in read and not is_empty(value))


def _words(turn: Mapping[str, Any]) -> str:
    """The key under which a turn holds what is said."""
    return next((key for key in WORDS if not is_empty(turn.get(key))), "content")


def _message(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(
            "not messages", (f"has a message that is not an object with role and content: {shorten_repr(turn)}.")
        )
    name = turn.get("role", turn.get("from"))
    spelled = name.strip().lower() if isinstance(name, str) else ""
    if spelled in TOOLS or any(not is_empty(turn.get(call)) for call in CALLS):
        raise RowError(
            "tool message", f"has a tool message (role {shorten_repr(name)}), which is not supported. Remove it."
        )
    role = ROLES.get(spelled)
    if role is None:
        message = f"has a message with the role {shorten_repr(name)}; roles are system, user and assistant."
        raise RowError("unknown role", message)
    for media in MEDIA:
        if not is_empty(turn.get(media)):
            raise RowError(f"{media} part", f"has a turn with {media}; only text is supported. Remove it.")
    return Message(role, clean_field(turn.get(_words(turn), "")), _weight(turn))


def _weight(turn: Mapping[str, Any]) -> int:
    """Whether an answer is learned: its weight (as OpenAI has it), or the like, or else not masked."""
    if turn.get("mask") is not None:
        raise RowError(
            "mask",
            f"has a message of mask {shorten_repr(turn['mask'])}: it is not clear whether it hides the turn. Use "
            "weight.",
        )
    found = {name: turn[name] for name in (*MASKS, "masked") if turn.get(name) is not None}
    for name, given in found.items():
        if given not in (0, 1):
            raise RowError(
                "weight", f"has a message of {name} {shorten_repr(given)}; it can be 1 (trained on) or 0 (not)."
            )
    learned = {int(not given if name == "masked" else given) for name, given in found.items()}
    if len(learned) > 1:
        raise RowError("weight", f"has a message of {' and '.join(found)}, which contradict each other. Keep one.")
    return learned.pop() if learned else 1


def _parsed(text: str) -> Any:
    """Messages that were kept as text, as CSV files do -> the list of them; any other text as it stands.

    One message alone may as well be an answer that is JSON, so it stays text. Raises RowError for a list that breaks
    off or has no commas between its messages.
    """
    if not _LIST.match(text) or not _TURN.search(text):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list) and any(map(is_message, value)) else text
    if not _SAID.search(text):
        return text
    raise RowError(
        "broken messages",
        (f"has a list of messages that is not valid JSON: {shorten_repr(text)}. Save it as JSON lines."),
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({"role", "from"} & value.keys())


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and ("type" in value or value.keys() == {"text"})


def _part(part: Mapping[str, Any]) -> str:
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
        name = kind if isinstance(kind, str) and kind.isidentifier() else "unknown"
        raise RowError(
            f"{name} part", f"has a part of type {shorten_repr(kind)} in a message; only text is supported. Remove it."
        )
    return part["text"]


def shorten_repr(value: Any) -> str:
    """A value as Python writes it, for a message: cut, and in one line."""
    return _SHOWN.repr(value)


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", bool: "true or false", bytes: "bytes"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), f"a {type(value).__name__}")
