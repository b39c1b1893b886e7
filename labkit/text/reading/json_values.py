"""JSON as it is read here: what the parser of Python would lose without a word stands in its place as a RowError."""

from __future__ import annotations

import json
import sys
from typing import Any

from labkit.text.reading.report import RowError


class SpelledNumber(float):
    """A number as the file spells it: 3.10 is 3.1, and as a text "3.10"; 1e400 is none that a float holds."""

    def __new__(cls, spelled: str) -> SpelledNumber:
        number = super().__new__(cls, spelled)
        number.spelled = spelled
        return number

    spelled: str

    def __str__(self) -> str:
        return self.spelled


def parse_json_with_row_errors(text: str) -> Any:
    """A text -> its JSON value. An object in which a key has two values is a RowError, so is too long a number.

    Raises ValueError for what is no JSON.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_int=_int, parse_float=SpelledNumber, parse_constant=SpelledNumber
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RowError:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if found[key] != value:
                return RowError("duplicate key", f"has an object with two values for the key {key!r}. Keep one.")
    return found


def _int(digits: str) -> int | RowError:
    if len(digits) > sys.get_int_max_str_digits() > 0:
        return RowError(
            "long number", f"has a number of {len(digits):,} digits, which is not supported. Write it in quotes."
        )
    return int(digits)
