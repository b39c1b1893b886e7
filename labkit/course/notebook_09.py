"""The exercises of notebook 09, decoding."""

from __future__ import annotations

from itertools import accumulate

import torch

from labkit.course.checkers import Function, Value
from labkit.course.exercises import Exercise, Mistake
from labkit.decoding import Filter, MinP, Temperature, TopK, TopP, filter_logits

TITLE = "Decoding"

TEMPERATURE_TOP_K, TEMPERATURE_MIN_P = "temperature, top-k", "temperature, min-p"
TOP_K_TOP_P, TOP_K_MIN_P = "top-k, top-p", "top-k, min-p"


def pairs_that_commute() -> set[str]:
    """Tried on many distributions: both orders must always leave the same."""
    pairs: dict[str, tuple[Filter, Filter]] = {
        TEMPERATURE_TOP_K: (Temperature(2.0), TopK(5)),
        TEMPERATURE_MIN_P: (Temperature(2.0), MinP(0.2)),
        TOP_K_TOP_P: (TopK(5), TopP(0.8)),
        TOP_K_MIN_P: (TopK(5), MinP(0.2)),
    }
    logits = 3 * torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    return {
        name
        for name, (one, other) in pairs.items()
        if torch.equal(filter_logits([one, other], logits), filter_logits([other, one], logits))
    }


def threshold_at_temperature_1() -> float:
    """At temperature T the ratio p / p_max becomes (p / p_max) ** (1 / T); at T = 2, it is at least 0.3 where the ratio
    itself is at least 0.3 ** 2.
    """
    return 0.3**2


def beam_score(logprobs: list[float], length_penalty: float) -> float:
    """The log-probability of the text, divided by its length to the power of the penalty."""
    return sum(logprobs) / len(logprobs) ** length_penalty


def draw(probabilities: list[float], u: float) -> int:
    """The token on which u falls, when the tokens lie side by side, each as wide as its probability."""
    passed = 0.0
    for token, probability in enumerate(probabilities):
        passed += probability
        if u < passed:
            return token
    return len(probabilities) - 1


def tokens_per_pass(a: float, k: int) -> float:
    """1 + a + a² + … + a^k: each proposed token counts if it and all before it were accepted, and one more is free."""
    return sum(a**accepted for accepted in range(k + 1))


def best_number_of_proposals() -> int:
    """The k with the most tokens per time, where a draft pass takes c = 0.1 of a target pass and a = 0.8."""
    return max(range(30), key=lambda k: tokens_per_pass(0.8, k) / (0.1 * k + 1))


EXERCISES = (
    Exercise(
        "09.1",
        f'In which of these pairs does the order of the two make no difference: "{TEMPERATURE_TOP_K}", '
        f'"{TEMPERATURE_MIN_P}", "{TOP_K_TOP_P}", "{TOP_K_MIN_P}"? Give the set of them.',
        pairs_that_commute,
        Value(),
        (
            Mistake(
                "top-p takes shares for fixed",
                {TEMPERATURE_TOP_K, TOP_K_MIN_P, TOP_K_TOP_P},
                "After top-k the remaining probabilities are larger, as they add up to 1 again. Does top-p then keep "
                "the same tokens?",
            ),
            Mistake(
                "temperature changes ratios",
                {TEMPERATURE_TOP_K, TEMPERATURE_MIN_P, TOP_K_MIN_P},
                "Temperature keeps the ranking, but not the ratio of a probability to the highest. Which filter "
                "compares with the highest?",
            ),
            Mistake(
                "min-p takes shares for fixed",
                {TEMPERATURE_TOP_K},
                "One more: top-k makes the remaining probabilities larger, all by the same factor. What does min-p "
                "compare?",
            ),
        ),
    ),
    Exercise(
        "09.2",
        "Which min-p threshold at temperature 1 keeps exactly the tokens that min-p 0.3 keeps after temperature 2?",
        threshold_at_temperature_1,
        Value(),
        (
            Mistake("root for square", 0.3**0.5, "You went the other way: temperature 2 takes the root of the ratio."),
            Mistake("divided", 0.15, "Temperature divides logits, which are logarithms: what does that do to a ratio?"),
            Mistake(
                "multiplied", 0.6, "A flatter distribution keeps more tokens, so before it the threshold is lower."
            ),
            Mistake(
                "the same", 0.3, "At temperature 2 every ratio to the highest probability is another, nearer to 1."
            ),
        ),
    ),
    Exercise(
        "09.3",
        "Write draw(probabilities, u): the token that the number u, from 0 to 1, falls on. u = 0 falls on the "
        "first token that has a probability, u = 1 on the last token.",
        draw,
        Function(
            lambda: [
                ([0.5, 0.3, 0.2], 0.6),
                ([0.5, 0.3, 0.2], 0.0),
                ([0.1, 0.9], 0.05),
                ([0.0, 0.2, 0.8], 0.99),
                ([0.0, 1.0], 0.0),
                ([0.5, 0.25, 0.25], 1.0),
            ]
        ),
        (
            Mistake(
                "argmax",
                lambda probabilities, u: probabilities.index(max(probabilities)),
                "This is greedy decoding: u makes no difference to it.",
            ),
            Mistake(
                "off by one",
                lambda probabilities, u: draw(probabilities, u) + 1,
                "It is off by one: tokens are counted from 0.",
            ),
            Mistake(
                "edge on the left",
                lambda probabilities, u: next(t for t, end in enumerate(accumulate(probabilities)) if u <= end),
                "At u = 0 this draws a token of probability 0. To which of two tokens does their edge belong?",
            ),
            Mistake(
                "nothing at the end",
                lambda probabilities, u: next((t for t, end in enumerate(accumulate(probabilities)) if u < end), None),
                "At u = 1 this draws no token at all.",
            ),
            Mistake(
                "cumulative sum forgotten",
                lambda probabilities, u: next(
                    (t for t, p in enumerate(probabilities) if u < p), len(probabilities) - 1
                ),
                "You compare u with each probability by itself. Where does the second token begin?",
            ),
        ),
    ),
    Exercise(
        "09.4",
        "Write beam_score(logprobs, length_penalty): the score of an ended text from its tokens' log-probabilities.",
        beam_score,
        Function(lambda: [([-1.0, -2.0, -0.5], 1.0), ([-1.0, -2.0, -0.5], 0.0), ([-0.3], 2.0), ([-1.0] * 4, 0.5)]),
        (
            Mistake(
                "penalty forgotten",
                lambda logprobs, penalty: sum(logprobs) / len(logprobs),
                "This is the mean, whatever the penalty: right at 1 alone.",
            ),
            Mistake(
                "sum for the score",
                lambda logprobs, penalty: sum(logprobs),
                "This is the log-probability of the text, right at the penalty 0 alone.",
            ),
            Mistake(
                "multiplied",
                lambda logprobs, penalty: sum(logprobs) / (len(logprobs) * penalty) if penalty else sum(logprobs),
                "The penalty is an exponent of the length, not a factor.",
            ),
        ),
    ),
    Exercise(
        "09.5",
        "Write tokens_per_pass(a, k): the tokens that a forward pass of the target gives on average, where each of k "
        "proposed tokens is accepted with probability a. Mind a = 1.",
        tokens_per_pass,
        Function(lambda: [(0.5, 3), (0.8, 4), (0.0, 2), (1.0, 4)]),
        (
            Mistake(
                "off by one",
                lambda a, k: sum(a**accepted for accepted in range(k)),
                "It is off by one: after the accepted tokens, the pass gives one of the target's own.",
            ),
            Mistake(
                "mean of accepted tokens",
                lambda a, k: k * a,
                "This would be so if tokens behind a rejected one still counted.",
            ),
            Mistake(
                "division by zero",
                lambda a, k: (1 - a ** (k + 1)) / (1 - a),
                "The formula is right, but divides by 0 at a = 1, where every token is accepted.",
            ),
        ),
    ),
    Exercise(
        "09.6",
        "For a = 0.8, and a draft pass that takes 0.1 of a target pass, which k gives the most tokens per time?",
        best_number_of_proposals,
        Value(),
        (
            Mistake("off by one, below", 5, "Near: at 5, one more proposal still pays."),
            Mistake("off by one, above", 7, "Near: at 7, the last proposal costs more than it gives."),
            Mistake("cost forgotten", 29, "More proposals give more tokens, but each takes a tenth of a pass."),
        ),
    ),
)
