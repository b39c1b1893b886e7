"""``labkit read SOURCE --as KIND``: how a data source is read, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from labkit.commands.options import parse_options
from labkit.errors import LabError

if TYPE_CHECKING:
    from labkit.text.reading.preferences import Preference
    from labkit.text.reading.report import ReadReport
    from labkit.text.reading.rows import ParsedRows

Kind = Literal["text", "instructions", "preferences"]
KINDS: tuple[Kind, ...] = ("text", "instructions", "preferences")
SHOWN = 3
"""Rows that are shown to a reader at a terminal."""


@dataclass(frozen=True)
class ReadOptions:
    """Show how a data source is read, before anything is trained: files, encodings, rows, what is dropped and why.

    Nothing is written. A source that `labkit run` would refuse is refused here with the same message.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE", help_behavior_hint="")]
    """A file, a folder, or the name of a data set on the Hugging Face hub."""
    kind: Annotated[Kind, arg(name="as", help_behavior_hint="")]
    """What to read the source as: text (for pretraining), instructions (conversations for fine-tuning) or preferences
    (pairs, ranked lists, or single answers with a label or a rating, for the reward model and what follows)."""
    rows: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """How many rows (texts, conversations or pairs) to show: 3 when not given; with --json all of them."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print rows and counts as JSON."""


def print_data_source(options: ReadOptions) -> int:
    """Print what a source is understood as. Raises LabError where `labkit run` would: where only nothing can be held
    out of it, once its rows are shown.
    """
    if options.json:
        rows, reading = read_rows(options.source, options.kind)
        shown = rows if options.rows is None else rows[: max(0, options.rows)]
        print(json.dumps(reading.to_dict() | {"rows": shown}))
        return 0
    from labkit.text.reading.report import format_reading_lines

    rows, reading, refusal = _read(options.source, options.kind)
    print("\n".join(format_reading_lines(reading.to_dict_with_source())))
    for row in rows[: SHOWN if options.rows is None else max(0, options.rows)]:
        print("\n" + format_row(row))
    if refusal is not None:
        raise refusal
    return 0


def read_rows(path_or_hub_name: str, kind: Kind) -> tuple[list[dict[str, Any]], ReadReport]:
    """A source -> its rows as they are understood, in its order, and the record of the reading.

    Rows: {"text"}, {"messages": [{"role", "content"}]}, {"prompt": [messages], "chosen", "rejected"}, {"prompt":
    [messages], "responses": [texts from the best to the worst], "scores": [where there are some]}, {"prompt":
    [messages], "completion", "label"} or {"prompt": [messages], "completion", "rating"}. Raises LabError where `labkit
    run` would.
    """
    rows, reading, refusal = _read(path_or_hub_name, kind)
    if refusal is not None:
        raise refusal
    return rows, reading


def _read(source: str, kind: Kind) -> tuple[list[dict[str, Any]], ReadReport, LabError | None]:
    """What `read_rows` gives, and why nothing can be held out of it, if so."""
    if kind == "text":
        from labkit.text.reading.texts import read_unsplit_texts, split_texts

        texts = read_unsplit_texts(source)
        return [{"text": str(text)} for text in texts.values], texts.reading, _refusal(split_texts, texts)
    if kind == "instructions":
        from labkit.text.reading.conversations import read_unsplit_conversations, split_conversations

        talks = read_unsplit_conversations(source)
        turns = [{"messages": [m.to_dict() for m in talk.messages]} for talk in talks.values]
        return turns, talks.reading, _refusal(split_conversations, talks)
    from labkit.text.reading.preferences import read_unsplit_preferences, split_preferences

    pairs = read_unsplit_preferences(source)
    rows = [{"prompt": [m.to_dict() for m in one.prompt], **_answer_fields(one)} for one in pairs.values]
    return rows, pairs.reading, _refusal(split_preferences, pairs)


def _answer_fields(preference: Preference) -> dict[str, Any]:
    """chosen and rejected, the responses to a prompt from the best to the worst, or one and what was said of it."""
    from labkit.text.rankings import Ranking
    from labkit.text.unpaired import SingleAnswer

    if isinstance(preference, SingleAnswer):
        return {name: value for name, value in preference._asdict().items() if name != "prompt"}

    if isinstance(preference, Ranking):
        scores = {"scores": list(preference.scores)} if preference.scores else {}
        return {"responses": list(preference.answers), **scores}
    return {"chosen": preference.chosen, "rejected": preference.rejected}


def _refusal(split: Callable[[Any], Any], items: ParsedRows[Any]) -> LabError | None:
    """Why a part of what was read cannot be held out; None where it can."""
    try:
        split(items)
    except LabError as error:
        return error
    return None


def format_row(row: dict[str, Any], max_characters_per_text: int = 400) -> str:
    """One row for a reader: who says what, each cut after so many characters, which is said."""
    said = [(m["role"], m["content"]) for m in row.get("messages", row.get("prompt", []))]
    said += [(name, row[name]) for name in ("text", "chosen", "rejected", "completion") if name in row]
    said += [("label", "good" if row["label"] else "bad")] if "label" in row else []
    said += [("rating", f"{row['rating']:g}")] if "rating" in row else []
    said += [(f"response {place}", answer) for place, answer in enumerate(row.get("responses", []), start=1)]
    more = [
        f" … ({len(text) - max_characters_per_text:,} characters more)" if len(text) > max_characters_per_text else ""
        for _, text in said
    ]
    return "\n".join(
        f"{name}: {text[:max_characters_per_text]}{rest}" for (name, text), rest in zip(said, more, strict=True)
    )


def command(arguments: list[str]) -> int:
    """`labkit read`: its exit code."""
    return print_data_source(parse_options(ReadOptions, "read", arguments))
