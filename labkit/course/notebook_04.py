"""The exercises of notebook 04, pretraining."""

from __future__ import annotations

import math

from labkit.course.checkers import Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "Pretraining"


def predictions(ids: list[int]) -> list[tuple[list[int], int]]:
    """For each token but the first: all tokens before it, and the token itself."""
    return [(ids[:place], ids[place]) for place in range(1, len(ids))]


def cross_entropy(logits: list[float], label: int) -> float:
    """The logarithm of the sum of exponentials, minus the label's logit; the largest logit is taken out of the sum."""
    largest = max(logits)
    return largest + math.log(sum(math.exp(logit - largest) for logit in logits)) - logits[label]


def bits_per_byte_of_chance(vocabulary: int, tokens: int, size: int) -> float:
    """Each token costs log2 V bits; all tokens of the text, over its bytes."""
    return math.log2(vocabulary) * tokens / size


def wsd(step: int, steps: int, warmup: int, fraction: float, final: float) -> float:
    """Linear to 1, then 1, then over the last `fraction` of the steps linear to `final`."""
    if step < warmup:
        return (step + 1) / warmup
    return final + (1 - final) * min(1.0, (steps - step) / (fraction * steps))


def weight_after_first_step() -> float:
    """Decay takes lr * 0.1 of the weight; the corrected averages are g and g², so the step is lr * g / |g|."""
    p, lr, decay = 1.0, 0.01, 0.1
    return p * (1 - lr * decay) - lr


def batch_loss(loss_sums: list[float], label_counts: list[int]) -> float:
    """All losses over all labels."""
    return sum(loss_sums) / sum(label_counts)


def wsd_warmup_from_zero(step: int, steps: int, warmup: int, fraction: float, final: float) -> float:
    return step / warmup if step < warmup else wsd(step, steps, warmup, fraction, final)


def wsd_final_forgotten(step: int, steps: int, warmup: int, fraction: float, final: float) -> float:
    return wsd(step, steps, warmup, fraction, 0.0)


def wsd_cut_at_final(step: int, steps: int, warmup: int, fraction: float, final: float) -> float:
    scale = wsd(step, steps, warmup, fraction, 0.0)
    return scale if step < warmup else max(final, scale)


EXERCISES = (
    Exercise(
        "04.1",
        "Write predictions(ids): for each prediction of a row, in order, the list of ids that the model may look at, "
        "and the label.",
        predictions,
        Function(lambda: [([7, 8, 9],), ([5, 5, 6, 4],), ([3],), ([],)]),
        (
            Mistake(
                "label in the context",
                lambda ids: [(ids[: place + 1], ids[place]) for place in range(1, len(ids))],
                "The label stands among the ids that the model may look at: it could copy it.",
            ),
            Mistake(
                "not shifted",
                lambda ids: [(ids[: place + 1], ids[place]) for place in range(len(ids))],
                "Each label is the last id that the model looks at. It should be the one after.",
            ),
            Mistake(
                "one token of context",
                lambda ids: [([ids[place - 1]], ids[place]) for place in range(1, len(ids))],
                "Only one token is looked at. Attention sees all tokens before, not only the last.",
            ),
            Mistake(
                "last prediction alone",
                lambda ids: predictions(ids)[-1:],
                "This is the last prediction alone. A row teaches at every place.",
            ),
        ),
    ),
    Exercise(
        "04.2",
        "Write cross_entropy(logits, label): the loss in nats of one prediction, also of logits such as 1000.",
        cross_entropy,
        Function(lambda: [([0.0, 0.0], 1), ([2.0, 1.0, -1.0], 0), ([-3.0, 0.5, 0.25, 4.0], 2), ([1000.0, 998.0], 1)]),
        (
            Mistake(
                "probability",
                lambda logits, label: math.exp(-cross_entropy(logits, label)),
                "This is the label's probability. What is done to it, so that certainty costs nothing?",
            ),
            Mistake(
                "log-probability",
                lambda logits, label: -cross_entropy(logits, label),
                "The sign: a logarithm of a probability is negative, a loss is not.",
            ),
            Mistake(
                "bits",
                lambda logits, label: cross_entropy(logits, label) / math.log(2),
                "These are bits. Nats take the natural logarithm.",
            ),
            Mistake(
                "logit alone",
                lambda logits, label: -logits[label],
                "The other logits are missing: adding 1 to all of them must not change the loss.",
            ),
        ),
    ),
    Exercise(
        "04.3",
        "A model gives the same probability to each of `vocabulary` tokens. A text has `tokens` tokens, `size` bytes. "
        "How many bits per byte has the model on it?",
        bits_per_byte_of_chance,
        Value(given={"vocabulary": 960, "tokens": 1000, "size": 3500}),
        (
            Mistake(
                "bits per token",
                lambda vocabulary, tokens, size: math.log2(vocabulary),
                "These are bits per token. How many bits are that for the whole text?",
            ),
            Mistake(
                "nats per byte",
                lambda vocabulary, tokens, size: math.log(vocabulary) * tokens / size,
                "These are nats per byte. How many bits is a nat?",
            ),
            Mistake(
                "tokens and bytes exchanged",
                lambda vocabulary, tokens, size: math.log2(vocabulary) * size / tokens,
                "Tokens and bytes are exchanged: a token is several bytes, so a byte costs less than a token.",
            ),
            Mistake(
                "a byte's own bits",
                8,
                "So many bits a byte takes on disk. What does it cost under the model, whose tokens are longer?",
            ),
        ),
    ),
    Exercise(
        "04.4",
        "Write wsd(step, steps, warmup, fraction, final): the scale of the learning rate with a linear warmup, and a "
        "linear decay over the last `fraction` of the steps that reaches `final` at step `steps`.",
        wsd,
        Function(
            lambda: (
                [(0, 100, 10, 0.4, 0.1), (9, 100, 10, 0.4, 0.1), (50, 100, 10, 0.4, 0.1), (80, 100, 10, 0.4, 0.1)]
                + [(99, 100, 10, 0.5, 0.0), (98, 100, 0, 0.25, 0.2)]
            )
        ),
        (
            Mistake(
                "warmup from zero",
                wsd_warmup_from_zero,
                "The first step has the scale 0, so it teaches nothing. Steps count from 0.",
            ),
            Mistake(
                "final forgotten",
                wsd_final_forgotten,
                "The decay ends at 0 here. Where does `final` come in?",
            ),
            Mistake(
                "cut at final",
                wsd_cut_at_final,
                "The line falls towards 0 and is cut at `final`. It should be one line from 1 to `final`.",
            ),
        ),
    ),
    Exercise(
        "04.5",
        "AdamW's first step: p = 1, gradient 0.001, learning rate 0.01, weight decay 0.1. What is p afterwards?",
        weight_after_first_step,
        Value(tolerance=1e-4),
        (
            Mistake(
                "decay forgotten",
                0.99,
                "Here the weight decay has no effect. Did you leave it out, or add it to the gradient, which is "
                "divided by its own size? In AdamW it shrinks p by itself.",
            ),
            Mistake(
                "plain gradient descent",
                0.99899,
                "The gradient is multiplied by the learning rate here. AdamW divides it by the root of its own square.",
            ),
            Mistake(
                "decay without the learning rate",
                0.89,
                "The decay is too strong: it is multiplied by the learning rate too.",
            ),
            Mistake(
                "averages not corrected",
                1 - 0.001 - 0.01 * 0.1 / math.sqrt(0.05),
                "The averages start at 0 and are not corrected for it here: divide by what is missing to 1.",
            ),
            Mistake(
                "one average not corrected",
                1 - 0.001 - 0.01 * 0.1,
                "The average of the gradient is not corrected here, that of its square is: both start at 0.",
            ),
            Mistake(
                "other average not corrected",
                1 - 0.001 - 0.01 / math.sqrt(0.05),
                "The average of the squared gradient is not corrected here, that of the gradient is: both start at 0.",
            ),
            Mistake(
                "root forgotten",
                1 - 0.001 - 0.01 * 1000,
                "So large a step comes of a division by the average of the square itself. Which unit has its root?",
            ),
            Mistake("decay the wrong way", 0.991, "The weight decay makes p larger here. It should shrink it."),
            Mistake("sign", 1.009, "The step goes up the gradient: a positive gradient makes the weight smaller."),
        ),
    ),
    Exercise(
        "04.6",
        "Write batch_loss(loss_sums, label_counts): the loss of a batch, in nats per label, from the sums of the loss "
        "and the numbers of labels of its parts.",
        batch_loss,
        Function(lambda: [([4.0, 6.0], [2, 6]), ([10.0], [4]), ([1.0, 9.0, 2.0], [10, 1, 4])]),
        (
            Mistake(
                "mean of means",
                lambda sums, counts: sum(s / c for s, c in zip(sums, counts, strict=True)) / len(sums),
                "This is the mean of the parts' means: a part with few labels weighs as much as one with many.",
            ),
            Mistake(
                "sum of means",
                lambda sums, counts: sum(s / c for s, c in zip(sums, counts, strict=True)),
                "The parts' means are added: with more parts the loss would be larger.",
            ),
            Mistake(
                "divided by parts",
                lambda sums, counts: sum(sums) / len(sums),
                "This is divided by the number of parts. The loss is per label.",
            ),
        ),
    ),
)
