"""How much better one of two answers is, as a number with a sign, and numbers that are no pointers.

    {"prompt": …, "response_1": "In Oslo.", "response_2": "In Lund.", "preference_strength": 2}     HelpSteer2
    {"prompt": …, "response1": "In Lund.", "response2": "In Oslo.", "overall_preference": -3}       HelpSteer3

Both data sets have it from -3 to 3: below 0 the first answer is better, above 0 the second, at 0 neither
(https://huggingface.co/datasets/nvidia/HelpSteer2, https://huggingface.co/datasets/nvidia/HelpSteer3). Of other columns
nobody knows what the sign, or a fraction, says: a file that has one in a column that is to name the better answer is
refused.
"""

from __future__ import annotations

import math
from typing import Any

from labkit.errors import LabError
from labkit.text.reading.columns import TrackedRow, is_empty
from labkit.text.reading.report import RowError
from labkit.text.reading.values import shorten_repr

STRENGTHS = ("preference_strength", "overall_preference")


def signed_strength(columns: TrackedRow) -> float | None:
    """The number in such a column, not 0; None for a row without one. Raises RowError for what is no number, and for
    a tie.
    """
    name = columns.find_column(STRENGTHS)
    if name is None or is_empty(columns.values[name]):
        return None
    columns.used.add(name)
    strength = number_or_none(columns.values[name])
    if strength is None or not math.isfinite(strength):
        raise RowError(name, f"has {shorten_repr(columns.values[name])} as its {name}, which is not a number.")
    if strength == 0:
        raise RowError("tie", f"has no better answer: its {name} is 0.")
    return strength


class ScaleCheck:
    """Looks at all numbers that are to name the better answer: one below 0, or a fraction, shows that they are places
    on a scale, and that none of them names an answer.
    """

    def __init__(self) -> None:
        self.column = ""
        self.value: Any = None

    def add(self, column: str, value: Any) -> None:
        """One row's value. Raises RowError where it names no answer."""
        number = number_or_none(value)
        if number is not None and math.isfinite(number) and not (number >= 0 and number == int(number)):
            self.column, self.value = column, value
            raise RowError("scale", f"has {shorten_repr(value)} as its {column}, which names no answer.")

    def raise_if_scale(self, source: str) -> None:
        """Raises LabError where a row showed it."""
        if self.column:
            raise LabError(
                f"{source}: a row has {shorten_repr(self.value)} in its column {self.column}, so its numbers are a "
                f"scale, and it is not said which of two answers is better at which end. Write the better answer as "
                f"chosen and the other as rejected; or, where numbers below 0 prefer the first answer and those above "
                f"0 the second, call the column {STRENGTHS[0]}."
            )


def number_or_none(value: Any) -> float | None:
    """A number, or a text that spells one; None for anything else, true and false included."""
    try:
        return float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
