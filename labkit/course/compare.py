"""Two values compared, in words, and the kinds of mistakes that can be seen from two values alone.

Numbers, texts, lists, tuples, sets, dictionaries, tensors and arrays are compared by what they hold: a list equals the
tensor with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

SMALLEST_TOLERANCE = 1e-6
"""So far from a float is right in any case: 0.0 has no relative tolerance."""
SHOWN_CHARACTERS = 160
MOST_NUMBERS = 100_000
"""More than any exercise asks for; a tensor of more, such as all logits, would take seconds to read."""


class UnreadableAnswer(ValueError):
    """The answer holds something that no exercise asks for; the message says what."""


def to_plain(value: Any) -> Any:
    """Tensors, arrays and tuples -> lists; their elements -> Python's own numbers. Sets and dictionaries stay;
    in a set, a list is a tuple.

    Raises UnreadableAnswer for anything else.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):  # exactly these: NumPy's numbers are subclasses
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_hashable(to_plain(key)): to_plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(held) for held in value]
    if isinstance(value, set | frozenset | type({}.keys())):
        return frozenset(_hashable(to_plain(held)) for held in value)
    if hasattr(value, "tolist"):
        shape = getattr(value, "shape", ())  # array.array has none
        if math.prod(shape) > MOST_NUMBERS:
            raise UnreadableAnswer(f"{_type_in_words(value)} of the shape {list(shape)} is no answer here.")
        return to_plain(value.tolist())
    if isinstance(value, Real):
        return float(value)
    raise UnreadableAnswer(f"{_type_in_words(value)} is no answer to this exercise.")


def _hashable(value: Any) -> Any:
    """A list inside a set, or as a key, as a tuple."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def difference(answer: Any, truth: Any, tolerance: float) -> str:
    """How a plain answer differs from the plain truth, without telling the truth; "" where they are equal.

    tolerance: of floats, relative; integers, texts and booleans are equal or not.
    """
    return _difference(answer, truth, tolerance, "")


def equal(answer: Any, truth: Any, tolerance: float) -> bool:
    """Whether `difference` finds none."""
    return not difference(answer, truth, tolerance)


def _difference(answer: Any, truth: Any, tolerance: float, place: str) -> str:
    subject = f"element {place}" if place else "the answer"
    if isinstance(truth, frozenset) and isinstance(answer, list):
        answer = frozenset(map(_hashable, answer))
    if isinstance(truth, bool) and place and not isinstance(answer, list) and _is_mask(answer):
        answer = bool(answer)  # in a mask, 0 and 1 are as good as False and True
    if in_words(answer) != in_words(truth):
        return f"{subject} is {in_words(answer)}; {in_words(truth)} is asked for"
    if isinstance(truth, bool | str):
        return "" if answer == truth else f"{subject} is {show(answer)}, which is wrong"
    if isinstance(truth, Mapping):
        return _mapping_difference(answer, truth, tolerance, place)
    if isinstance(truth, list):
        return _list_difference(answer, truth, tolerance, place)
    if isinstance(truth, frozenset):
        return "" if answer == truth else _set_difference(answer, truth)
    return _number_difference(answer, truth, tolerance, subject) if truth is not None else ""


def _mapping_difference(answer: Mapping, truth: Mapping, tolerance: float, place: str) -> str:
    if missing := [key for key in truth if key not in answer]:
        return f"the key {show(missing[0])} is missing"
    if unknown := [key for key in answer if key not in truth]:
        return f"the key {show(unknown[0])} is not asked for"
    found = (_difference(answer[key], truth[key], tolerance, f"{place}[{show(key)}]") for key in truth)
    return next((words for words in found if words), "")


def _list_difference(answer: list, truth: list, tolerance: float, place: str) -> str:
    if not place and _shape(answer) != _shape(truth):
        return f"the answer has the shape {_shape(answer)}; {_shape(truth)} is asked for"
    if len(answer) != len(truth):
        return f"{f'element {place}' if place else 'the answer'} has {len(answer)} elements, not {len(truth)}"
    pairs = enumerate(zip(answer, truth, strict=True))
    found = (_difference(one, other, tolerance, f"{place}[{at}]") for at, (one, other) in pairs)
    return next((words for words in found if words), "")


def _set_difference(answer: frozenset, truth: frozenset) -> str:
    if extra := answer - truth:
        return f"{show(min(extra, key=str))} does not belong to it"
    return f"{len(truth - answer)} of {len(truth)} elements are missing"


def _number_difference(answer: float, truth: float, tolerance: float, subject: str) -> str:
    if answer == truth or (answer != answer and truth != truth):
        return ""
    if answer != answer:
        return f"{subject} is nan"
    if isinstance(truth, float) and math.isfinite(truth) and abs(answer) < 1e300:
        if abs(answer - truth) <= max(tolerance * abs(truth), SMALLEST_TOLERANCE):
            return ""
    return f"{subject} is {show(answer)}, which is too {'large' if truth != truth or answer > truth else 'small'}"


def _shape(value: Any) -> list[int]:
    """The lengths of nested lists, as of a tensor, as far as they are the same: [[1, 2], [3, 4], [5, 6]] -> [3, 2]."""
    if not isinstance(value, list):
        return []
    inner = [_shape(held) for held in value]
    return [len(value), *(inner[0] if inner and all(one == inner[0] for one in inner) else [])]


def in_words(value: Any) -> str:
    """What kind of plain value this is: 0.5 -> "a number"."""
    if value is None:
        return "None"
    kinds = {bool: "True or False", int: "a number", float: "a number", str: "text", list: "a list"}
    return kinds.get(type(value), "a set" if isinstance(value, frozenset) else "a dictionary")


def _type_in_words(value: Any) -> str:
    return "a function" if callable(value) else f"something of the type {type(value).__name__}"


def show(value: Any) -> str:
    """A value as text of one short line: floats with four digits, control characters escaped."""
    try:
        text = _show(to_plain(value))
    except (ValueError, RecursionError):
        text = _type_in_words(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def printable(text: str, limit: int) -> str:
    """The text on one line of at most so many characters, with ? for what a terminal would not show as it is: control
    characters, line ends, and what UTF-8 cannot hold.
    """
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:limit]


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_show(held) for held in value[: SHOWN_CHARACTERS // 2])
        return f"[{shown}]" if isinstance(value, list) else f"({shown},)" if len(value) == 1 else f"({shown})"
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(map(_show, value))) + "}" if value else "set()"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_show(key)}: {_show(held)}" for key, held in value.items()) + "}"
    if isinstance(value, str):
        return repr(value[:SHOWN_CHARACTERS])
    return str(value) if not isinstance(value, int) or abs(value) < 10**40 else "a very large number"


ERROR_PATTERNS: dict[str, str] = {
    "sign": "The sign is wrong: it is the negative of the right answer.",
    "off by one": "It is off by one.",
    "mask inverted": "The mask is inverted: here True (or 1) means that the place counts, or may be attended to.",
    "transposed": "It is transposed: rows and columns are exchanged.",
    "reversed": "The order is reversed.",
    "percent for a fraction": "It is a hundred times too large: give a fraction (0.25), not a percentage (25).",
    "log2 for the natural logarithm": "It is in bits, by log2; nats are asked for, by the natural logarithm.",
    "log10 for the natural logarithm": "It is by log10; nats are asked for, by the natural logarithm.",
    "exp left in": "It is the exponential of the right answer: take the logarithm.",
    "reciprocal": "It is 1 divided by the right answer.",
}
"""The mistakes that `recognise` knows by themselves, and what a student is told of each."""

NUMBER_PATTERNS: dict[str, Callable[[float], float]] = {
    "sign": lambda x: -x,
    "percent for a fraction": lambda x: 100 * x,
    "log2 for the natural logarithm": lambda x: x / math.log(2),
    "log10 for the natural logarithm": lambda x: x / math.log(10),
    "exp left in": math.exp,
    "reciprocal": lambda x: 1 / x,
}


def recognise(answer: Any, truth: Any, tolerance: float) -> str:
    """The pattern (a key of ERROR_PATTERNS) that leads from the plain truth to this plain answer; "" for none known."""
    if _off_by_one(answer, truth, tolerance):
        return "off by one"
    if isinstance(truth, list) and isinstance(answer, list) and truth:
        if _is_mask(truth) and _is_mask(answer) and equal(answer, _map_numbers(truth, _inverted), 0):
            return "mask inverted"
        if len(_shape(truth)) == 2 and equal(answer, [list(column) for column in zip(*truth, strict=True)], tolerance):
            return "transposed"
        if equal(answer, truth[::-1], tolerance):
            return "reversed"
    if not _tells_changes_apart(truth):
        return ""
    for pattern, change in NUMBER_PATTERNS.items():
        try:
            changed = _map_numbers(truth, change)
        except (ArithmeticError, ValueError, TypeError):
            continue
        if equal(answer, changed, tolerance) and not equal(changed, truth, tolerance):
            return pattern
    return ""


def _tells_changes_apart(truth: Any) -> bool:
    """Whether some number is neither 0 nor 1. A wrong 1 for a right 0 is seldom meant as the exponential of it."""
    if isinstance(truth, list):
        return any(map(_tells_changes_apart, truth))
    return not (isinstance(truth, int | float) and truth in (0, 1))


def _off_by_one(answer: Any, truth: Any, tolerance: float) -> bool:
    if type(truth) is int and type(answer) is int:
        return abs(answer - truth) == 1
    if not (isinstance(truth, list) and isinstance(answer, list) and len(truth) > 2):
        return False
    if len(answer) == len(truth):  # shifted by one place
        pairs = ((answer[1:], truth[:-1]), (answer[:-1], truth[1:]))
    else:  # one too few or one too many
        pairs = ((answer, truth[1:]), (answer, truth[:-1])) if len(answer) < len(truth) else (
            (answer[1:], truth), (answer[:-1], truth),
        )  # fmt: skip
    return any(equal(one, other, tolerance) for one, other in pairs)


def _inverted(value: float) -> bool | int:
    return not value if isinstance(value, bool) else 1 - int(value)


def _is_mask(value: Any) -> bool:
    """Whether nested lists hold nothing but True and False, or 0 and 1."""
    return all(map(_is_mask, value)) if isinstance(value, list) else isinstance(value, Real) and value in (0, 1)


def _map_numbers(value: Any, change: Callable[[float], Any]) -> Any:
    """The same nested lists with each number changed. Raises TypeError where there is anything else."""
    if isinstance(value, list):
        return [_map_numbers(held, change) for held in value]
    if isinstance(value, int | float) and (not isinstance(value, bool) or change is _inverted):
        return change(value)
    raise TypeError(f"{value!r} is no number")
