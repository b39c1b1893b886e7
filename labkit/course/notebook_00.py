"""The exercises of notebook 00, the whole recipe."""

from __future__ import annotations

import math

from labkit.course.checkers import Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "The whole recipe"


def loss_of_equal_probabilities(vocabulary: int) -> float:
    """Every token has the probability 1 / V, so the loss is -log(1 / V) = log V, whatever the text."""
    return math.log(vocabulary)


def agreement_with_choices() -> float:
    """Both are right, or both are wrong: between two answers, the model then prefers the one that was chosen."""
    model, annotator = 0.8, 0.9
    return model * annotator + (1 - model) * (1 - annotator)


def dpo_loss_at_the_start() -> float:
    """Policy = reference: both log-ratios are 0, and so is the margin; sigmoid(0) = 1/2, whatever beta is."""
    return -math.log(1 / 2)


def preference_probability(chosen: float, rejected: float) -> float:
    """Bradley and Terry's: the sigmoid of the difference of the two rewards."""
    return 1 / (1 + math.exp(rejected - chosen))


def dpo_loss(
    chosen: float, rejected: float, chosen_reference: float, rejected_reference: float, beta: float
) -> float:  # fmt: skip
    """-log sigmoid(beta * margin), where the margin is the difference of the two log-ratios."""
    margin = (chosen - chosen_reference) - (rejected - rejected_reference)
    return math.log(1 + math.exp(-beta * margin))


EXERCISES = (
    Exercise(
        "00.1",
        "Before training, the model gives each of V tokens the same probability. What is its loss, in nats per token?",
        loss_of_equal_probabilities,
        Value(given={"vocabulary": 512}),
        (
            Mistake(
                "log2 for the natural logarithm",
                lambda vocabulary: math.log2(vocabulary),
                "That is in bits: you took log2. A nat is by the natural logarithm.",
            ),
            Mistake(
                "sign",
                lambda vocabulary: -math.log(vocabulary),
                "The sign is wrong: the loss is the negative logarithm of the probability, so it is positive.",
            ),
            Mistake(
                "perplexity",
                lambda vocabulary: vocabulary,
                "That is the perplexity, exp(loss): the number of tokens among which the model hesitates.",
            ),
            Mistake(
                "probability",
                lambda vocabulary: 1 / vocabulary,
                "That is the probability of the token. The loss is its negative logarithm.",
            ),
        ),
    ),
    Exercise(
        "00.2",
        "The annotator chooses the better answer in 9 pairs of 10. A reward model scores the better answer higher in 8 "
        "pairs of 10, independently. In what fraction of the pairs does it agree with the annotator's choice?",
        agreement_with_choices,
        Value(),
        (
            Mistake(
                "both wrong forgotten",
                0.72,
                "You counted the pairs where both are right. They also agree where both are wrong.",
            ),
            Mistake(
                "mistakes of the annotator forgotten",
                0.8,
                "That would be its accuracy against gold. One choice in ten is a mistake.",
            ),
            Mistake("mistakes added", 0.7, "Mistakes do not add up: where both make one, they agree."),
        ),
    ),
    Exercise(
        "00.3",
        "Write preference_probability(chosen, rejected): with which probability a reward model expects the choice that "
        "was made, given its scores of the two answers.",
        preference_probability,
        Function(lambda: [(1.0, 0.0), (0.0, 0.0), (-2.0, 1.5), (30.0, -3.0)]),
        (
            Mistake(
                "sign",
                lambda chosen, rejected: 1 / (1 + math.exp(chosen - rejected)),
                "This is the probability of the other choice: the difference has the wrong sign.",
            ),
            Mistake(
                "sigmoid forgotten",
                lambda chosen, rejected: chosen - rejected,
                "This is the difference of the rewards, any number. The sigmoid makes a probability of it.",
            ),
            Mistake(
                "rejected forgotten",
                lambda chosen, rejected: 1 / (1 + math.exp(-chosen)),
                "Only the difference of two rewards means something: the score of the rejected answer is missing.",
            ),
        ),
    ),
    Exercise(
        "00.4",
        "What is DPO's loss on a pair before the first step, when the policy still is the reference?",
        dpo_loss_at_the_start,
        Value(),
        (
            Mistake(
                "zero",
                0,
                "The margin is 0, but the loss of a margin of 0 is not: what is the sigmoid of 0, and its logarithm?",
            ),
            Mistake("probability", 0.5, "That is sigmoid(0). The loss is its negative logarithm."),
            Mistake("log2 for the natural logarithm", 1, "By log2 it would be 1 bit; the loss is in nats."),
        ),
    ),
    Exercise(
        "00.5",
        "Write dpo_loss(chosen, rejected, chosen_reference, rejected_reference, beta) from the four log-probabilities.",
        dpo_loss,
        Function(lambda: [(-3.0, -5.0, -4.0, -4.0, 0.1), (-3.0, -5.0, -3.0, -5.0, 0.5), (-9.0, -2.0, -4.0, -4.5, 1.0)]),
        (
            Mistake(
                "sign",
                lambda c, r, cr, rr, beta: math.log(1 + math.exp(beta * ((c - cr) - (r - rr)))),
                "The sign of the margin is wrong: this loss falls when the rejected answer becomes likelier.",
            ),
            Mistake(
                "beta forgotten",
                lambda c, r, cr, rr, beta: math.log(1 + math.exp(-((c - cr) - (r - rr)))),
                "Beta is missing: the implicit reward is beta times the log-ratio.",
            ),
            Mistake(
                "reference forgotten",
                lambda c, r, cr, rr, beta: math.log(1 + math.exp(-beta * (c - r))),
                "The reference is missing: the implicit reward is of a ratio, how much likelier the policy makes the "
                "answer than the reference does.",
            ),
            Mistake(
                "logarithm forgotten",
                lambda c, r, cr, rr, beta: 1 / (1 + math.exp(-beta * ((c - cr) - (r - rr)))),
                "This is the probability of the choice. The loss is its negative logarithm.",
            ),
        ),
    ),
)
