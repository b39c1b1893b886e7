"""Rows with one answer and what someone said of it: a label, good or bad, or a rating, the higher the better.

    {"prompt": …, "completion": "In Lund.", "label": true}            as in TRL's unpaired format; 1, "1", "thumbs up"
    {"messages": [ …, {"role": "assistant", "content": "In Lund."}], "kto_tag": false}
    {"text": "\\n\\nHuman: Where?\\n\\nAssistant: In Lund.", "feedback": "👎"}
    {"prompt": …, "response": "In Lund.", "helpfulness": 4}           as in HelpSteer; rating, score, reward

Of a row with both, the label is read.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from labkit.errors import LabError, count_with_noun
from labkit.text.reading.columns import ANSWERS, KTO_LABELS, TEXTS, TURNS, TrackedRow, is_empty
from labkit.text.reading.pointers import refuse_answer_reference
from labkit.text.reading.rankings import SCORES
from labkit.text.reading.report import RowError
from labkit.text.reading.values import parse_transcript, parse_turns, shorten_repr
from labkit.text.unpaired import LabeledAnswer, RatedAnswer, SingleAnswer
from labkit.world import Message

FEEDBACK = ("feedback", "thumbs", "thumb", "vote")
"""Columns that may hold a label, and may hold other things."""
RATINGS = (*SCORES, "helpfulness")
GOOD = "true 1 1.0 good yes up like liked positive upvote upvoted desirable 👍".split()
BAD = "false 0 0.0 bad no down dislike disliked negative downvote downvoted undesirable 👎".split()


def parse_label(value: Any) -> bool | None:
    """Whether an answer is called good: true and false, 1 and 0, or their words; None for anything else.

    parse_label("Thumbs_Up") -> True, parse_label("👎🏽") -> False, parse_label(0.5) -> None
    """
    word = re.sub("[\ufe0f\U0001f3fb-\U0001f3ff]", "", str(value)).strip().lower()
    word = re.sub(r"^thumbs?[ _-]?", "", word)
    return True if word in GOOD else False if word in BAD else None


def required_label(value: Any) -> bool:
    """The same of a column that holds labels. Raises RowError for anything else."""
    label = parse_label(value)
    if label is None:
        raise RowError(
            "label",
            f"has the label {shorten_repr(value)} beside its answer; true (1) or false (0) is needed. A number on a "
            f"scale stands in a column rating.",
        )
    return label


def feedback(columns: TrackedRow) -> bool | float | None:
    """The label or rating of a row; None where it has none. Raises RowError for one that is not understood."""
    name = columns.find_column(KTO_LABELS)
    if name is not None and not is_empty(columns.values[name]):
        columns.used.add(name)
        return required_label(columns.values[name])
    for name in FEEDBACK:
        label = parse_label(columns.values.get(name))
        if label is not None:
            columns.used.add(name)
            return label
    name = columns.find_column(RATINGS)
    if name is None or is_empty(columns.values[name]):
        return None
    columns.used.add(name)
    return _rating(columns.values[name], name)


def _rating(value: Any, name: str) -> bool | float:
    """A number; or a label, where it is true or false or one of their words."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    label = parse_label(value)
    if label is None:
        raise RowError(name, f"has {shorten_repr(value)} as its {name}, which is not a number.")
    return label


def answer_field(columns: TrackedRow) -> Any | tuple[Message, ...] | None:
    """The column with the answer, as it stands; or a conversation that ends with it; None where a row has neither."""
    name = columns.find_unambiguous_column(ANSWERS)
    if name is not None:
        refuse_answer_reference(columns, name)
        return columns.get([name])
    name = columns.find_column(TURNS)
    if name is not None and not is_empty(columns.values[name]):
        return parse_turns(columns.get([name]))
    name = columns.find_column(TEXTS)
    said = parse_transcript(columns.values[name]) if name is not None else None
    if name is not None and said is not None:
        columns.used.add(name)
    return said


def kind_of(preference: object) -> str:
    """What a row was understood as, in words."""
    if isinstance(preference, LabeledAnswer):
        return "single answers with a label"
    return "single answers with a rating" if isinstance(preference, RatedAnswer) else "pairs or ranked lists"


def check_one_kind(preferences: Sequence[Any], source: str) -> None:
    """Raises LabError where rows of different kinds stand in one source."""
    counts = Counter(map(kind_of, preferences))
    if len(counts) > 1:
        found = " and ".join(f"{count_with_noun(count, 'row')} of {kind}" for kind, count in counts.most_common())
        raise LabError(f"{source} has {found}. No stage learns from both: give each kind as a file of its own.")


def summary(answers: Sequence[SingleAnswer]) -> str:
    """A sentence on what their labels or ratings are."""
    values = [answer[2] for answer in answers]
    if isinstance(answers[0], LabeledAnswer):
        return f"Single answers with a label: {sum(values):,} good, {len(values) - sum(values):,} bad."
    low, high, mean = min(values), max(values), statistics.fmean(values)
    return f"Single answers with a rating: from {low:g} to {high:g}, mean {mean:.3g}."
