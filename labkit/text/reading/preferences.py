"""Preferences: a prompt, the answer that someone chose, and the one that they did not; or several in their order; or
single answers, each with a label or a rating.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import LabError, count_with_noun
from labkit.text.pairs import PreferencePair
from labkit.text.rankings import Ranking, ranking_of_pair
from labkit.text.reading.columns import ANSWER_LISTS, ANSWERS, CHOSEN, QUESTIONS, REJECTED, TURNS, TrackedRow, is_empty
from labkit.text.reading.conversations import (
    answers_repeat_questions,
    history_messages,
    prepend_system_message,
    question_messages,
    strip_repeated_question,
)
from labkit.text.reading.held_out import normalize_given_splits, split_held_out
from labkit.text.reading.pointers import (
    VERDICTS,
    WINNERS,
    AnswerReferenceCheck,
    IndexBase,
    check_tie,
    chosen_and_rejected,
)
from labkit.text.reading.published_pairs import published_pair, refuse_trees_and_lists
from labkit.text.reading.rankings import RANKS, ScoredAnswers, scored_answers, without_repeats
from labkit.text.reading.report import ReadReport, RowError
from labkit.text.reading.rows import ParsedRows, check_weight_and_media, parse_rows, record_turn_remarks, to_tracked_row
from labkit.text.reading.strength import STRENGTHS, number_or_none
from labkit.text.reading.unpaired import answer_field, check_one_kind, feedback, summary
from labkit.text.reading.values import clean_field, field_to_messages, parse_transcript, parse_turns
from labkit.text.unpaired import AnswerSplit, LabeledAnswer, RatedAnswer, SingleAnswer
from labkit.world import Message

Turns = tuple[Message, ...]
Preference = PreferencePair | Ranking | SingleAnswer
SCORES = ("score", "rating", "reward")


class Preferences(NamedTuple):
    """Pairs to train on, pairs held out, and what was made of their source. rankings: the lists to train on, of which
    `train` holds each two answers; a pair among them is a list of two. Empty where the source has pairs alone.
    answers: single ones; where there are some, there is nothing else.
    """

    train: list[PreferencePair]
    validation: list[PreferencePair]
    reading: ReadReport
    rankings: Sequence[Ranking] = ()
    answers: AnswerSplit = AnswerSplit()

    @property
    def train_prompts(self) -> list[Turns]:
        """The different prompts that are trained on."""
        return list(dict.fromkeys(one.prompt for one in (*self.train, *self.answers.train)))

    @property
    def validation_prompts(self) -> list[Turns]:
        """The different prompts that are held out."""
        return list(dict.fromkeys(one.prompt for one in (*self.validation, *self.answers.validation)))


def read_preferences(path_or_hub_name: str | Path, held_out: float = 0.1) -> Preferences:
    """Preferences from `path_or_hub_name`, cleaned and split by prompts, so that no held-out prompt was trained on.

    Raises LabError as `read_unsplit_preferences` does, and when there is one prompt only.
    """
    return split_preferences(read_unsplit_preferences(path_or_hub_name), held_out)


def split_preferences(items: ParsedRows[Preference], held_out: float = 0.1) -> Preferences:
    """Preferences parted by prompts, as their source has it, else by content. Raises LabError where there is one
    prompt.
    """
    source = items.reading.source
    what = "answers" if isinstance(items.values[0], SingleAnswer) else "pairs"
    prompts = list(dict.fromkeys(pair.prompt for pair in items.values))
    if len(prompts) < 2:
        raise LabError(
            f"{source}: all {len(items.values)} {what} have the same prompt, so none can be held out whose prompt was "
            f"not trained on; at least 2 prompts are needed."
        )
    apart = normalize_given_splits(items.split_per_row, items.reading)
    if apart is None:
        _, chosen = split_held_out(prompts, held_out, key=str)
        held = set(chosen)
        parts = items.partition(["validation" if p.prompt in held else "train" for p in items.values])
        return _preferences(*parts, items.reading)
    held = {pair.prompt for pair, part in zip(items.values, apart, strict=True) if part == "validation"}
    train, validation = items.partition(apart)
    free = [pair for pair in train if pair.prompt not in held]
    if len(free) < len(train):
        items.reading.warnings.append(
            f"{len(train) - len(free)} training {what} have a prompt that is held out, and are not trained on."
        )
    if not free:
        raise LabError(f"{source}: all training {what} have a prompt that is held out. Give other prompts to hold out.")
    return _preferences(free, validation, items.reading)


def _preferences(train: list[Preference], validation: list[Preference], reading: ReadReport) -> Preferences:
    """Both parts as pairs, the first as lists, too, if there are any; or as single answers."""
    answers = AnswerSplit(*([one for one in part if isinstance(one, SingleAnswer)] for part in (train, validation)))
    lists, held_out = map(_lists, (train, validation))
    pairs, held_out_pairs = ([pair for one in part for pair in _pairs(one)] for part in (lists, held_out))
    listed = any(isinstance(one, Ranking) for one in lists)
    rankings = [one if isinstance(one, Ranking) else ranking_of_pair(one) for one in lists] if listed else ()
    return Preferences(pairs, held_out_pairs, reading, rankings, answers)


def _lists(preferences: Sequence[Preference]) -> list[PreferencePair | Ranking]:
    return [one for one in preferences if not isinstance(one, SingleAnswer)]


def _pairs(preference: PreferencePair | Ranking) -> list[PreferencePair]:
    return preference.pairs if isinstance(preference, Ranking) else [preference]


def read_unsplit_preferences(path_or_hub_name: str | Path) -> ParsedRows[Preference]:
    """All pairs and ranked lists of `path_or_hub_name`, or all its single answers, in its order, cleaned. What stands
    there again is another vote, and stays; so does its reverse.

    A row has the columns chosen and rejected (or preferred_output and non_preferred_output) and one of prompt,
    instruction, question, query or messages; each is a text, a message or messages. Without a prompt column it is what
    both answers begin with, as messages or as a transcript of Human: and Assistant:. Where several answers stand in
    other columns, chosen and rejected, or winner, may name them (see `pointers.py`). A column margin says how much
    better the chosen one is. A list of answers with a number for each is a ranked list (see `rankings.py`), an answer
    with a label or a number a single one (see `unpaired.py`). Raises LabError for a source without such rows, or with
    single answers beside others, or when most rows cannot be used.
    """
    numbering, suspects = IndexBase(), AnswerReferenceCheck()
    items = parse_rows(path_or_hub_name, partial(_preference, numbering, suspects))
    if not numbering.is_consistent:
        items = parse_rows(path_or_hub_name, partial(_preference, IndexBase(numbering.remaining_bases), suspects))
    numbering.scale.raise_if_scale(items.reading.source)
    suspects.raise_if_all_are_references(items.reading.source)
    items = _without_questions(items)
    items.reading.finish_and_check(len(items.values))
    check_one_kind(items.values, items.reading.source)
    single = [one for one in items.values if isinstance(one, SingleAnswer)]
    items.reading.warnings += [summary(single)] if single else []
    return items


def _without_questions(items: ParsedRows[Preference]) -> ParsedRows[Preference]:
    """The same, but that answers which all begin with a copy of the prompt lose it; without those that then are empty
    or equal, which are counted.
    """
    asked = [one.prompt[-1].content for one in items.values]
    if not all(answers_repeat_questions(asked, [_answers(one)[side] for one in items.values]) for side in (0, -1)):
        return items
    reading, values, splits, found = items.reading, list[Preference](), list[str](), Counter[str]()
    reading.warnings.append("The answers begin with a copy of the prompt, which is removed.")
    for one, split in zip(items.values, items.split_per_row, strict=True):
        try:
            values.append(_without_question(one, found))
        except RowError as error:
            reading.drop(error.reason)
        else:
            splits.append(split)
    reading.warnings += [
        f"{count_with_noun(count, 'row')} without the prompt: {words}" for words, count in found.items()
    ]
    return ParsedRows(values, splits, reading)


def _answers(preference: Preference) -> tuple[str, ...]:
    """From the best to the worst."""
    if isinstance(preference, SingleAnswer):
        return (preference.completion,)
    return preference.answers if isinstance(preference, Ranking) else (preference.chosen, preference.rejected)


def _without_question(preference: Preference, remarks: Counter[str]) -> Preference:
    """One preference; what is odd is counted in `remarks`. Raises RowError where nothing can be learned from what is
    left of its answers.
    """
    question = preference.prompt[-1].content
    answers = tuple(strip_repeated_question(answer, question) for answer in _answers(preference))
    _check(preference.prompt, answers)
    if isinstance(preference, Ranking):
        places = preference.scores or [-at for at in range(len(answers))]
        kept, found = without_repeats(answers, places, "score" if preference.scores else "place")
        remarks.update(found)
        return preference._replace(answers=answers).select(kept)
    if isinstance(preference, SingleAnswer):
        return preference._replace(completion=answers[0])
    return preference._replace(chosen=answers[0], rejected=answers[1])


def _preference(
    numbering: IndexBase, suspects: AnswerReferenceCheck, row: Any, reading: ReadReport
) -> tuple[Preference, TrackedRow]:
    """One row -> a pair, a list or a single answer. Raises RowError where it is none, or its answers are empty or
    equal.
    """
    columns = to_tracked_row(row)
    check_weight_and_media(columns)
    check_tie(columns)
    refuse_trees_and_lists(columns)
    if not columns.has_value((*CHOSEN, *REJECTED, *WINNERS)):
        ranked = scored_answers(columns)
        if ranked is not None:
            return _ranking(ranked, columns, reading), columns
        answer, said_of_it = answer_field(columns), feedback(columns)
        if answer is not None and said_of_it is not None:
            return _single_answer(answer, said_of_it, columns, reading), columns
    return _pair(numbering, suspects, columns, reading), columns


def _ranking(ranked: ScoredAnswers, columns: TrackedRow, reading: ReadReport) -> Ranking:
    """Answers in their order -> a list, of whose equal answers the best one stands."""
    asked, answers = _prompt(columns), [_answer(one) for one in ranked.answers]
    if not all(isinstance(one, str) for one in answers):
        raise RowError("answers as messages", "has a list of answers as messages. Write each answer as its text.")
    _check(asked, tuple(map(str, answers)))
    kept, remarks = without_repeats(list(map(str, answers)), ranked.numbers, ranked.kind)
    texts = tuple(str(answers[at]) for at in kept)
    said = [Message("assistant", text) for text in texts]
    fields = [columns.values[name] for name in columns.used if name not in ANSWER_LISTS]
    record_turn_remarks(reading, (*asked, *said), fields)
    reading.row_remarks.update([*ranked.remarks, *remarks])
    reading.unread_turn_keys.update(ranked.unread_keys)
    return Ranking(asked, texts, tuple(ranked.numbers[at] for at in kept) if ranked.kind not in RANKS else ())


def _single_answer(given: Any, said_of_it: bool | float, columns: TrackedRow, reading: ReadReport) -> SingleAnswer:
    asked = () if isinstance(given, tuple) else _prompt(columns)
    answer = _answer(given)
    if not isinstance(answer, str):
        asked, answer, _ = _parted(prepend_system_message(columns, asked), answer, answer)
    _check(asked, (answer,))
    said = Message("assistant", answer)
    record_turn_remarks(reading, (*asked, said), [columns.values[name] for name in columns.used])
    if isinstance(said_of_it, bool):
        return LabeledAnswer(asked, answer, said_of_it)
    return RatedAnswer(asked, answer, said_of_it)


def _check(asked: Turns, answers: Sequence[str]) -> None:
    """Raises RowError for a prompt or answers that nothing can be learned from."""
    if not asked:
        raise RowError("empty prompt", "has an empty prompt.")
    if asked[-1].role != "user" or any(not message.content for message in asked):
        raise RowError("prompt without a question", "has a prompt that does not end with a user message.")
    if not all(answers):
        raise RowError("empty answer", "has an empty answer.")
    if len(answers) > 1 and len({*answers}) < 2:
        raise RowError("identical answers", "has the same answer chosen and rejected.")


def _pair(
    numbering: IndexBase, suspects: AnswerReferenceCheck, columns: TrackedRow, reading: ReadReport
) -> PreferencePair:
    published = published_pair(columns)
    given = published or chosen_and_rejected(columns, reading, numbering)
    if not published and (
        is_empty(given[0]) and not columns.has_column(CHOSEN) or is_empty(given[1]) and not columns.has_column(REJECTED)
    ):
        raise RowError("unknown columns", f"has the columns {columns}; {_mend(columns)}")
    asked = _prompt(columns)
    chosen, rejected = map(_answer, given)
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        asked, chosen, rejected = _parted(prepend_system_message(columns, asked), chosen, rejected)
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise RowError("text and messages mixed", "has a text on one side and messages on the other.")
    _check(asked, (chosen, rejected))
    said = (Message("assistant", chosen), Message("assistant", rejected))
    record_turn_remarks(reading, (*asked, *said), [columns.values[name] for name in columns.used])
    _note_scores(columns, reading)
    suspects.add_row(columns, given)
    return PreferencePair(asked, chosen, rejected, _margin(columns))


def _margin(columns: TrackedRow) -> float:
    """How much better the chosen answer is said to be; 0 where that is not said, or not a number from 0 on."""
    margin, strength = number_or_none(columns.values.get("margin")), columns.used.intersection(STRENGTHS)
    if margin is None and strength:
        return abs(number_or_none(columns.values[strength.pop()]) or 0.0)
    if margin is None or not 0 < margin < math.inf:
        return 0.0
    columns.used.add("margin")
    return margin


def _note_scores(columns: TrackedRow, reading: ReadReport) -> None:
    """Enter in the record that the chosen answer is the worse one, where scores, a margin or a verdict say so."""
    for name in (*VERDICTS, "margin"):
        value = columns.values.get(name)
        worse = (number_or_none(value) or 0) < 0 if name == "margin" else str(value).strip().lower() == "rejected"
        if worse:
            words = f"{name} says that the rejected answer is better; the pair is used as given."
            reading.row_remarks[f"{words} Swap them if it is wrong."] += 1
    for name in columns.values:
        parts = re.split("[_ -]", name)
        if "chosen" in parts and not {*parts}.isdisjoint(SCORES):
            other = name.replace("chosen", "rejected")
            chosen, rejected = number_or_none(columns.values[name]), number_or_none(columns.values.get(other))
            if chosen is None or rejected is None:
                continue
            if chosen < rejected:
                words = f"{name} is below {other}; the pair is used as given. Swap them if it is wrong."
                reading.row_remarks[words] += 1
            elif chosen == rejected:
                words = f"{name} is the same as {other}; the pair is used as given. Remove it if it is a tie."
                reading.row_remarks[words] += 1


def _prompt(columns: TrackedRow) -> Turns:
    """The turns before the answers, as far as columns of their own give them; empty where they do not."""
    name = columns.find_unambiguous_column(QUESTIONS)
    if name is None or is_empty(columns.values[name]):
        name = columns.find_column((*QUESTIONS, *TURNS, "input"))
    if name is None:
        return ()
    value = columns.values[name]
    if name == "input" and isinstance(value, dict):  # as OpenAI has it
        columns.used.add(name)
        value = value.get("messages")
    if name in TURNS or name == "input" and isinstance(value, list):
        columns.used.add(name)
        return prepend_system_message(columns, (*history_messages(columns), *parse_turns(value)))
    if is_empty(value):
        raise RowError("empty prompt", "has an empty prompt.")
    return question_messages(columns, name)


def _answer(value: Any) -> str | Turns:
    """One side: its text, or its messages."""
    if isinstance(value, str) and value.lstrip().startswith("{"):  # one message, as text
        value = field_to_messages(f"[{value}]") or value
    messages = value if isinstance(value, tuple) else field_to_messages(value) or parse_transcript(value)
    return clean_field(value) if messages is None else messages


def _parted(asked: Turns, chosen: Turns, rejected: Turns) -> tuple[Turns, str, str]:
    """(prompt, chosen answer, rejected answer) of answers given as messages, with or without the prompt before them."""
    if len(chosen) != len(rejected) or chosen[:-1] != rejected[:-1]:
        raise RowError("answers to two prompts", "has answers that do not follow the same turns.")
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        raise RowError("answer with the wrong role", "has an answer whose role is not assistant.")
    shared = chosen[:-1]
    spoken = tuple(message for message in asked if message.role != "system")
    if shared and shared[-len(spoken) :] == spoken or not spoken:
        prompt = shared if not asked or shared[:1] == asked[:1] else (*_systems(asked, shared), *shared)
    elif not shared:
        prompt = asked
    else:
        raise RowError("answers to another prompt", "has answers that begin with turns other than its prompt.")
    return prompt, chosen[-1].content, rejected[-1].content


def _systems(asked: Turns, shared: Turns) -> Turns:
    """The prompt's system messages that the turns before the answers do not begin with themselves."""
    return tuple(message for message in asked if message.role == "system" and message not in shared)


def _mend(columns: TrackedRow) -> str:
    needed = "preferences need chosen and rejected, and a prompt"
    if columns.has_column(ANSWERS):
        return (
            f"{needed}; or single answers with a label (true or false) or a rating (a number). Of answers with a rank, "
            f"write the better as chosen and the other as rejected."
        )
    return f"{needed} ({', '.join(QUESTIONS)})."
