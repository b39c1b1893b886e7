"""The exercises of notebook 03, inside the Transformer."""

from __future__ import annotations

import math

from labkit.course.checkers import Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "Inside the Transformer"


def spread_of_scores() -> float:
    """q·k is a sum of E products, each with variance 1: the variance is E, the standard deviation its square root."""
    return math.sqrt(64)


def causal_mask(length: int) -> list[list[bool]]:
    """Row i, column j: token i may attend to token j where j is not after i."""
    return [[j <= i for j in range(length)] for i in range(length)]


def cached_per_token(depth: int, key_value_heads: int, head_dim: int) -> int:
    """A key and a value in each layer, for each key/value head."""
    return 2 * depth * key_value_heads * head_dim


def alibi_bias(i: int, j: int, slope: float) -> float:
    """What ALiBi adds to the score of token i for token j, i >= j: the further back, the less."""
    return -slope * (i - j)


def load_balancing_loss(sent: list[float], router: list[float]) -> float:
    """The number of experts, times the sum over experts of (share of tokens sent) * (mean router probability)."""
    return len(sent) * sum(share * probability for share, probability in zip(sent, router, strict=True))


def load_by_pairs(sent: list[float], router: list[float]) -> float:
    return sum(share * probability for share, probability in zip(sent, router, strict=True))


EXERCISES = (
    Exercise(
        "03.1",
        "The elements of q and k are independent, with mean 0 and variance 1, and a head is 64 wide. What is the "
        "standard deviation of q·k, before the division by √E?",
        spread_of_scores,
        Value(),
        (
            Mistake("variance", 64, "That is the variance of the sum. The standard deviation is its square root."),
            Mistake("already divided", 1, "That is what the division by √E makes of it. Before, 64 products add up."),
            Mistake("reciprocal", 1 / 8, "That is the factor by which the score is multiplied, not the spread before."),
        ),
    ),
    Exercise(
        "03.2",
        "Write causal_mask(length): the table [length, length] that is True where token i may attend to token j.",
        causal_mask,
        Function(lambda: [(3,), (1,), (5,)]),
        (
            Mistake(
                "mask inverted",
                lambda length: [[j > i for j in range(length)] for i in range(length)],
                "It is inverted: True is where a token may attend.",
            ),
            Mistake(
                "transposed",
                lambda length: [[j >= i for j in range(length)] for i in range(length)],
                "Rows and columns are exchanged: each token attends to later ones. Row i is of the token that attends.",
            ),
            Mistake(
                "off by one",
                lambda length: [[j < i for j in range(length)] for i in range(length)],
                "A token may attend to itself: without that, the first has nothing to attend to.",
            ),
        ),
    ),
    Exercise(
        "03.3",
        "Write cached_per_token(depth, key_value_heads, head_dim): how many numbers are cached per token.",
        cached_per_token,
        Function(lambda: [(4, 2, 32), (1, 1, 8), (12, 3, 64)]),
        (
            Mistake(
                "values forgotten",
                lambda depth, heads, width: depth * heads * width,
                "It is half of it: keys are cached, and what else?",
            ),
            Mistake(
                "layers forgotten",
                lambda depth, heads, width: 2 * heads * width,
                "This is of one layer; every layer has a cache of its own.",
            ),
            Mistake(
                "heads forgotten",
                lambda depth, heads, width: 2 * depth * width,
                "This is of one key/value head.",
            ),
        ),
    ),
    Exercise(
        "03.4",
        "Write alibi_bias(i, j, slope): what ALiBi adds to the score of token i for an earlier token j.",
        alibi_bias,
        Function(lambda: [(5, 2, 0.5), (3, 3, 0.5), (9, 0, 0.25)]),
        (
            Mistake(
                "sign",
                lambda i, j, slope: slope * (i - j),
                "The sign is wrong: so, the farthest token would get the highest score. ALiBi prefers near ones.",
            ),
            Mistake(
                "absolute position",
                lambda i, j, slope: -slope * j,
                "This depends on where token j stands, not on how far it is from token i.",
            ),
            Mistake(
                "off by one",
                lambda i, j, slope: -slope * (i - j + 1),
                "It is off by one token: what is the distance of a token from itself?",
            ),
            Mistake(
                "slope forgotten",
                lambda i, j, slope: j - i,
                "The slope is missing: each head has one of its own, and so looks more or less far.",
            ),
        ),
    ),
    Exercise(
        "03.5",
        "Write load_balancing_loss(sent, router): for each expert, the share of the tokens sent to it and the router's "
        "mean probability for it. With one expert a token, it is 1 where all experts are used evenly.",
        load_balancing_loss,
        Function(lambda: [([0.25] * 4, [0.25] * 4), ([1.0, 0.0], [0.9, 0.1]), ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5])]),
        (
            Mistake(
                "number of experts forgotten",
                load_by_pairs,
                "With even use this gives 1 / E. By which number is it multiplied, so that it gives 1?",
            ),
            Mistake(
                "mean for sum",
                lambda sent, router: load_by_pairs(sent, router) / len(sent),
                "This is the mean over experts; it is the sum, and then times the number of experts.",
            ),
            Mistake(
                "router forgotten",
                lambda sent, router: len(sent) * sum(share * share for share in sent),
                "Only the shares are in it. They have no gradient: the router's probabilities carry it.",
            ),
        ),
    ),
)
