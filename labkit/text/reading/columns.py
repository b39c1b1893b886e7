"""The names that columns have, compared without regard to case, and a row that knows which of them were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from labkit.text.reading.report import RowError

TEXTS = ("text", "content", "story", "document")
TURNS = ("messages", "conversations", "conversation")
QUESTIONS = ("instruction", "prompt", "question", "query")
INPUTS = ("input", "context")
ANSWERS = ("output", "response", "completion", "answer")
ANSWER_LISTS = (
    "responses", "completions", "answers", "candidates", "outputs", "generations", "all_generated_responses",
)  # fmt: skip
SYSTEMS = ("system", "system_prompt")
HISTORIES = ("history",)
CHOSEN = ("chosen", "preferred_output", "chosen_response")
REJECTED = ("rejected", "non_preferred_output", "rejected_response")
LABELS = ("label",)
KTO_LABELS = (*LABELS, "kto_tag")
WEIGHTS = ("weight",)
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
KNOWN = {*TEXTS, *TURNS, *QUESTIONS, *INPUTS, *ANSWERS, *CHOSEN, *REJECTED}


class TrackedRow:
    """One row with named columns. `used` collects the names that were asked for and are there."""

    def __init__(self, row: Mapping[Any, Any]):
        self.values = {str(name).strip().lower(): value for name, value in row.items()}
        self.names = [str(name).strip() for name in row]
        self.used: set[str] = set()

    def find_column(self, names: Iterable[str]) -> str | None:
        """The first of these names that has a value, or at least a column; None where there is no such column."""
        there = [name for name in names if name in self.values]
        return next((name for name in there if not is_empty(self.values[name])), there[0] if there else None)

    def get(self, names: Iterable[str]) -> Any:
        """What stands in the first of these columns that has a value; None without one."""
        name = self.find_column(names)
        if name is None:
            return None
        self.used.add(name)
        return self.values[name]

    def find_unambiguous_column(self, names: Iterable[str]) -> str | None:
        """As `find_column`, where it is sure which is meant. Raises RowError where two have values of which neither
        holds the other.
        """
        first = self.find_column(names)
        if first is None or is_empty(self.values[first]):
            return first
        given = str(self.values[first]).strip()
        for other in names:
            words = "" if is_empty(self.values.get(other)) else str(self.values[other]).strip()
            if words not in given and given not in words:
                raise RowError(
                    f"{first} and {other}",
                    f"has both {first} and {other}, and it is not clear which is meant. Keep one of these columns.",
                )
        return first

    def has_column(self, names: Iterable[str]) -> bool:
        """Whether there is a column of one of these names, empty or not."""
        return self.find_column(names) is not None

    def has_value(self, names: Iterable[str]) -> bool:
        """Whether a column of one of these names is there and not empty."""
        return any(not is_empty(self.values.get(name)) for name in names)

    def __str__(self) -> str:
        return " ".join(", ".join(self.names).split())[:300] or "none"


class ColumnsSeen:
    """The columns of many rows, and in how many of these each was filled and not read."""

    def __init__(self) -> None:
        self.spelled: dict[str, str] = {}
        self.used: set[str] = set()
        self.idle: Counter[str] = Counter()

    def add(self, row: TrackedRow) -> None:
        """One row more, once it is known which of its columns were read."""
        for name in row.names:
            self.spelled.setdefault(name.lower(), name)
        self.used |= row.used
        self.idle.update(name for name, value in row.values.items() if name not in row.used and not is_empty(value))

    def describe_unused(self) -> list[str]:
        """What was not read, as the file spells it: "column id", or of a column that other rows are read from,
        "column prompt of 3 rows".
        """
        whole = [f"column {name or 'without a name'}" for key, name in self.spelled.items() if key not in self.used]
        rows = [(self.spelled[key], count) for key, count in self.idle.items() if key in self.used]
        return whole + [f"column {name} of {count:,} row{'s' * (count > 1)}" for name, count in rows]


def is_empty(value: Any) -> bool:
    """None, NaN (pandas' empty cell), blanks, or a list or object of nothing."""
    if value is None or value != value:
        return True
    return isinstance(value, str | list | tuple | Mapping) and not (value.strip() if isinstance(value, str) else value)
