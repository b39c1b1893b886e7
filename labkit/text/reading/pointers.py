"""Rows that point: the chosen answer is named, or numbered, among answers that stand in other columns.

    {"prompt": …, "answer_a": "In Lund.", "answer_b": "In Oslo.", "chosen": "a", "rejected": "b"}
    {"prompt": …, "responses": ["In Lund.", "In Oslo."], "chosen": 0, "rejected": 1}
    {"prompt": …, "response_a": "In Lund.", "response_b": "In Oslo.", "winner": "model_a"}

A pointer is followed where only one answer can be meant, and refused elsewhere: it is never learned as a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
WINNERS = ("winner", "preference", "verdict")
"""Columns that may point to the better of two answers where there is no column chosen."""
VERDICTS = ("label", "preference", "winner", "verdict")
"""Columns that may say of two answers that neither is better."""


class Numbering:
    """What the numbers that point to answers count from in a file: 0 or 1, by all its rows.

    firsts: what they may count from, as far as that is known before; left: what is left of 0 and 1 after all rows.
    """

    def __init__(self, firsts: Iterable[int] = (0, 1)):
        self.firsts, self.left = frozenset(firsts), {0, 1}
        self._taken: set[int | None] = set()

    def first(self, numbers: Sequence[int], count: int, usual: int | None = None) -> int | None:
        """What a row's numbers into so many answers count from: the usual where it may be 0 or 1; None where that is
        open.
        """
        fitting = {first for first in self.firsts if all(0 <= number - first < count for number in numbers)}
        if fitting:
            self.left &= fitting
        found = min(fitting) if len(fitting) == 1 else usual if usual in fitting else None
        self._taken.add(found)
        return found

    @property
    def settled(self) -> bool:
        """Whether each row was read by what all rows say."""
        return self.left == {0, 1} or self._taken <= self.left


def answers(columns: Columns, reading: Reading, numbering: Numbering) -> tuple[Any, Any]:
    """What stands in a row's columns chosen and rejected, or what they point to, or a column winner does. Where two
    answers stand beside, the one that is not chosen may be left out.

    Raises RowError for a pointer of which it is not sure what it means, and for a tie.
    """
    named, listed = _named(columns), _listed(columns)
    won = (named or listed) and not columns.has((*CHOSEN, *REJECTED)) and columns.name(WINNERS)
    given = [columns.get([won] if won else CHOSEN), columns.get(REJECTED)]
    if (named or listed) and any(map(_is_tie, given)):
        raise RowError("tie", "has no better answer: it is a tie.")
    pointers = [
        _pointer(value) if named or listed and not _stands_in(columns, listed, value) else None for value in given
    ]
    found = _by_name(columns, named, given)
    if found is None and not any(pointers) and not won:
        return given[0], given[1]
    if found is None and pointers[0]:
        alone = is_empty(given[1])
        found = _beside(columns, named, pointers, alone, numbering) or _numbered(
            columns, listed, pointers, alone, numbering
        )
    if found is None:
        raise RowError("answer elsewhere", f"has {shown(given[0])} as {won or 'chosen'}, {_MEND}")
    where = f"The column {won} points" if won else "The columns chosen and rejected point"
    reading.noted[f"{where} to answers in other columns, which are read."] += 1
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
    several = {stem for stem in stems if stems.count(stem) > 1}
    if len(several) > 1:
        several -= {"model"}  # which names who said the others
    return {key: name for key, name in found.items() if key[0] in several}


def _listed(columns: Columns) -> list[str]:
    """The columns that hold several answers in a list."""
    return [name for name in LISTS if isinstance(value := columns.values.get(name), list) and len(value) > 1]


def _by_name(columns: Columns, named: dict[tuple[str, str], str], given: list[Any]) -> Any:
    """(chosen, rejected) from the columns that they name; None where they name none."""
    names = [value.strip().lower() if isinstance(value, str) else "" for value in given]
    if names[0] == names[1] or not all(name in columns.values.keys() - {*CHOSEN, *REJECTED} for name in names):
        return None
    if named and any(_BESIDE.fullmatch(name) and name not in named.values() for name in names):
        return None
    columns.used |= {*names}
    return columns.values[names[0]], columns.values[names[1]]


def _beside(
    columns: Columns, named: dict[tuple[str, str], str], pointers: list[Any], alone: bool, numbering: Numbering
) -> Any:
    """(chosen, rejected) from columns with one answer each; None where it is not sure which are meant.

    alone: whether the rejected one is not said: then it is the other of two.
    """
    stem, letter = pointers[0]
    groups: dict[str, dict[str, str]] = {}
    for (name, mark), column in named.items():
        groups.setdefault(name, {})[mark] = column
    if stem == "model" and stem not in groups:
        stem = ""
    fitting = [
        group
        for name, group in groups.items()
        if stem in ("", name) and (letter in group or letter.isdigit() and all(map(str.isdigit, group)))
    ]
    if len(fitting) != 1 or not alone and not pointers[1]:
        return None
    (group,) = fitting
    marks = [pointer[1] for pointer in pointers if pointer]
    if not stem and letter.isdigit():
        marks = _counted(group, marks, numbering)
    if alone and len(group) == 2:
        marks += [mark for mark in group if mark not in marks]
    if len({*marks}) != 2 or not {*marks} <= group.keys():
        return None
    columns.used |= {group[mark] for mark in marks}
    return columns.values[group[marks[0]]], columns.values[group[marks[1]]]


def _counted(group: dict[str, str], marks: list[str], numbering: Numbering) -> list[str]:
    """Numbers that may count from another one than the names of the columns do -> the numbers of these; none where
    that is open.
    """
    keys = sorted(group, key=int)
    start = int(keys[0])
    if start > 1 or [int(key) for key in keys] != list(range(start, start + len(keys))):
        return marks
    if not all(map(str.isdigit, marks)):
        return []
    first = numbering.first([int(mark) for mark in marks], len(keys), start)
    return [] if first is None else [keys[int(mark) - first] for mark in marks]


def _numbered(columns: Columns, listed: list[str], pointers: list[Any], alone: bool, numbering: Numbering) -> Any:
    """(chosen, rejected) from one list of answers, by their numbers; None where these may count from 0 or from 1."""
    numbers = [int(pointer[1]) for pointer in pointers if pointer and pointer[1].isdigit()]
    if len(listed) != 1:
        return None
    values = columns.values[listed[0]]
    if len(numbers) != 2 and not (alone and len(numbers) == 1 and len(values) == 2):
        return None
    first = numbering.first(numbers, len(values))
    if first is None:
        return None
    places = [number - first for number in numbers]
    places += [1 - places[0]] if len(places) == 1 else []
    columns.used.add(listed[0])
    return values[places[0]], values[places[1]]
