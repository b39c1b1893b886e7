"""What several seeds say of a difference, and how many of them would decide it.

Methods that are trained from the same model and asked the same prompts are compared seed by seed: of n differences with
mean d and sample deviation s, the 95 % interval is d ± t(0.975, n - 1) s / √n, with Student's t. Where it contains 0,
the difference is inside the spread of seeds. As many seeds would show a difference of d, in 80 % of studies, as the
smallest n with

    n >= ((t(0.975, n - 1) + t(0.8, n - 1)) s / d)²

(the usual approximation to the power of a paired t-test; Snedecor & Cochran 1989, Statistical Methods, chapter 6). d
and s are themselves estimates, so the number is one too. Nothing is corrected for how many pairs of methods are
compared: of 20 that are equal, one is expected to be called better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

CONFIDENCE, POWER = 0.95, 0.8
MOST_SEEDS = 1000
"""Of more seeds nobody asks how many exactly."""
FORMULA = "n >= ((t(0.975, n - 1) + t(0.8, n - 1)) * s / d)^2"
NORMAL_FROM = 300
"""Degrees of freedom from which t is taken for normal; the quantiles differ by less than 0.01."""


def t_probability(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t with so many degrees of freedom: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for index in range(1 + odd, freedom, 2):
        total += term
        term *= square * index / (index + 1)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + inside) / 2


def t_quantile(probability: float, freedom: int) -> float:
    """The t that is exceeded with 1 - probability, for a probability of at least a half."""
    if freedom >= NORMAL_FROM:
        return NormalDist().inv_cdf(probability)
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return high


class SeedSummary(NamedTuple):
    """A number over seeds. spread: the sample deviation; low, high: the 95 % interval of the mean, by Student's t. The
    last three are None of one seed, which has no spread.
    """

    mean: float
    spread: float | None
    low: float | None
    high: float | None


def summarize_seeds(values: Sequence[float]) -> SeedSummary:
    """[0.2, 0.25, 0.3] -> mean 0.25, spread 0.05, interval 0.126 to 0.374."""
    if len(values) < 2:
        return SeedSummary(fmean(values), None, None, None)
    mean, spread = fmean(values), stdev(values)
    half = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * spread / math.sqrt(len(values))
    return SeedSummary(mean, spread, mean - half, mean + half)


def seeds_needed(difference: float, spread: float) -> int | None:
    """How many seeds would show the difference, see the module; None where it takes more than MOST_SEEDS."""
    if not difference:
        return None
    for count in range(2, MOST_SEEDS + 1):
        both = t_quantile((1 + CONFIDENCE) / 2, count - 1) + t_quantile(POWER, count - 1)
        if count >= (both * spread / difference) ** 2:
            return count
    return None


class SeedComparison(NamedTuple):
    """Two methods, seed by seed. difference: mean of first less second. better: the one that is, where the interval
    does not contain 0; None where it does, and of one seed. seeds_needed: where it does contain 0; None for more than
    MOST_SEEDS, and where nothing can be said.
    """

    first: str
    second: str
    difference: float
    spread: float | None
    low: float | None
    high: float | None
    better: str | None
    seeds_needed: int | None

    def __str__(self) -> str:
        return self.describe("better")

    def describe(self, word: str) -> str:
        """In words, where who has the higher value is better, or later, or what `word` says."""
        if self.spread is None or self.low is None or self.high is None:
            return f"{self.first} - {self.second}: {self.difference:+.3f}; one seed has no spread, so neither is {word}"
        interval = f"{self.difference:+.3f} ({self.low:+.3f} to {self.high:+.3f})"
        if self.better is not None:
            return f"{self.first} - {self.second}: {interval}, {self.better} is {word}"
        decide = f"about {self.seeds_needed}" if self.seeds_needed else f"more than {MOST_SEEDS}"
        return f"{self.first} - {self.second}: {interval}, inside the spread of seeds; {decide} seeds would decide"


def compare_over_seeds(first: str, firsts: Sequence[float], second: str, seconds: Sequence[float]) -> SeedComparison:
    """Two named methods by a number that is better when it is higher, one value a seed, in the same order."""
    found = summarize_seeds([one - other for one, other in zip(firsts, seconds, strict=True)])
    better, needed = None, None
    if found.spread is not None and found.low is not None and found.high is not None:
        better = first if found.low > 0 else second if found.high < 0 else None
        needed = None if better else seeds_needed(found.mean, found.spread)
    return SeedComparison(first, second, *found, better, needed)
