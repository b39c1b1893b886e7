"""Rows with several answers and a number for each, a score or a rank, from which their order follows.

    {"prompt": …, "responses": ["In Lund.", "In Oslo.", "No."], "scores": [7, 9.5, 1]}
    {"prompt": …, "responses": ["In Lund.", "In Oslo.", "No."], "ranks": [2, 1, 3]}          the place of each answer
    {"instruction": …, "completions": [{"response": "In Lund.", "overall_score": 7}, …]}     as in UltraFeedback
    {"prompt": …, "answers": [{"answer": "In Lund.", "rank": 2}, …]}                         as in Nectar

A list without numbers is no ranking: nobody says that it is in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from labkit.text.reading.columns import ANSWER_LISTS, TrackedRow, is_empty
from labkit.text.reading.pointers import parse_listed
from labkit.text.reading.report import RowError
from labkit.text.reading.values import shorten_repr

TEXTS = ("response", "completion", "answer", "output", "text", "content")
SCORES, RANKS = ("overall_score", "score", "rating", "reward", "pm_score"), ("rank",)
"""Of these numbers the highest is the best, and of these the lowest."""
BESIDE = {kind: (f"{kind}s", kind) for kind in (*SCORES, *RANKS)} | {"reward": ("rewards", "reward", "all_rm_scores")}
"""Columns that may hold a list of such numbers, one for each answer."""
NO_NUMBER = ("n/a", "na", "nan", "none", "null", "-")
"""How a number that nobody gave may be spelled."""
MAX_ANSWERS = 64
"""Of a list: these are 2,016 pairs."""


class ScoredAnswers(NamedTuple):
    """The answers of a row that have a number, from the best to the worst, of several with the same number the first
    before the others; and these numbers.

    kind: score, rank and so on. remarks: what is odd in the row. unread_keys: of the answers' objects.
    """

    answers: list[Any]
    numbers: list[float]
    kind: str
    remarks: list[str]
    unread_keys: list[str]


def scored_answers(columns: TrackedRow) -> ScoredAnswers | None:
    """The answers of such a row; None for any other row. Raises RowError where a number is none, where score and rank
    contradict each other, and for too few or too many answers.
    """
    name = columns.find_column(ANSWER_LISTS)
    given = parse_listed(columns.values[name]) if name else None
    if name is None or not isinstance(given, list):
        return None
    objects = [{str(key).strip().lower(): value for key, value in one.items()} for one in given if _is_object(one)]
    inside = objects and len(objects) == len(given)
    found = (inside and _inside(objects)) or _beside(columns, name, len(given))
    if not found:
        return None
    _check_size(name, len(given))
    columns.used.add(name)
    kind = max(found, key=lambda kind: sum(not _is_missing(one) for one in found[kind]))  # of equals the first
    numbers = {kind: [_number(one, kind) for one in given_numbers] for kind, given_numbers in found.items()}
    _check_agreement(numbers)
    text_keys = [next((key for key in TEXTS if key in one), "") for one in objects] if inside else []
    texts = [one.get(key) for one, key in zip(objects, text_keys, strict=True)] if inside else given
    known = [at for at, number in enumerate(numbers[kind]) if number is not None and not is_empty(texts[at])]
    if len(known) < 2 and sum(number is not None for number in numbers[kind]) < 2:
        raise RowError("one answer", f"has a {kind} for fewer than two answers.")
    if len(known) < 2:
        raise RowError("empty answer", "has an empty answer.")
    values = {at: float(numbers[kind][at] or 0.0) for at in known}
    best_first = sorted(known, key=lambda at: values[at] if kind in RANKS else -values[at])
    remarks = [] if len(known) == len(given) else [f"Some answers have no text or no {kind}, and are left out."]
    unread = [key for one, text in zip(objects, text_keys, strict=True) for key in _unread(one, text)] if inside else []
    return ScoredAnswers([texts[at] for at in best_first], [values[at] for at in best_first], kind, remarks, unread)


def without_repeats(texts: Sequence[str], numbers: Sequence[float], kind: str) -> tuple[list[int], list[str]]:
    """Answers from the best to the worst -> the places of those that stay, each text once and each number once, and
    remarks on the others. Raises RowError where fewer than two are left.

    without_repeats(["a", "b", "c", "a"], [3, 3, 2, 1], "score") -> ([0, 2], [two sentences])
    """
    first: dict[str, int] = {}
    for at, text in enumerate(texts):
        first.setdefault(text, at)
    remarks = []
    if len(first) < 2:
        raise RowError("identical answers", "has the same answer chosen and rejected.")
    if len(first) < len(texts):
        apart = any(numbers[at] != numbers[first[text]] for at, text in enumerate(texts))
        words = f"with different {kind}s; the better one is kept." if apart else "and is kept once."
        remarks.append(f"The same answer stands twice in the list, {words}")
    kept = list({numbers[at]: at for at in reversed(first.values())}.values())[::-1]
    if len(kept) < 2:
        raise RowError("tie", f"has no better answer: every {kind} is the same.")
    if len(kept) < len(first):
        remarks.append(f"Several answers have the same {kind}; the first of them is ranked, the others are left out.")
    return kept, remarks


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _check_size(name: str, size: int) -> None:
    if size < 2:
        raise RowError("one answer", f"has one answer in its column {name}; a ranked list has at least two.")
    if size > MAX_ANSWERS:
        raise RowError("long list", f"has {size:,} answers in its column {name}; at most {MAX_ANSWERS} are compared.")


def _inside(answers: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Of each kind of number that any answer has, one for each answer, None where it has none."""
    kinds = [kind for kind in (*SCORES, *RANKS) if any(not _is_missing(one.get(kind)) for one in answers)]
    return {kind: [one.get(kind) for one in answers] for kind in kinds}


def _beside(columns: TrackedRow, answers: str, size: int) -> dict[str, list[Any]]:
    """The same from columns with a number for each answer: scores, ranks. Raises RowError for one of another length."""
    found: dict[str, list[Any]] = {}
    for kind, names in BESIDE.items():
        for name in names:
            numbers = parse_listed(columns.values.get(name))
            if isinstance(numbers, list) and not all(map(_is_missing, numbers)):
                if len(numbers) != size:
                    words = f"has {size} answers in its column {answers} and {len(numbers)} numbers in {name}."
                    raise RowError("lengths differ", words)
                columns.used.add(name)
                found.setdefault(kind, numbers)
    return found


def _is_missing(value: Any) -> bool:
    return is_empty(value) or isinstance(value, str) and value.strip().lower() in NO_NUMBER


def _number(value: Any, kind: str) -> float | None:
    """A number; None where none is given. A rank is no true or false, and not below 0, as what was not ranked is."""
    if _is_missing(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or kind in RANKS and isinstance(value, bool):
        raise RowError(kind, f"has the {kind} {shorten_repr(value)}, which is not a number.")
    if kind in RANKS and number < 0:
        raise RowError(kind, f"has the {kind} {shorten_repr(value)}; the best answer has 1 (or 0), the next one 2.")
    return number


def _check_agreement(numbers: Mapping[str, Sequence[float | None]]) -> None:
    """Raises RowError where an answer with a better score than another has a worse rank."""
    for rank in RANKS:
        for score in numbers.keys() & {*SCORES} if rank in numbers else ():
            both = [
                (high, low)
                for high, low in zip(numbers[score], numbers[rank], strict=True)
                if high is not None and low is not None
            ]
            if any(one[0] > other[0] and one[1] > other[1] for one in both for other in both):
                raise RowError(
                    "score and rank", f"has an answer with a better {score} and a worse {rank} than another."
                )


def _unread(answer: Mapping[str, Any], text_key: str) -> Iterator[str]:
    """Keys of an answer that have a value and are not read."""
    read = (text_key, "role", "from", *SCORES, *RANKS)
    return (key for key, value in answer.items() if key not in read and not is_empty(value))
