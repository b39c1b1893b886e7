"""Rows that point: the chosen answer is named, or numbered, among answers that stand in other columns.

    {"prompt": …, "answer_a": "In Lund.", "answer_b": "In Oslo.", "chosen": "a", "rejected": "b"}
    {"prompt": …, "responses": ["In Lund.", "In Oslo."], "chosen": 0, "rejected": 1}

A pointer is followed where only one answer can be meant, and refused elsewhere: it is never learned as a text.
"""

from __future__ import annotations

import re
from typing import Any

from labkit.text.reading.columns import CHOSEN, REJECTED, Columns, is_empty
from labkit.text.reading.report import Reading, RowError
from labkit.text.reading.values import shown

LISTS = ("responses", "answers", "completions", "candidates", "outputs", "generations", "options", "choices")
"""Columns that hold several answers in a list."""
_STEM = "answer|response|completion|output|text|message|reply|summary|candidate|generation|option|choice|model"
_BESIDE = re.compile(rf"({_STEM})s?[_ -]?([a-z]|\d\d?)")
"""The name of a column with one of several answers: response_1, answer_b."""
_POINTER = re.compile(rf"(?:({_STEM})s?[_ -]?)?([a-z]|\d\d?)")
TIES = ("tie", "tied", "draw", "equal", "both", "both good", "both bad", "neither")
VERDICTS = ("label", "preference", "winner", "verdict")
"""Columns that may say of two answers that neither is better."""


def answers(columns: Columns, reading: Reading) -> tuple[Any, Any]:
    """What stands in a row's columns chosen and rejected, or what they point to. Where two answers stand beside, the
    one that is not chosen may be left out.

    Raises RowError for a pointer of which it is not sure what it means, and for a tie.
    """
    given = [columns.get(CHOSEN), columns.get(REJECTED)]
    named, listed = _named(columns), _listed(columns)
    if (named or listed) and any(map(_is_tie, given)):
        raise RowError("tie", "has no better answer: it is a tie.")
    pointers = [
        _pointer(value) if named or listed and not _stands_in(columns, listed, value) else None for value in given
    ]
    found = _by_name(columns, given)
    if found is None and not any(pointers):
        return given[0], given[1]
    if found is None and pointers[0]:
        found = _beside(columns, named, given, pointers) or _numbered(columns, listed, pointers)
    if found is None:
        raise RowError("answer elsewhere", f"has {shown(given[0])} as chosen, {_MEND}")
    reading.noted["The columns chosen and rejected point to answers in other columns, which are read."] += 1
    return found


_MEND = "which may point to an answer in another column, but it is not sure to which. Write the answers themselves."


def check_tie(columns: Columns) -> None:
    """Raises RowError for a row that says of its two answers that neither is better."""
    for name in VERDICTS:
        if _is_tie(columns.values.get(name)):
            columns.used.add(name)
            raise RowError("tie", f"has no better answer: its column {name} says {shown(columns.values[name])}.")


def refuse_pointer(columns: Columns, name: str) -> None:
    """Raises RowError where a column that is to hold an answer holds its number among choices in another column."""
    beside = [other for other in _listed(columns) if other != name]
    if beside and _pointer(columns.values[name]) is not None and not _stands_in(columns, beside, columns.values[name]):
        raise RowError(
            "answer elsewhere",
            f"has {shown(columns.values[name])} in its column {name}, which points into its column {beside[0]}. Write "
            f"the answer itself.",
        )


def _stands_in(columns: Columns, listed: list[str], value: Any) -> bool:
    """Whether a value is itself one of the answers in these columns."""
    return isinstance(value, str) and any(value in columns.values[name] for name in listed)


def _is_tie(value: Any) -> bool:
    return isinstance(value, str) and re.sub(r"[\W_]+", " ", value).strip().lower() in TIES


def _pointer(value: Any) -> tuple[str, str] | None:
    """(what is pointed at, '' where that is not said; its letter or number); None for what is no pointer."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    found = _POINTER.fullmatch(str(value).strip().lower())
    return (found[1] or "", found[2]) if found else None


def _named(columns: Columns) -> dict[tuple[str, str], str]:
    """{(answer, b): answer_b} of the columns that hold one of several answers."""
    parts = {name: _BESIDE.fullmatch(name) for name in columns.values}
    found = {(part[1], part[2]): name for name, part in parts.items() if part}
    stems = [stem for stem, _ in found]
    return {key: name for key, name in found.items() if stems.count(key[0]) > 1}


def _listed(columns: Columns) -> list[str]:
    """The columns that hold several answers in a list."""
    return [name for name in LISTS if isinstance(value := columns.values.get(name), list) and len(value) > 1]


def _by_name(columns: Columns, given: list[Any]) -> Any:
    """(chosen, rejected) from the columns that they name; None where they name none."""
    names = [value.strip().lower() if isinstance(value, str) else "" for value in given]
    if names[0] == names[1] or not all(name in columns.values.keys() - {*CHOSEN, *REJECTED} for name in names):
        return None
    columns.used |= {*names}
    return columns.values[names[0]], columns.values[names[1]]


def _beside(columns: Columns, named: dict[tuple[str, str], str], given: list[Any], pointers: list[Any]) -> Any:
    """(chosen, rejected) from columns with one answer each; None where it is not sure which are meant."""
    stem, letter = pointers[0]
    stems = {key[0] for key in named if key[1] == letter and stem in ("", key[0])}
    if len(stems) != 1:
        return None
    (stem,) = stems
    group = {key[1]: name for key, name in named.items() if key[0] == stem}
    others = [other for other in group if other != letter]
    rejected = pointers[1][1] if pointers[1] else others[0] if is_empty(given[1]) and len(others) == 1 else None
    if rejected not in others:
        return None
    columns.used |= {group[letter], group[rejected]}
    return columns.values[group[letter]], columns.values[group[rejected]]


def _numbered(columns: Columns, listed: list[str], pointers: list[Any]) -> Any:
    """(chosen, rejected) from one list of answers, by their numbers; None where these may count from 0 or from 1."""
    numbers = [int(pointer[1]) for pointer in pointers if pointer and pointer[1].isdigit()]
    if len(listed) != 1 or len(numbers) != 2:
        return None
    values = columns.values[listed[0]]
    first = 0 if 0 in numbers else 1
    if max(numbers) - first >= len(values) or first and max(numbers) < len(values):
        return None
    columns.used.add(listed[0])
    return values[numbers[0] - first], values[numbers[1] - first]
