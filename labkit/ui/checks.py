"""What a page sends is checked here, for any program may send it: texts and whole numbers."""

from __future__ import annotations

from typing import Any

from labkit.errors import LabError

CHARACTERS = 20_000
"""Of one text that a page sends, at most: many times the context of what can be looked at."""


def checked_text(value: Any, what: str) -> str:
    """A text that can be encoded, "" for None; `what` names it. Raises LabError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise LabError(f"{what} must be text, not {type(value).__name__}.")
    if len(value) > CHARACTERS:
        raise LabError(f"{what} has {len(value):,} characters; the limit is {CHARACTERS:,}.")
    broken = next((i for i, letter in enumerate(value) if "\ud800" <= letter <= "\udfff"), None)
    if broken is not None:
        raise LabError(f"{what}: character {broken + 1} is broken (a lone surrogate). Type it again.")
    return value


def checked_whole_number(value: Any, what: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`; `what` names it. Raises LabError for anything else."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
    if not known or not least <= value <= most:
        said = repr(value) if isinstance(value, (int, float, str)) else type(value).__name__
        raise LabError(f"{what} must be a whole number from {least} to {most}, not {said[:40]}.")
    return int(value)
