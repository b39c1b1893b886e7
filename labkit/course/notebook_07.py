"""The exercises of notebook 07, PPO."""

from __future__ import annotations

import math

from labkit.course.checkers import Choice, Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "PPO"


def first_advantage_without_lambda() -> float:
    """reward + value of the next token - own value; the KL's price is the reward of a token that is not the last."""
    reward = -0.5 * (-1.0 - -2.0)
    return reward + 0.3 - 0.2


def kl_k3(logprobs: list[float], reference_logprobs: list[float]) -> float:
    """The mean over tokens of (rho - 1) - log rho, with rho = reference / policy."""
    log_ratios = [other - own for own, other in zip(logprobs, reference_logprobs, strict=True)]
    return sum(math.exp(x) - 1 - x for x in log_ratios) / len(log_ratios)


def kl_k1(logprobs: list[float], reference_logprobs: list[float]) -> float:
    return sum(own - other for own, other in zip(logprobs, reference_logprobs, strict=True)) / len(logprobs)


def wrong_side_of_the_clip() -> float:
    """The free term is rho A = -3, the clipped one 1.2 A = -2.4; the smaller one counts."""
    return min(1.5 * -2.0, 1.2 * -2.0)


def surrogate_gradient(ratio: float, advantage: float, cliprange: float) -> float:
    """A, but 0 where the ratio is beyond the clip on the side that the advantage asks for."""
    moved_enough = ratio > 1 + cliprange if advantage > 0 else ratio < 1 - cliprange
    return 0.0 if moved_enough else advantage


def zero_outside_the_clip(ratio: float, advantage: float, cliprange: float) -> float:
    return advantage if 1 - cliprange < ratio < 1 + cliprange else 0.0


def break_even_kl_coef(gain: float, kl: float) -> float:
    """The price at which kl nats cost the whole gain."""
    return gain / kl


def tokens_with_credit() -> str:
    """Without values and with lambda = 0 the advantage is the token's own reward; the score is the last token's.

    The first token gets an advantage once the critic has learnt to predict the score at the tokens before the end, so
    that its value changes where a token makes a good score likelier.
    """
    return "the last"


EXERCISES = (
    Exercise(
        "07.1",
        "Three tokens: log π −1, −0.5, −0.2; log π₀ −2, −0.5, −0.6; values 0.2, 0.3, 0.6; score 1, KL coefficient 0.5, "
        "γ = 1. What is the advantage of the first token with λ = 0?",
        first_advantage_without_lambda,
        Value(),
        (
            Mistake("λ = 1", 0.1, "That is the return less the value, λ = 1. With λ = 0 only one error counts."),
            Mistake(
                "own value forgotten", -0.2, "This is reward plus the next value. What was expected at this token?"
            ),
            Mistake(
                "next value forgotten", -0.7, "With λ = 0 the critic's value of the next token stands for the rest."
            ),
            Mistake("sign of the KL", 0.6, "The policy made this token likelier than the reference does: that costs."),
        ),
    ),
    Exercise(
        "07.2",
        "Write kl_k3(logprobs, reference_logprobs): of two lists, the mean over the drawn tokens of "
        "(ρ − 1) − log ρ, ρ = π₀ / π.",
        kl_k3,
        Function(lambda: [([-1.0, -0.5, -0.2], [-2.0, -0.5, -0.6]), ([-3.0], [-1.0]), ([-1.0, -2.0], [-1.0, -2.0])]),
        (
            Mistake(
                "ratio upside down",
                lambda logprobs, reference_logprobs: kl_k3(reference_logprobs, logprobs),
                "The ratio is upside down: the reference's probability is divided by the policy's.",
            ),
            Mistake("k1", kl_k1, "This is k1, the mean of log π − log π₀. Can it be negative?"),
            Mistake(
                "sum for mean",
                lambda logprobs, reference_logprobs: len(logprobs) * kl_k3(logprobs, reference_logprobs),
                "This grows with the length of the answer; a mean over tokens is asked for.",
            ),
            Mistake(
                "ratio without its logarithm",
                lambda logprobs, reference_logprobs: (
                    kl_k3(logprobs, reference_logprobs) - kl_k1(logprobs, reference_logprobs)
                ),
                "This is the mean of ρ − 1, which is 0 on average. What is taken away from it?",
            ),
        ),
    ),
    Exercise(
        "07.3",
        "A = −2, the ratio is 1.5, ε = 0.2. What is min(ρA, clip(ρ, 1 − ε, 1 + ε) A)?",
        wrong_side_of_the_clip,
        Value(),
        (
            Mistake("clipped", -2.4, "That is the clipped term. Which of the two is smaller when A is negative?"),
            Mistake("ratio forgotten", -2, "That is A alone, which is right only where the ratio is 1."),
            Mistake("loss", 3, "The loss has a minus before it; the minimum itself is asked for."),
            Mistake(
                "lower edge", -1.6, "The ratio is above 1 + ε, so it is not clipped to 1 − ε. And then, which is less?"
            ),
        ),
    ),
    Exercise(
        "07.4",
        "Write surrogate_gradient(ratio, advantage, cliprange): the derivative of min(ρA, clip(ρ)A) with respect to ρ.",
        surrogate_gradient,
        Function(
            lambda: [
                *((ratio, advantage, 0.2) for ratio in (0.5, 0.9, 1.0, 1.1, 1.5) for advantage in (2.0, -1.0)),
                (1.25, 1.0, 0.3),
            ]
        ),
        (
            Mistake(
                "zero on both sides",
                zero_outside_the_clip,
                "A token that has moved the wrong way keeps its gradient: look where the lines of the figure are flat.",
            ),
            Mistake(
                "never clipped",
                lambda ratio, advantage, cliprange: advantage,
                "This is the gradient without the clip. Where is the clipped term the smaller one?",
            ),
            Mistake(
                "sides exchanged",
                lambda ratio, advantage, cliprange: advantage - surrogate_gradient(ratio, advantage, cliprange),
                "It is the other way round: the gradient is 0 where the token has moved as A asks, and A elsewhere.",
            ),
            Mistake(
                "sign of A ignored",
                lambda ratio, advantage, cliprange: 0.0 if ratio > 1 + cliprange else advantage,
                "This is right for A > 0. Which way should a token with A < 0 move?",
            ),
        ),
    ),
    Exercise(
        "07.5",
        "The mean reward rose by `gain`, and the policy is `kl` nats per answer away from the reference. At which KL "
        "coefficient would that have cost exactly the gain (to three decimals)?",
        break_even_kl_coef,
        Value(given={"gain": 1.2, "kl": 5.0}),
        (
            Mistake("upside down", lambda gain, kl: kl / gain, "This is nats per reward; a price is reward per nat."),
            Mistake(
                "product", lambda gain, kl: gain * kl, "What is spent is the coefficient times the KL. Solve for it."
            ),
            Mistake(
                "difference", lambda gain, kl: gain - kl, "Gain and KL have different units: their difference is none."
            ),
        ),
    ),
    Exercise(
        "07.6",
        "All values are 0, λ = 0, kl_coef = 0. Which tokens of an answer have an advantage other than 0 before "
        "whitening?",
        tokens_with_credit,
        Choice(("all", "the first", "the last", "none")),
        (
            Mistake(
                "all", "all", "That takes λ > 0, which carries the score back. What is left of the sum with λ = 0?"
            ),
            Mistake("the first", "the first", "Errors are summed backwards, from the end. Where does the score stand?"),
            Mistake("none", "none", "The score is somewhere: on which token is the error other than 0?"),
        ),
    ),
)
