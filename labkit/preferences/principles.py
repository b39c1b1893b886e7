"""Preferences from AI feedback: a judge that follows written principles chooses between two answers.

Constitutional AI (Bai et al. 2022, https://arxiv.org/abs/2212.08073, section 4.1) asks a language model which of two
answers satisfies a principle better, one principle drawn for each comparison, and trains on its choices; RLAIF (Lee et
al. 2023, https://arxiv.org/abs/2309.00267) finds policies trained so about as good as from people's choices. The
principles here are sentences in data/world/principles.yaml, in groups, each about one measure of an answer.

Where this departs from the papers:

1. The judge's reading of an answer is the world's parser, a stand-in for a large model that reads well. `noise` is the
   share of choices that it gets wrong all the same.
2. A choice is hard, where the papers take the model's probability as a soft label. Two answers between which what is
   asked does not decide are a tie, as an annotator's are.
3. A label does not depend on the order in which the answers are shown, which RLAIF reaches by asking in both orders.

The judge sees no annotator's profile and no total: it can be right about its principles and wrong about what an
annotator likes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from labkit.configs import Share, check_fields
from labkit.errors import LabError
from labkit.preferences.choosing import first_of_each, rank_by_choices
from labkit.world import Task, World, gold_score
from labkit.world.lexicon import load_yaml
from labkit.world.oracle import GoldScore
from labkit.world.profiles import Annotator

MEASURES = tuple(name for name in GoldScore._fields if name not in ("total", "reasons"))
"""What a principle may ask about."""
_READER = Annotator("reader", complete=0.0, polite=0.0, concise=0.0, words=1, flip_probability=0.0)
"""Nobody's values. Of a patience of one word, `concise` is one over the number of words, so that it compares lengths.
"""


class Principle(NamedTuple):
    """A sentence in English and in Chinese, and the measure of `labkit.world.oracle` that it asks about."""

    measure: str
    english: str
    chinese: str


@cache
def load_principles() -> dict[str, tuple[Principle, ...]]:
    """The groups of data/world/principles.yaml, by name. Raises LabError for a file that has none, for a group without
    principles, and for a principle without its texts or about a measure that the oracle has not.
    """
    read = load_yaml("principles")
    if not isinstance(read, dict) or not read:
        raise LabError("principles.yaml needs groups of principles, as helpful: [{measure: …, en: …, zh: …}].")
    return {str(name): _group(str(name), rows) for name, rows in read.items()}


def _group(name: str, rows: Any) -> tuple[Principle, ...]:
    if not isinstance(rows, list) or not rows:
        raise LabError(f"principles.yaml: the group {name} needs a list of principles, one or more.")
    for number, row in enumerate(rows, 1):
        texts = [row.get(key) for key in ("measure", "en", "zh")] if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise LabError(
                f"principles.yaml: principle {number} of the group {name} needs measure, en and zh, as texts."
            )
        if texts[0] not in MEASURES:
            measures = ", ".join(MEASURES)
            raise LabError(f"principles.yaml: {name} asks about {texts[0]}; the measures are {measures}.")
    return tuple(Principle(row["measure"], row["en"], row["zh"]) for row in rows)


@dataclass(frozen=True)
class ProfileJudge:
    """The annotator chooses by its profile, as people would choose: see `labkit.preferences.choosing`."""


@dataclass(frozen=True)
class Principles:
    """A judge chooses by written principles.

    group: of data/world/principles.yaml. ask: one principle drawn for each pair, or all in order until one decides.
    noise: the share of choices that are the wrong way round.
    """

    group: str = "helpful"
    ask: Literal["one", "in_order"] = "one"
    noise: Share = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        if self.group not in load_principles():
            raise LabError(
                f"Principles: there is no group {self.group!r}; the groups are {', '.join(load_principles())}."
            )


@dataclass
class PrincipleJudge:
    """The judge at work; `rng` makes all that is left to chance."""

    config: Principles
    rng: random.Random

    def chooses_first(self, first: GoldScore, second: GoldScore) -> bool | None:
        """Whether the first answer is chosen, by what was read of both; None where what is asked does not decide."""
        asked = load_principles()[self.config.group]
        if self.config.ask == "one":
            asked = (self.rng.choice(asked),)
        return self._decided(asked, first, second)

    def _decided(self, asked: Sequence[Principle], first: GoldScore, second: GoldScore) -> bool | None:
        for principle in asked:
            one, other = getattr(first, principle.measure), getattr(second, principle.measure)
            if one != other:
                return (one > other) != (self.rng.random() < self.config.noise)
        return None

    def choose_two_by_two(self, read: Sequence[GoldScore], keep_ties: bool) -> Iterator[tuple[int, int]]:
        """The first with the second, the third with the fourth, and so on: (chosen, rejected) by their places. Ties
        are passed over, or with keep_ties a coin's.
        """
        for first in range(0, len(read) - 1, 2):
            chosen = self.chooses_first(read[first], read[first + 1])
            if chosen is None and keep_ties:
                chosen = self.rng.random() < 0.5
            if chosen is not None:
                yield (first, first + 1) if chosen else (first + 1, first)

    def choose_best_and_worst(self, read: Sequence[GoldScore], keep_ties: bool) -> Iterator[tuple[int, int]]:
        """The best and the worst of all as (chosen, rejected), ranked by choices between two, in each of which one
        principle after another is asked until one decides; nothing where no principle tells two answers apart.
        """
        measures = [principle.measure for principle in load_principles()[self.config.group]]
        keys = [tuple(getattr(score, measure) for measure in measures) for score in read]
        places = range(len(read)) if keep_ties else first_of_each(keys)
        ranked = rank_by_choices(places, lambda first, second: self._prefers_first(read[first], read[second]))
        if len(ranked) > 1:
            yield ranked[0], ranked[-1]

    def _prefers_first(self, first: GoldScore, second: GoldScore) -> bool:
        """Whether the first answer is chosen by the first principle that decides, of all in order or, where one is
        asked for a pair, in a drawn order; a coin's where none does.
        """
        asked = list(load_principles()[self.config.group])
        if self.config.ask == "one":
            self.rng.shuffle(asked)
        chosen = self._decided(asked, first, second)
        return self.rng.random() < 0.5 if chosen is None else chosen


def read_answer(world: World, task: Task, answer: str) -> GoldScore:
    """What the judge reads in an answer; its `total` is nobody's."""
    return gold_score(world, task, answer, _READER)
