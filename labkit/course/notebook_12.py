"""The exercises of notebook 12: look, compare, choose."""

from __future__ import annotations

import math
from collections.abc import Callable

from labkit.course.checkers import Choice, Function
from labkit.course.exercises import Exercise, Mistake

TITLE = "Look, compare, choose"

AFTER, IT, ALONE, ALL = "from that word on", "from 'it' on", "of that word alone", "all"


def rows_that_change() -> str:
    """A decoder's token attends to earlier tokens alone, so a later word cannot change the row of an earlier one."""
    return AFTER


def induction_pairs(tokens: list[int]) -> set[tuple[int, int]]:
    """The pairs (i, j), j <= i, where the token before j is the one at i: what followed it the last times."""
    return {(i, j) for i in range(len(tokens)) for j in range(1, i + 1) if tokens[j - 1] == tokens[i]}


def _one_occurrence(tokens: list[int], of: Callable[[list[int]], int]) -> set[tuple[int, int]]:
    """Of the pairs of each i only that with one j."""
    pairs = induction_pairs(tokens)
    return {(i, of([j for other, j in pairs if other == i])) for i, _ in pairs}


def standard_error(gains: list[float]) -> float:
    """Of a mean: the standard deviation (with n - 1) divided by the square root of n."""
    mean = sum(gains) / len(gains)
    variance = sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1)
    return math.sqrt(variance / len(gains))


def _variance(gains: list[float], divisor: int) -> float:
    mean = sum(gains) / len(gains)
    return sum((gain - mean) ** 2 for gain in gains) / divisor


def said_less_often() -> str:
    """concise weighs brevity 0.8 and politeness 0.1, and an answer of more than five words loses."""
    return "polite phrases"


EXERCISES = (
    Exercise(
        "12.1",
        "In 'The horse did not climb the wall because it was too tired.', 'tired' becomes 'high'. Which rows of a "
        "head's picture can change?",
        rows_that_change,
        Choice((ALL, IT, ALONE, AFTER)),
        (
            Mistake("no mask", ALL, "Can a token attend to one that comes after it?"),
            Mistake(
                "meaning for attention", IT, "'it' now means the wall. But the word that says so comes after 'it'."
            ),
            Mistake("later rows forgotten", ALONE, "Tokens behind the word attend to it, too: the full stop is one."),
        ),
    ),
    Exercise(
        "12.2",
        "Write induction_pairs(tokens): the set of pairs (i, j), j at most i, where token j followed an earlier "
        "occurrence of token i.",
        induction_pairs,
        Function(lambda: [([1, 2, 3, 1],), ([5, 6, 5, 6],), ([7],), ([4, 4],), ([1, 2, 1, 3, 1],)]),
        (
            Mistake(
                "the same token",
                lambda tokens: {(i, j) for i in range(len(tokens)) for j in range(i) if tokens[j] == tokens[i]},
                "These are earlier occurrences of the same token; asked for is the token behind each of them.",
            ),
            Mistake(
                "the future",
                lambda tokens: {
                    (i, j) for i in range(len(tokens)) for j in range(1, len(tokens)) if tokens[j - 1] == tokens[i]
                },
                "Some of these pairs are in the future: a token attends to earlier ones and to itself.",
            ),
            Mistake(
                "last occurrence alone",
                lambda tokens: _one_occurrence(tokens, max),
                "A token may have occurred more than once before: only the last time is looked at here.",
            ),
            Mistake(
                "first occurrence alone",
                lambda tokens: _one_occurrence(tokens, min),
                "A token may have occurred more than once before: only the first time is looked at here.",
            ),
            Mistake(
                "transposed",
                lambda tokens: {(j, i) for i, j in induction_pairs(tokens)},
                "The two are exchanged: first the token that attends, then the one it attends to.",
            ),
        ),
    ),
    Exercise(
        "12.3",
        "Write standard_error(gains): the standard error of the mean gain over these prompts (with n - 1).",
        standard_error,
        Function(lambda: [([0.0, 1.0],), ([0.1, 0.3, 0.2, 0.8],), ([1.0, 1.0, 1.0],)]),
        (
            Mistake(
                "standard deviation",
                lambda gains: math.sqrt(_variance(gains, len(gains) - 1)),
                "This is how much single prompts differ. The mean of n prompts varies less.",
            ),
            Mistake(
                "n for n - 1",
                lambda gains: math.sqrt(_variance(gains, len(gains)) / len(gains)),
                "Divide the squares by n - 1: they are about the mean of the same gains, which is as near as can be.",
            ),
            Mistake(
                "root forgotten",
                lambda gains: _variance(gains, len(gains) - 1) / len(gains),
                "This is the variance of the mean; its square root is missing.",
            ),
        ),
    ),
    Exercise(
        "12.4",
        "The annotator 'concise' votes in place of 'warm'. What does the next model say less often?",
        said_less_often,
        Choice(("polite phrases", "short answers", "right answers", "names")),
        (
            Mistake(
                "the wrong way round", "short answers", "These are what 'concise' chooses. What makes answers long?"
            ),
            Mistake("right answers", "right answers", "Every annotator wants a right answer; they differ in the rest."),
            Mistake(
                "names", "names", "A name is often the answer itself. What can be left out and the answer stays right?"
            ),
        ),
    ),
)
