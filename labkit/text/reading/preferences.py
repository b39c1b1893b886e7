"""Preference pairs to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.text.clean import Removed, clean_text
from labkit.text.pairs import Pair
from labkit.text.reading.containers import TableRow, column_names, named_rows
from labkit.text.reading.held_out import hold_out
from labkit.text.reading.values import INPUT_COLUMNS, as_text, read_message
from labkit.world import Message

PROMPT_COLUMNS = ("prompt", "instruction", "question")


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
    rows = [_pair(row, name) for name, row in named_rows(source)]
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


def _pair(row: TableRow, name: str) -> Pair:
    """One row -> a pair, its answers perhaps empty or equal."""
    column = next((column for column in PROMPT_COLUMNS if row.get(column)), None)
    if column is None or "chosen" not in row or "rejected" not in row:
        raise LabError(
            f"{name} has the columns {column_names(row)}; preferences need chosen, rejected and one of "
            f"{', '.join(PROMPT_COLUMNS)}."
        )
    if isinstance(row[column], str):
        asked = [row[column], *(row[more] for more in INPUT_COLUMNS if row.get(more))]
        prompt: tuple[Message, ...] = (
            Message("user", "\n\n".join(clean_text(as_text(part)).strip() for part in asked)),
        )
    else:
        prompt = tuple(read_message(turn, name) for turn in row[column])
    return Pair(prompt, _answer(row["chosen"], name), _answer(row["rejected"], name))


def _answer(value: Any, name: str) -> str:
    """An answer as it stands, or the last of a list of messages."""
    if isinstance(value, str) or value is None:
        return clean_text(as_text(value)).strip()
    messages = [read_message(turn, name) for turn in value]
    return messages[-1].content if messages else ""
