"""Rows with several answers and a number for each, a score or a rank, from which their order follows.

    {"prompt": …, "responses": ["In Lund.", "In Oslo.", "No."], "scores": [7, 9.5, 1]}
    {"instruction": …, "completions": [{"response": "In Lund.", "overall_score": 7}, …]}     as in UltraFeedback
    {"prompt": …, "answers": [{"answer": "In Lund.", "rank": 2}, …]}                         as in Nectar

A list without numbers is no ranking: nobody says that it is in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.text.reading.columns import TrackedRow
from labkit.text.reading.report import ReadReport, RowError
from labkit.text.reading.values import shorten_repr

LISTS = ("responses", "completions", "answers", "candidates", "outputs", "generations")
TEXTS = ("response", "completion", "answer", "output", "text", "content")
SCORES, RANKS = ("overall_score", "score", "rating", "reward"), ("rank",)
"""Of these numbers the highest is the best, and of these the lowest."""


def ranked_answers(columns: TrackedRow, reading: ReadReport) -> list[Any] | None:
    """The answers of such a row from the best to the worst, of several with the same number the first; None for any
    other row. Raises RowError where a number is none, or all are the same.
    """
    name = columns.find_column(LISTS)
    given = columns.values[name] if name else None
    if name is None or not isinstance(given, list) or len(given) < 2:
        return None
    inside = all(isinstance(one, Mapping) for one in given)
    found = _inside(given) if inside else _beside(columns, len(given))
    if found is None:
        return None
    kind, numbers = found
    texts = [next((one[key] for key in TEXTS if key in one), None) for one in given] if inside else given
    columns.used.add(name)
    values = [_number(one, kind) for one in numbers]
    best_first = sorted(range(len(values)), key=lambda at: values[at] if kind in RANKS else -values[at])
    order = list({values[at]: at for at in reversed(best_first)}.values())[::-1]
    if len(order) < 2:
        raise RowError("tie", f"has no better answer: every {kind} is the same.")
    if len(order) < len(values):
        words = f"Several answers have the same {kind}; the first of them is ranked, the others are left out."
        reading.row_remarks[words] += 1
    return [texts[at] for at in order]


def _inside(answers: Sequence[Mapping[str, Any]]) -> tuple[str, list[Any]] | None:
    """The first kind of number that every answer has, and these; None without one."""
    for kind in (*SCORES, *RANKS):
        if all(kind in one for one in answers):
            return kind, [one[kind] for one in answers]
    return None


def _beside(columns: TrackedRow, size: int) -> tuple[str, list[Any]] | None:
    """The same from a column with a number for each answer: scores, ranks."""
    for kind in (*SCORES, *RANKS):
        numbers = columns.values.get(f"{kind}s")
        if isinstance(numbers, list) and len(numbers) == size:
            columns.used.add(f"{kind}s")
            return kind, numbers
    return None


def _number(value: Any, kind: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(kind, f"has {shorten_repr(value)} as a {kind}, which is not a number.")
    return number
