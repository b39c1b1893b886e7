"""Rows of published preference data whose columns have names of their own.

    {"prompt": …, "response_0": …, "response_1": …, "better_response_id": 1, "safer_response_id": 0}     PKU-SafeRLHF
    {"history": …, "human_ref_A": …, "human_ref_B": …, "labels": 1, "score_A": 9, "score_B": 2}          SHP

The card of the first ranks the two answers twice, by helpfulness (better_response_id) and by harmlessness
(safer_response_id); the first of these is read (https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF, "Ranking of
Responses"; arXiv:2406.15513). In the second, labels is 1 where A is preferred and 0 where B is, and a score is the
positive less the negative votes, plus 1 (https://huggingface.co/datasets/stanfordnlp/SHP, "Data Structure").

Trees of messages and a chosen answer beside a list of rejected ones are refused, with what to write instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.text.reading.columns import CHOSEN, REJECTED, TrackedRow, is_empty
from labkit.text.reading.report import RowError
from labkit.text.reading.strength import number_or_none
from labkit.text.reading.values import shorten_repr
from labkit.text.reading.wrappers import is_message

BETTER, SHP_ANSWERS = "better_response_id", ("human_ref_a", "human_ref_b")


def published_pair(columns: TrackedRow) -> tuple[Any, Any] | None:
    """The better and the worse answer of such a row; None for any other. Raises RowError where its number is none, and
    where labels and scores contradict each other.
    """
    if columns.has_value((*CHOSEN, *REJECTED)):
        return None
    if BETTER in columns.values and {"response_0", "response_1"} <= columns.values.keys():
        better = _number(columns, BETTER)
        return _take(columns, f"response_{better}"), _take(columns, f"response_{1 - better}")
    if not {*SHP_ANSWERS, "labels"} <= columns.values.keys():
        return None
    prefers_a = _number(columns, "labels")
    scores = [number_or_none(columns.values.get(name)) for name in ("score_a", "score_b")]
    if None not in scores:
        columns.used |= {"score_a", "score_b"}
        gap = (scores[0] or 0) - (scores[1] or 0)
        if gap * (1 if prefers_a else -1) < 0:
            raise RowError("labels and scores", "has labels that contradict score_A and score_B. Correct one of them.")
    if is_empty(columns.values.get("prompt")) and "history" in columns.values:
        columns.values["prompt"] = _take(columns, "history")
        columns.values["history"] = ""  # it is the prompt, and no turns before it
    first, second = (_take(columns, name) for name in SHP_ANSWERS)
    return (first, second) if prefers_a else (second, first)


def refuse_trees_and_lists(columns: TrackedRow) -> None:
    """Raises RowError for a tree of messages, and for one chosen answer beside a list of rejected ones."""
    prompt = columns.values.get("prompt")
    if isinstance(prompt, Mapping) and "replies" in prompt:
        raise RowError(
            "message tree",
            "has a tree of messages in its column prompt. Write a row for each message that has several replies: "
            "prompt, the messages up to it; answers, a list of its replies, each with text and rank.",
        )
    for name in CHOSEN:
        if not isinstance(columns.values.get(name), str):
            continue
        for other in REJECTED:
            answers = columns.values.get(other)
            if isinstance(answers, list) and len(answers) > 1 and not any(map(is_message, answers)):
                raise RowError(
                    "list of rejected answers",
                    f"has a list in its column {other}: {shorten_repr(answers)}. Write a row for each of its answers, "
                    f"with the same {name}; or responses and scores, where all are ranked.",
                )


def _number(columns: TrackedRow, name: str) -> int:
    """0 or 1."""
    columns.used.add(name)
    number = number_or_none(columns.values[name])
    if number not in (0, 1):
        raise RowError(name, f"has {shorten_repr(columns.values[name])} as its {name}; it must be 0 or 1.")
    return int(number or 0)


def _take(columns: TrackedRow, name: str) -> Any:
    columns.used.add(name)
    return columns.values[name]
