"""Conversations to fine-tune on: rows of messages, or of a question and its answer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.text.clean import split_words
from labkit.text.reading.columns import (
    ANSWERS,
    CHOSEN,
    HISTORIES,
    INPUTS,
    KTO_LABELS,
    QUESTIONS,
    SYSTEMS,
    TEXTS,
    TURNS,
    TrackedRow,
    is_empty,
)
from labkit.text.reading.held_out import held_out_first_order, normalize_given_splits, record_duplicates, split_held_out
from labkit.text.reading.pointers import refuse_answer_reference
from labkit.text.reading.report import ReadReport, RowError
from labkit.text.reading.rows import ParsedRows, check_weight_and_media, parse_rows, record_turn_remarks, to_tracked_row
from labkit.text.reading.unpaired import required_label
from labkit.text.reading.values import (
    clean_field,
    field_to_messages,
    join_with_blank_line,
    parse_transcript,
    parse_turns,
)
from labkit.world import Document, Message


class Conversations(NamedTuple):
    """Conversations to train on, conversations held out, and what was made of their source."""

    train: list[Document]
    validation: list[Document]
    reading: ReadReport


def read_conversations(path_or_hub_name: str | Path, held_out: float = 0.1) -> Conversations:
    """Conversations from `path_or_hub_name`, cleaned and split by whole conversations.

    Raises LabError as `read_unsplit_conversations` does, and when fewer than two are left, one of them to hold out.
    """
    return split_conversations(read_unsplit_conversations(path_or_hub_name), held_out)


def split_conversations(items: ParsedRows[Document], held_out: float = 0.1) -> Conversations:
    """Conversations parted as their source has it, else by content. Raises LabError where there is one only."""
    if len(items.values) < 2:
        raise LabError(
            f"{items.reading.source} contains one conversation; 2 different ones are needed, one to hold out."
        )
    apart = normalize_given_splits(items.split_per_row, items.reading)
    if apart is None:
        return Conversations(*split_held_out(items.values, held_out, key=_key), items.reading)
    return Conversations(*items.partition(apart), items.reading)


def read_unsplit_conversations(path_or_hub_name: str | Path) -> ParsedRows[Document]:
    """All conversations of `path_or_hub_name`, in its order, cleaned; equal ones once, held out where one of them is.

    A row is a list of messages, or has columns: `messages` (or conversations), a list of role and content (or from and
    value); or a question (instruction, prompt, question, query; with input or context) and its answer (output,
    response, completion, answer), each a text or messages; or a `text` that is a transcript. Also read are system,
    history, weight, and label beside prompt and completion (false: no good answer, dropped). Raises LabError for a
    source without such rows, or when most of them cannot be used.
    """
    items = _answers_alone(parse_rows(path_or_hub_name, _conversation))
    kept: dict[str, int] = {}
    copies: dict[int, int] = {}
    for index in held_out_first_order(items.split_per_row):
        first = kept.setdefault(_key(items.values[index]), index)
        if first != index:
            copies[index] = first
    record_duplicates(copies, items.split_per_row, items.reading)
    items = items.select(sorted(kept.values()))
    items.reading.finish_and_check(len(items.values))
    return items


def question_messages(columns: TrackedRow, question_column: str) -> tuple[Message, ...]:
    """The turns that the column `question_column` asks with: system, history, then what stands there, with its input.

    Raises RowError where the question is empty.
    """
    value = columns.get([question_column])
    messages = field_to_messages(value)
    if messages is None:
        messages = _earlier(value)
    if messages is None:
        asked = join_with_blank_line(
            [clean_field(value), *(clean_field(columns.get([more])) for more in INPUTS if more != question_column)]
        )
        if not asked:
            raise RowError("empty question", f"has nothing in its column {question_column}.")
        messages = (Message("user", asked),)
    return prepend_system_message(columns, (*history_messages(columns), *messages))


def _earlier(value: Any) -> tuple[Message, ...] | None:
    """The turns of a transcript up to an answer that is still to come; None for what is no transcript.

    Raises RowError for one that ends with an answer.
    """
    messages = parse_transcript(value)
    if messages and messages[-1].role == "assistant":
        raise RowError("prompt without a question", "has a transcript as its prompt that ends with an answer.")
    return messages


def history_messages(columns: TrackedRow) -> tuple[Message, ...]:
    """Earlier turns from a column history: messages, or [question, answer] pairs. Raises RowError for anything else."""
    value = columns.get(HISTORIES)
    if is_empty(value):
        return ()
    messages = field_to_messages(value)
    if messages is not None:
        return messages
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise RowError("unknown history", "has a history that is neither messages nor [question, answer] pairs.")
    return tuple(
        Message(role, clean_field(said))
        for pair in value
        for role, said in zip(("user", "assistant"), pair, strict=True)
    )


def prepend_system_message(columns: TrackedRow, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages, led by what stands in a column system, unless they begin with a system message of their own."""
    if messages and messages[0].role == "system":
        return messages
    said = clean_field(columns.get(SYSTEMS))
    return (Message("system", said), *messages) if said else messages


def _conversation(row: Any, reading: ReadReport) -> tuple[Document, TrackedRow | None]:
    """One row -> a conversation. Raises RowError where it is none, or has nothing to learn."""
    columns = None if isinstance(row, list) else to_tracked_row(row)
    messages = parse_turns(row) if columns is None else _messages(columns)
    if columns is not None:
        check_weight_and_media(columns)
        if _is_good(columns) is False:
            raise RowError("label false", "is labelled as a bad answer.")
    if not any(message.role == "assistant" for message in messages):
        raise RowError("conversation without an answer", "has no assistant message to train on.")
    for message in messages:
        if not message.content:
            what = "answer" if message.role == "assistant" else "question"
            raise RowError(f"empty {what}", f"has an empty {what}.")
    if not any(message.role == "assistant" and message.weight for message in messages):
        raise RowError("weight 0", "has no answer with a weight above 0.")
    record_turn_remarks(
        reading, messages, [row] if columns is None else [columns.values[name] for name in columns.used]
    )
    return Document("conversation", "", messages), columns


def _messages(columns: TrackedRow) -> tuple[Message, ...]:
    name = columns.find_column(TURNS)
    if name is not None and not is_empty(columns.values[name]):
        return prepend_system_message(columns, parse_turns(columns.get(TURNS)))
    asked, answered = columns.find_unambiguous_column(QUESTIONS), columns.find_unambiguous_column(ANSWERS)
    if asked is None and columns.has_column(["input"]) and columns.has_column(["output"]):
        asked = "input"
    if asked is not None and answered is not None:
        refuse_answer_reference(columns, answered)
        return _exchange(
            question_messages(columns, asked), columns.get([answered]), plain=_is_plain(columns.values[asked])
        )
    if isinstance(columns.values.get("data"), list):
        return prepend_system_message(columns, _alternating(columns.get(["data"])))
    spoken = columns.find_column(TEXTS)
    said = parse_transcript(columns.values[spoken]) if spoken else None
    if said is not None:
        columns.used.add(str(spoken))
        return prepend_system_message(columns, said)
    hint = " Pairs of answers are given as preferences." if columns.has_column(CHOSEN) else ""
    if columns.has_column(["parent_id"]):
        hint = " Message trees are not supported: write each path from its root to an answer as messages."
    raise RowError(
        "unknown columns",
        f"has the columns {columns}; conversations need messages, or a question ({', '.join(QUESTIONS)}) and "
        f"its answer ({', '.join(ANSWERS)}).{hint}",
    )


def _alternating(said: list[Any]) -> tuple[Message, ...]:
    """Texts that user and assistant say by turns, as UltraChat has them. Raises RowError for what is no text."""
    roles = itertools.cycle(("user", "assistant"))
    return tuple(Message(role, clean_field(text)) for role, text in zip(roles, said, strict=False))


def _is_plain(asked: Any) -> bool:
    """Whether a question is a text that holds no messages."""
    return isinstance(asked, str) and field_to_messages(asked) is None


def _exchange(asked: tuple[Message, ...], answer: Any, plain: bool) -> tuple[Message, ...]:
    """A question and its answer, which may be messages, with the question before them once more.

    plain: whether the question is text. Then so is an answer that spells messages as JSON: it was asked for JSON.
    """
    said = field_to_messages(answer)
    if said is None or plain and isinstance(answer, str):
        return (*asked, Message("assistant", clean_field(answer)))
    return said if said[: len(asked)] == asked else (*asked, *said)


def _is_good(columns: TrackedRow) -> bool | None:
    """What a column label says of the answer; None where it says nothing of it.

    Beside a prompt and its completion, or called kto_tag, it is KTO's, which is true or false, 1 or 0: RowError for any
    other. Elsewhere it may be a class, of a question or of a text, and is not read.
    """
    names = KTO_LABELS if {"prompt", "completion"} <= columns.used else ["kto_tag"]
    given = columns.get(names)
    return None if is_empty(given) else required_label(given)


def _answers_alone(items: ParsedRows[Document]) -> ParsedRows[Document]:
    """The conversations without their question where nearly every answer begins with it, which is said."""
    last = [document.messages[-2:] for document in items.values]
    single = all([message.role for message in pair] == ["user", "assistant"] for pair in last)
    if not single or not answers_repeat_questions(
        [asked.content for asked, _ in last], [answer.content for _, answer in last]
    ):
        return items
    items.reading.warnings.append("The answers begin with their question once more, which is removed.")
    values = [
        document._replace(messages=(*document.messages[:-1], _after(*document.messages[-2:])))
        for document in items.values
    ]
    return ParsedRows(values, items.split_per_row, items.reading)


def _after(asked: Message, answer: Message) -> Message:
    """An answer without the question that it begins with."""
    return answer._replace(content=strip_repeated_question(answer.content, asked.content))


def _key(document: Document) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in document.messages)


def strip_repeated_question(answer: str, question: str) -> str:
    """An answer without the question that it begins with; as it stands where it only begins with the same letters, or
    with the one or two words that a question is: "walk" and "walked" are no such pair.
    """
    rest = answer.removeprefix(question)
    inside = question[-1:].isalnum() and re.match(r"\w", rest)
    short = question[-1:].isalnum() and len(split_words(question)) < 3
    if inside or short or not answer.startswith(question):
        return answer
    return rest.lstrip() or answer


def answers_repeat_questions(questions: Sequence[str], answers: Sequence[str]) -> bool:
    """Whether nearly all answers begin with their whole question, as some tools write them."""
    count = sum(
        strip_repeated_question(answer, asked) != answer for asked, answer in zip(questions, answers, strict=True)
    )
    return len(questions) > 1 and count > 0.9 * len(questions)
