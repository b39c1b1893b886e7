"""Rows that point: the chosen answer is named, or numbered, among answers that stand in other columns.

    {"prompt": …, "answer_a": "In Lund.", "answer_b": "In Oslo.", "chosen": "a", "rejected": "b"}
    {"prompt": …, "responses": ["In Lund.", "In Oslo."], "chosen": 0, "rejected": 1}
    {"prompt": …, "response_a": "In Lund.", "response_b": "In Oslo.", "winner": "model_a"}

A pointer is followed where only one answer can be meant, and refused elsewhere: it is never learned as a text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.text.reading.columns import CHOSEN, KNOWN, REJECTED, TrackedRow, is_empty
from labkit.text.reading.report import ReadReport, RowError
from labkit.text.reading.strength import STRENGTHS, ScaleCheck, signed_strength
from labkit.text.reading.values import shorten_repr
from labkit.text.reading.wrappers import is_message_list

_LISTS = re.compile(r"(?:.*[_ -])?(?:responses|answers|completions|candidates|outputs|generations|options|choices)")
"""The name of a column that holds several answers."""
_STEM = (
    "answer|response|completion|output|text|message|reply|summary|candidate|generation|option|choice|model|ending|"
    "solution|sol|opt|op|conversation|conv"
)
_BESIDE = re.compile(rf"(?:({_STEM})(?!s$)s?[_ -]?)?([a-z]|\d\d?)")
"""The name of a column with one of several answers: response_1, answer_b, B."""
_POINTER = re.compile(rf"(?:({_STEM}|assistant|bot)s?[_ -]?)?([a-z]|\d\d?)")
_ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3}
_IDS = ("id", "label", "key", "name", "model")
_SAID = ("text", "content", "response", "answer", "output", "completion")
TIES = ("tie", "tied", "draw", "equal", "both", "both good", "both bad", "tie bothbad", "neither")
WINNERS = ("winner", "preference", "verdict")
"""Columns that may point to the better of two answers where there is no column chosen."""
VERDICTS = ("label", "preference", "winner", "verdict", "status")
"""Columns that may say of two answers that neither is better."""
FEW, SHORT = 10, 30
"""Of how many different answers, and of how many characters each, it is suspected that they name others."""


class AnswerColumns(NamedTuple):
    """Several answers of a row. shared_name: their column, or what the names of their columns have in common. keys: by
    what each is pointed to, in small letters; () for a list. column_names: where they stand.
    """

    shared_name: str
    keys: tuple[str, ...]
    answers: tuple[Any, ...]
    column_names: tuple[str, ...]


class IndexBase:
    """What the numbers that point to answers count from in a file: 0 or 1, by all its rows.

    candidate_bases: what they may count from, as far as that is known before. remaining_bases: what is left of 0 and 1
    after all rows.
    """

    def __init__(self, candidate_bases: Iterable[int] = (0, 1)):
        self.scale = ScaleCheck()
        self.candidate_bases, self.remaining_bases = frozenset(candidate_bases), {0, 1}
        self._taken: set[int | None] = set()

    def infer_base(self, numbers: Sequence[int], num_answers: int, default: int | None = None) -> int | None:
        """What a row's numbers into so many answers count from: the usual where it may be 0 or 1; None where that is
        open.
        """
        fitting = {
            first for first in self.candidate_bases if all(0 <= number - first < num_answers for number in numbers)
        }
        if fitting:
            self.remaining_bases &= fitting
        found = min(fitting) if len(fitting) == 1 else default if default in fitting else None
        self._taken.add(found)
        return found

    @property
    def is_consistent(self) -> bool:
        """Whether each row was read by what all rows say."""
        return self.remaining_bases == {0, 1} or self._taken <= self.remaining_bases


def chosen_and_rejected(columns: TrackedRow, reading: ReadReport, index_base: IndexBase) -> tuple[Any, Any]:
    """What stands in a row's columns chosen and rejected, or what they point to, or a column winner does. Where two
    answers stand beside, the one that is not chosen may be left out.

    Raises RowError for a pointer of which it is not sure what it means, and for a tie.
    """
    groups = list(_groups(columns))
    won = None if not groups or columns.has_value((*CHOSEN, *REJECTED)) else columns.find_column(WINNERS)
    if groups and not columns.has_value((*CHOSEN, *REJECTED, *WINNERS)):
        stronger = _by_strength(columns, groups, reading)
        if stronger is not None:
            return stronger
    if won:
        index_base.scale.add(won, columns.values[won])
    given = [columns.get([won] if won else CHOSEN), columns.get(REJECTED)]
    if groups and any(map(_is_tie, given)):
        raise RowError("tie", "has no better answer: it is a tie.")
    found = _by_name(columns, given, groups)
    if found is None and not won and not any(_points(value, groups) for value in given):
        return given[0], given[1]
    found = found or _followed(columns, groups, given, index_base)
    if found is None:
        raise RowError("answer in another column", f"has {shorten_repr(given[0])} as {won or 'chosen'}, {_MEND}")
    where = f"The column {won} points" if won else "The columns chosen and rejected point"
    reading.row_remarks[f"{where} to answers in other columns, which are read."] += 1
    return found


_MEND = "which may point to an answer in another column, but it is not sure to which. Write the answers themselves."


class AnswerReferenceCheck:
    """Looks at all pairs of a source: whether a few short words are all that is ever chosen and rejected, beside
    columns with longer texts that nobody reads. Then they are names of these, in a spelling that is not known.
    """

    def __init__(self) -> None:
        self.words: set[str] = set()
        self.beside = ""
        self.cleared = False

    def add_row(self, columns: TrackedRow, answer_pair: tuple[Any, Any]) -> None:
        """One row, once it is known which of its columns were read."""
        if self.cleared:
            return
        words = [_spelled(value) for value in answer_pair]
        self.beside = _unread(columns, max(map(len, words)))
        self.words |= {*words}
        self.cleared = not self.beside or len(self.words) > FEW or not all(0 < len(word) <= SHORT for word in words)

    def raise_if_all_are_references(self, source: str) -> None:
        """Raises LabError where all rows are so."""
        if self.beside and not self.cleared:
            raise LabError(
                f"{source}: all that is ever chosen or rejected is {', '.join(sorted(self.words))}, which seem to "
                f"point to the answers in {self.beside}. Write the answers themselves."
            )


def check_tie(columns: TrackedRow) -> None:
    """Raises RowError for a row that says of its two answers that neither is better."""
    for name in VERDICTS:
        if _is_tie(columns.values.get(name)):
            columns.used.add(name)
            raise RowError("tie", f"has no better answer: its column {name} says {shorten_repr(columns.values[name])}.")


def refuse_answer_reference(columns: TrackedRow, answer_column: str) -> None:
    """Raises RowError where a column that is to hold an answer holds its number among choices in other columns."""
    value = columns.values[answer_column]
    for group in _groups(columns):
        if answer_column not in group.column_names and _points(value, [group]) and _reaches(value, group):
            raise RowError(
                "answer in another column",
                f"has {shorten_repr(value)} in its column {answer_column}, which points into {_where(group)}. "
                f"Write the answer itself.",
            )


def _reaches(value: Any, group: AnswerColumns) -> bool:
    """Whether a pointer may be meant for these answers; for columns of their own, only within their number."""
    found = _POINTER.fullmatch(_spelled(value))
    if len(group.column_names) == 1 or found is None:
        return True
    place = int(found[2]) if found[2].isdigit() else ord(found[2]) - ord("a")
    return found[2] in group.keys or place <= len(group.answers)


def _where(group: AnswerColumns) -> str:
    return f"its column{'s' * (len(group.column_names) > 1)} {', '.join(group.column_names)}"


def _is_tie(value: Any) -> bool:
    return isinstance(value, str) and re.sub(r"[\W_]+", " ", value).strip().lower() in TIES


def _spelled(value: Any) -> str:
    """A pointer in its plainest spelling: 1.0 -> 1, [[A]] and (A) -> a; '' for what is neither text nor number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    word = re.sub(r"\A(\d+)\.0+\Z", r"\1", str(value).strip().lower())
    inside = re.fullmatch(r"\[\[(.+)\]\]|\[(.+)\]|\((.+)\)", word)
    return next(filter(None, inside.groups())).strip() if inside else word


def _points(value: Any, groups: list[AnswerColumns]) -> bool:
    """Whether a value may be the name or number of one of these answers, and is none of them itself."""
    word = _spelled(value)
    if not groups or any(isinstance(value, str) and value in group.answers for group in groups):
        return False
    keys = (key for group in groups for key in group.keys)
    return word in _ORDINALS or _POINTER.fullmatch(word) is not None or bool(word) and word in keys


def _groups(columns: TrackedRow) -> Iterator[AnswerColumns]:
    """All answers of a row that stand beside one another. Where others do, columns model_a, model_b hold names."""
    for name, value in columns.values.items():
        found = _listed(name, value) if _LISTS.fullmatch(name) else None
        if found is not None:
            yield found
    parts = {name: part for name in columns.values if (part := _BESIDE.fullmatch(name))}
    stems: dict[str, dict[str, str]] = {}
    for name, part in parts.items():
        stems.setdefault(part[1] or "", {})[part[2]] = name
    stems = {stem: keys for stem, keys in stems.items() if len(keys) > 1 and min(keys) in ("a", "0", "1")}
    for stem, keys in stems.items():
        if stem != "model" or len(stems) == 1 and not _answers_beside(columns):
            order = sorted(keys, key=lambda key: (len(key), key))
            names = tuple(keys[key] for key in order)
            yield AnswerColumns(stem, tuple(order), tuple(columns.values[name] for name in names), names)


def _answers_beside(columns: TrackedRow) -> bool:
    """Whether other columns than model_a, model_b come in pairs, X_a and X_b, and hold texts or messages."""
    pairs = (re.fullmatch(r"(.+?)[_ -]?([a-z]|\d\d?)", name) for name in columns.values)
    stems = [
        pair[1]
        for pair in pairs
        if pair and pair[1] not in ("model", "models") and _is_longer(columns.values[pair[0]], 0)
    ]
    return len({*stems}) < len(stems)


def _listed(name: str, value: Any) -> AnswerColumns | None:
    """The answers in one column: a list, an object by their names, or either as text; None for anything else."""
    value = parse_listed(value)
    if isinstance(value, str):
        broken = re.match(r"\s*\[.*\]\s*\Z", value, re.DOTALL)
        return AnswerColumns(name, (), (), (name,)) if broken else None
    if isinstance(value, Mapping) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        value = dict(zip(map(str, value["label"]), value["text"], strict=False))
    if isinstance(value, Mapping) and value:
        return AnswerColumns(name, tuple(str(key).strip().lower() for key in value), tuple(value.values()), (name,))
    if not isinstance(value, list) or len(value) < 2:
        return None
    if not all(isinstance(one, Mapping) for one in value):
        return AnswerColumns(name, (), tuple(value), (name,))
    ids = [next((str(one[key]).strip().lower() for key in _IDS if key in one), "") for one in value]
    texts = tuple(next((one[key] for key in _SAID if key in one), one) for one in value)
    return AnswerColumns(name, tuple(ids) if len({*ids} - {""}) == len(ids) else (), texts, (name,))


def parse_listed(value: Any) -> Any:
    """A list or object that CSV keeps as text, as JSON or Python writes it; any other value as it stands."""
    if isinstance(value, str) and re.match(r"\s*[\[{]", value):
        for parse in (json.loads, ast.literal_eval):
            try:
                found = parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            # numpy writes lists without commas, which Python takes for one long text
            return found if isinstance(found, Mapping) or isinstance(found, list) and len(found) > 1 else value
    return value


def _by_strength(columns: TrackedRow, groups: list[AnswerColumns], reading: ReadReport) -> tuple[Any, Any] | None:
    """(chosen, rejected) of two answers by the sign of their strength; None for a row without one."""
    two = [group for group in groups if len(group.answers) == 2]
    if len(two) != 1 or not columns.has_value(STRENGTHS):
        return None
    strength = signed_strength(columns)
    if strength is None:
        return None
    columns.used |= {*two[0].column_names}
    name = columns.find_column(STRENGTHS)
    first, second = two[0].column_names if len(two[0].column_names) == 2 else ("the first answer", "the second")
    reading.row_remarks[f"{name} prefers {first} below 0 and {second} above 0."] += 1
    return two[0].answers if strength < 0 else two[0].answers[::-1]


def _by_name(columns: TrackedRow, given: list[Any], groups: list[AnswerColumns]) -> Any:
    """(chosen, rejected) from the columns that they name; None where they name none."""
    names = [value.strip().lower() if isinstance(value, str) else "" for value in given]
    if names[0] == names[1] or not all(name in columns.values.keys() - {*CHOSEN, *REJECTED} for name in names):
        return None
    if all(re.fullmatch(r"models?[_ -]?\w\w?", name) for name in names):
        if groups and not any(name in group.column_names for group in groups for name in names):
            return None  # these hold the models' names, the answers stand beside
        if _answers_beside(columns):
            raise RowError("answer in another column", f"has {shorten_repr(given[0])} as chosen, {_MEND}")
    columns.used |= {*names}
    return columns.values[names[0]], columns.values[names[1]]


def _followed(columns: TrackedRow, groups: list[AnswerColumns], given: list[Any], numbering: IndexBase) -> Any:
    """(chosen, rejected) where one group alone may be meant; None elsewhere."""
    words = [_spelled(value) for value in given]
    names = {group.shared_name for group in groups}
    fitting = [group for group in groups if _fits(group, words[0], names)]
    if len(fitting) != 1:
        return None
    (group,) = fitting
    places = _places(group, words[:1] if is_empty(given[1]) and len(group.answers) == 2 else words, numbering)
    if places is None:
        return None
    columns.used |= (
        {*group.column_names} if len(group.column_names) == 1 else {group.column_names[place] for place in places}
    )
    return tuple(group.answers[place] for place in places)


def _fits(group: AnswerColumns, word: str, names: set[str]) -> bool:
    """Whether a pointer may be into this group. `names`: of all groups, each of which is meant by its own name."""
    found = _POINTER.fullmatch(word)
    if word in group.keys or word in _ORDINALS:
        return True
    if not found or found[1] != group.shared_name and found[1] in names:
        return False
    numbers = len(group.column_names) == 1 or all(map(str.isdigit, group.keys))
    return found[2] in group.keys or found[2].isdigit() and numbers


def _places(group: AnswerColumns, words: list[str], numbering: IndexBase) -> list[int] | None:
    """The places of (chosen, rejected) in a group; the second is the other of two where one word alone is given. None
    where they are not sure.
    """
    found = [_POINTER.fullmatch(word) for word in words]
    numbers = [int(one[2]) for one in found if one and one[2].isdigit()]
    places = [_place(group, word) for word in words]
    usual = _start(group)
    named = any(one and one[1] == group.shared_name for one in found)  # response_1 is one, whatever numbers count from
    if len(numbers) == len(words) and not named and (usual is not None or None in places):
        first = numbering.infer_base(numbers, len(group.answers), usual)
        places = [None if first is None else number - first for number in numbers]
    sure = [place for place in places if place is not None and place < len(group.answers)]
    if len(sure) == len(words) == 1:
        sure.append(1 - sure[0])
    return sure if len({*sure}) == 2 else None


def _start(group: AnswerColumns) -> int | None:
    """The first number of a group whose keys are all numbers from 0 or 1 on; None for any other."""
    if not group.keys or not all(map(str.isdigit, group.keys)):
        return None
    keys = [int(key) for key in group.keys]
    return keys[0] if keys[0] < 2 and keys == list(range(keys[0], keys[0] + len(keys))) else None


def _place(group: AnswerColumns, word: str) -> int | None:
    """Where in a group an answer stands that is called so; None for one that is not there, or numbered."""
    found = _POINTER.fullmatch(word)
    for key in (word, found[2] if found else ""):
        if key in group.keys:
            return group.keys.index(key)
    return _ORDINALS.get(word)


def _unread(columns: TrackedRow, length: int) -> str:
    """A column with several texts, or the columns with one each, that were not read and are longer; '' for none."""
    idle = {name: parse_listed(value) for name, value in columns.values.items() if name not in {*columns.used, *KNOWN}}
    for name, value in idle.items():
        if is_message_list(value):
            continue
        inside = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
        if sum(_is_longer(one, length) for one in inside) > 1:
            return f"the column {name}"
    parts = {
        name: re.fullmatch(r"(.*?)[_ -]?([a-z]|\d)", name) for name, one in idle.items() if _is_longer(one, length)
    }
    stems = [part[1] for part in parts.values() if part]
    pair = [name for name, part in parts.items() if part and stems.count(part[1]) > 1]
    return f"the columns {', '.join(pair)}" if pair else ""


def _is_longer(value: Any, length: int) -> bool:
    """Whether a value is, or a message or object in it holds, a text of several words and more characters."""
    if isinstance(value, Mapping):
        return any(_is_longer(one, length) for one in value.values())
    if is_message_list(value):
        return any(_is_longer(one, length) for one in value)
    return isinstance(value, str) and len(value) > length and " " in value.strip()
