"""The exercises of notebook 06, the reward model."""

from __future__ import annotations

import math
from itertools import combinations

from labkit.course.checkers import Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "Reward model"


def chance_of_a2_over_a3() -> float:
    """The sigmoid of the margin, 2 - (-1) = 3."""
    return 1 / (1 + math.exp(-3))


def ranking_loss(scores: list[float]) -> float:
    """The mean of -log sigmoid(better - worse) over all pairs of a ranking, best first; 0 where there is no pair."""
    losses = [math.log1p(math.exp(worse - better)) for better, worse in combinations(scores, 2)]
    return sum(losses) / max(len(losses), 1)


def neighbours_only(scores: list[float]) -> float:
    losses = [math.log1p(math.exp(worse - better)) for better, worse in zip(scores, scores[1:], strict=False)]
    return sum(losses) / max(len(losses), 1)


def pair_gradient(chosen: float, rejected: float) -> list[float]:
    """Both scores move with the probability of the other choice: the chosen one's gradient is negative."""
    surprise = 1 / (1 + math.exp(chosen - rejected))
    return [-surprise, surprise]


def margin_of_an_annotator() -> float:
    """The log-odds of the choice: four right ones to one mistake."""
    return math.log(0.8 / 0.2)


def gold_accuracy(pair_accuracy: float, mistakes: float) -> float:
    """pair accuracy = gold (1 - mistakes) + (1 - gold) mistakes, solved for gold."""
    return (pair_accuracy - mistakes) / (1 - 2 * mistakes)


def gold_of_best(rewards: list[float], golds: list[float], n: int) -> float:
    """Of each choice of n answers the gold score of the one with the highest reward; the mean over all choices."""
    best = [max(some, key=lambda i: rewards[i]) for some in combinations(range(len(rewards)), n)]
    return sum(golds[i] for i in best) / len(best)


EXERCISES = (
    Exercise(
        "06.1",
        "A1 scores 1, A2 scores 2 and A3 scores -1. With which probability does Bradley and Terry's model choose A2 "
        "over A3?",
        chance_of_a2_over_a3,
        Value(),
        (
            Mistake("margin", 3, "That is the margin. What turns a margin into a probability, between 0 and 1?"),
            Mistake(
                "another pair",
                1 / (1 + math.exp(-1)),
                "That is the probability that A2 is chosen over A1, whose score is 1. Which score has A3?",
            ),
            Mistake("the other one", 1 - chance_of_a2_over_a3(), "That is the probability that A3 is chosen over A2."),
            Mistake(
                "only the better score",
                1 / (1 + math.exp(-2)),
                "That is the sigmoid of A2's own score. A choice depends on both scores.",
            ),
            Mistake(
                "all three",
                math.exp(2) / (math.exp(2) + math.exp(1) + math.exp(-1)),
                "That is the softmax over all three answers. Only two of them are compared.",
            ),
        ),
    ),
    Exercise(
        "06.2",
        "Write ranking_loss(scores): the scores of a ranking's answers, best answer first, give the mean loss over all "
        "of its pairs, in nats. A ranking of one answer has no pair, and costs 0.",
        ranking_loss,
        Function(lambda: [([2.0, 1.0, -1.0],), ([-1.0, 1.0, 2.0],), ([0.0, 0.0],), ([3.0, 1.0, 0.5, 2.0],), ([3.0],)]),
        (
            Mistake(
                "neighbours only", neighbours_only, "A ranking of three has three pairs: the first also beats the last."
            ),
            Mistake(
                "sum for mean",
                lambda scores: ranking_loss(scores) * max(math.comb(len(scores), 2), 1),
                "This is the sum: a ranking of many answers would count for more than a single choice.",
            ),
            Mistake(
                "worst first",
                lambda scores: ranking_loss(scores[::-1]),
                "Better and worse are exchanged: a ranking whose scores fall from first to last should cost little.",
            ),
            Mistake(
                "both directions",
                lambda scores: (ranking_loss(scores) + ranking_loss(scores[::-1])) / 2,
                "Each pair counts once, in the direction in which it was chosen.",
            ),
        ),
    ),
    Exercise(
        "06.3",
        "Write pair_gradient(chosen, rejected): the derivatives of one pair's loss by the chosen answer's score and by "
        "the rejected answer's, as a list of two.",
        pair_gradient,
        Function(lambda: [(0.0, 0.0), (2.0, -1.0), (-1.0, 2.0), (0.5, 0.2)]),
        (
            Mistake(
                "pushes what is right already",
                lambda chosen, rejected: pair_gradient(rejected, chosen),
                "This is largest where the pair is ranked rightly by far. Which probability is left to be gained?",
            ),
            Mistake(
                "sign",
                lambda chosen, rejected: pair_gradient(chosen, rejected)[::-1],
                "The signs are exchanged: descent goes against the gradient, and the chosen score has to rise.",
            ),
            Mistake(
                "same direction",
                lambda chosen, rejected: [pair_gradient(chosen, rejected)[0]] * 2,
                "Both scores would move together, and their margin would stay as it is.",
            ),
            Mistake(
                "constant",
                lambda chosen, rejected: [-1.0, 1.0],
                "This is the derivative of the margin's negative. How steep is the loss at that margin?",
            ),
        ),
    ),
    Exercise(
        "06.4",
        "An annotator makes a mistake in one choice of five, so the better one of two answers is chosen four times in "
        "five. Which margin between their scores has the lowest expected loss?",
        margin_of_an_annotator,
        Value(),
        (
            Mistake("probability", 0.8, "That is the probability. Which margin's sigmoid is it?"),
            Mistake("odds", 4, "Those are the odds, four to one. The sigmoid's inverse takes one more step."),
            Mistake("log-probability", math.log(0.8), "That is a log-probability. A margin compares both choices."),
            Mistake(
                "one in five against one",
                math.log(5),
                "The odds compare right choices with mistakes, not all with mistakes.",
            ),
        ),
    ),
    Exercise(
        "06.5",
        "Write gold_accuracy(pair_accuracy, mistakes). A reward model agrees with a share pair_accuracy of the "
        "annotator's choices, of which a share mistakes is wrong. How often does it rank pairs as gold does?",
        gold_accuracy,
        Function(lambda: [(0.82, 0.1), (0.5, 0.1), (0.9, 0.1), (0.7, 0.25), (0.64, 0.0)]),
        (
            Mistake(
                "divided by the ceiling",
                lambda pair_accuracy, mistakes: pair_accuracy / (1 - mistakes),
                "At an accuracy of a half this gives more than a half. Where model and annotator both err, they agree.",
            ),
            Mistake(
                "one of two terms",
                lambda pair_accuracy, mistakes: (pair_accuracy - mistakes) / (1 - mistakes),
                "Nearly, but at an accuracy of a half this gives less than a half. The gold accuracy stands in both "
                "terms of the formula.",
            ),
            Mistake(
                "mistakes taken away",
                lambda pair_accuracy, mistakes: pair_accuracy - mistakes,
                "So a model that guesses would do worse than guessing. Mistakes lower what is measured, not gold.",
            ),
            Mistake(
                "mistakes added",
                lambda pair_accuracy, mistakes: pair_accuracy + mistakes,
                "The mistakes are not all at the model's cost: where it errs too, a mistake of the annotator helps it.",
            ),
            Mistake(
                "forwards",
                lambda pair_accuracy, mistakes: pair_accuracy * (1 - mistakes) + (1 - pair_accuracy) * mistakes,
                "This goes from gold accuracy to pair accuracy. Solve it for the other one.",
            ),
        ),
    ),
    Exercise(
        "06.6",
        "Write gold_of_best(rewards, golds, n): the answers of one pool have these rewards and gold scores; n of them "
        "are drawn at random, and the one with the highest reward is taken. What is its mean gold score, over all ways "
        "to draw n?",
        gold_of_best,
        Function(
            lambda: [
                ([0.1, 0.5, 0.3], [0.9, 0.0, 0.6], 2),
                ([0.1, 0.5, 0.3], [0.9, 0.0, 0.6], 1),
                ([0.1, 0.5, 0.3], [0.9, 0.0, 0.6], 3),
                ([2.0, -1.0, 0.0, 1.0], [1.0, 0.2, 0.7, 0.4], 2),
                ([2.0], [0.7], 1),
            ]
        ),
        (
            Mistake(
                "chosen by gold",
                lambda rewards, golds, n: gold_of_best(golds, golds, n),
                "This takes the answer with the highest gold score. The reward model does not know that score.",
            ),
            Mistake(
                "reward of the best",
                lambda rewards, golds, n: gold_of_best(rewards, rewards, n),
                "This is the reward of the answer that is taken; its gold score is asked for.",
            ),
            Mistake(
                "n ignored",
                lambda rewards, golds, n: gold_of_best(rewards, golds, len(golds)),
                "This is the best of the whole pool, whatever n is.",
            ),
            Mistake(
                "mean of the pool",
                lambda rewards, golds, n: sum(golds) / len(golds),
                "This is the gold score of an answer drawn at random: n = 1.",
            ),
        ),
    ),
)
