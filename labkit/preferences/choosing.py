"""How an annotator comes to a choice between two answers, a ranking of several, or a rating of one: by the profile's
values, or not.

    values      the profile's gold score, and a mistake at the profile's rate
    position    of two answers the first shown one is chosen, whatever they say
    laziness    the answers are not read: a coin decides, or their length

Mistakes, a position and a coin are noise to a reward model, which does not see what was shown first: its choices are
right less often, and its scores lie closer together. A liking for length it learns as if it were a value. A rating is
of one answer by itself: it has no position, and its mistakes are noise on the scale.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from labkit.world.profiles import Annotator

LazyChoice = Literal["coin", "longer", "shorter"]
LOWEST, HIGHEST = 1, 5
"""Ratings, as of stars."""


class ShownAnswer(NamedTuple):
    """An answer as an annotator sees it: its words, and its gold score under the annotator's profile."""

    text: str
    gold: float


@dataclass
class Chooser:
    """One annotator at work; `rng` makes all that is left to chance.

    position_bias: the share of choices that fall on the answer shown first. laziness: the share of the others that are
    made without reading, as lazy_choice says; equal lengths are a coin's. rating_noise: the standard deviation of what
    is added to ratings.
    """

    profile: Annotator
    rng: random.Random
    position_bias: float = 0.0
    laziness: float = 0.0
    lazy_choice: LazyChoice = "coin"
    rating_noise: float = 0.0

    def chooses_first(self, first: ShownAnswer, second: ShownAnswer) -> bool:
        """Whether the answer shown first is chosen."""
        if self.position_bias and self.rng.random() < self.position_bias:
            return True
        if self.laziness and self.rng.random() < self.laziness:
            return self._chooses_first_unread(len(first.text), len(second.text))
        return self.profile.chooses_first(first.gold, second.gold, self.rng)

    def _chooses_first_unread(self, first_length: int, second_length: int) -> bool:
        if self.lazy_choice == "coin" or first_length == second_length:
            return self.rng.random() < 0.5
        return (first_length > second_length) == (self.lazy_choice == "longer")

    def choose_two_by_two(self, shown: Sequence[ShownAnswer], keep_ties: bool) -> Iterator[tuple[int, int]]:
        """The first with the second, the third with the fourth, and so on: (chosen, rejected) by their places. Two of
        the same gold are passed over unless keep_ties says otherwise.
        """
        for first in range(0, len(shown) - 1, 2):
            pair = shown[first], shown[first + 1]
            if pair[0].gold != pair[1].gold or keep_ties:
                yield (first, first + 1) if self.chooses_first(*pair) else (first + 1, first)

    def rank(self, shown: Sequence[ShownAnswer], keep_ties: bool) -> list[int]:
        """The places of the answers from the best to the worst, each sorted in by choices between two: with those
        above which it may stand, the middle one first. Of several with the same gold the first one alone is ranked,
        unless keep_ties says otherwise.

        A choice is wrong as often as one of a pair is, and the places of all that follow are found by a list that has
        it. Of two answers the one that was shown before counts as shown first.
        """
        places = range(len(shown)) if keep_ties else first_of_each([answer.gold for answer in shown])
        return rank_by_choices(places, lambda first, second: self.chooses_first(shown[first], shown[second]))

    def choose_best_and_worst(self, shown: Sequence[ShownAnswer], keep_ties: bool) -> Iterator[tuple[int, int]]:
        """The best and the worst of all, by `rank`, as (chosen, rejected); nothing where all have the same gold."""
        ranked = self.rank(shown, keep_ties)
        if len(ranked) > 1:
            yield ranked[0], ranked[-1]

    def rate(self, answer: ShownAnswer) -> int:
        """From 1 to 5 by the gold score, 0 to 1, with the noise; where the answer is not read, any."""
        if self.laziness and self.rng.random() < self.laziness:
            return self.rng.randint(LOWEST, HIGHEST)
        rating = LOWEST + (HIGHEST - LOWEST) * answer.gold + self.rng.gauss(0.0, self.rating_noise)
        return min(HIGHEST, max(LOWEST, round(rating)))


def rank_by_choices(places: Iterable[int], chooses_first: Callable[[int, int], bool]) -> list[int]:
    """The places from the best to the worst, each sorted in among those before it by choices between two."""
    ranked: list[int] = []
    for place in places:
        low, high = 0, len(ranked)
        while low < high:
            middle = (low + high) // 2
            if chooses_first(ranked[middle], place):
                low = middle + 1
            else:
                high = middle
        ranked.insert(low, place)
    return ranked


def first_of_each(keys: Sequence[Hashable]) -> list[int]:
    """The places of the first of each key, in order."""
    return sorted({key: place for place, key in reversed(list(enumerate(keys)))}.values())
