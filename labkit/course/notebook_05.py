"""The exercises of notebook 05, supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from labkit.course.checkers import Choice, Function, Value
from labkit.course.exercises import Exercise, Mistake

TURNS = ("<|system|>", "<|user|>", "<|assistant|>")


def label_mask(tokens: list[str]) -> list[bool]:
    """A token counts inside an assistant's turn, its <|end|> included; the first token of the row is no label."""
    learned, answering = [], False
    for token in tokens:
        if token in TURNS:
            answering = token == "<|assistant|>"
            learned.append(False)
        else:
            learned.append(answering)
            answering = answering and token != "<|end|>"
    return learned[1:]


def masked_loss(losses: list[float], mask: list[int]) -> float:
    """The sum over the labels that count, over how many count."""
    return sum(loss for loss, counts in zip(losses, mask, strict=True) if counts) / max(1, sum(mask))


def what_is_not_taught() -> str:
    """The mask now says whether the *input* is an answer's token: of <|assistant|> it is not, so the first token of the
    answer is no label. Before <|end|> stands an answer's token, so <|end|> is one.
    """
    return "to begin"


def epochs(steps: int, rows: int, examples: int) -> float:
    """All conversations that were read, over those that differ."""
    return steps * rows / examples


def what_training_loss_says() -> str:
    """It falls while held-out loss falls, and goes on falling when held-out loss rises."""
    return "nothing"


def trained_parameters(total: int, embedding: int, block: int, frozen: int) -> int:
    """All but the embedding and the frozen blocks. The head is the embedding, so it is not counted twice."""
    return total - embedding - frozen * block


def mask_without_end(tokens: list[str]) -> list[bool]:
    return [counts and token != "<|end|>" for counts, token in zip(label_mask(tokens), tokens[1:], strict=True)]


def mask_with_opening(tokens: list[str]) -> list[bool]:
    return [counts or token == "<|assistant|>" for counts, token in zip(label_mask(tokens), tokens[1:], strict=True)]


def mask_not_shifted(tokens: list[str]) -> list[bool]:
    return [False, *label_mask(tokens)][:-1]


@dataclass(frozen=True)
class _MaskFunction(Function):
    """A function that returns a mask: 0 and 1 are as good as False and True."""

    def _outcomes(self, function: Callable[..., Any]) -> list[Any]:
        return [replace(one, value=_with_booleans(one.value)) for one in super()._outcomes(function)]


def _with_booleans(value: Any) -> Any:
    return [bool(one) if one in (0, 1) else one for one in value] if isinstance(value, list) else value


CONVERSATIONS = (
    "<|bos|> <|user|> Hi <|end|> <|assistant|> Hello there <|end|>",
    "<|bos|> Story <|end|> <|user|> Who <|end|> <|assistant|> Tom <|end|> <|user|> Why <|end|> <|assistant|> <|end|>",
    "<|bos|> <|user|> Hi <|end|>",
)


EXERCISES = (
    Exercise(
        "05.1",
        "Write label_mask(tokens): for each label tokens[1:], whether it counts (True or 1, else False or 0). "
        "The tokens of the assistant's turns count, and the <|end|> that closes them.",
        label_mask,
        _MaskFunction(lambda: [(conversation.split(),) for conversation in CONVERSATIONS]),
        (
            Mistake(
                "end forgotten",
                mask_without_end,
                "The <|end|> of an answer does not count here: who teaches the model to stop?",
            ),
            Mistake(
                "opening token counted",
                mask_with_opening,
                "The token <|assistant|> counts here. It is written by the program, and the model is asked after it.",
            ),
            Mistake(
                "not shifted",
                mask_not_shifted,
                "The mask is one place late: element 0 is for the label tokens[1], not for tokens[0].",
            ),
            Mistake(
                "inverted",
                lambda tokens: [not counts for counts in label_mask(tokens)],
                "It is inverted: this learns the questions, and only reads the answers.",
            ),
        ),
    ),
    Exercise(
        "05.2",
        "Write masked_loss(losses, mask): nats per label that counts; 0 where none does.",
        masked_loss,
        Function(lambda: [([3.0, 2.0, 1.0, 0.5], [0, 0, 1, 1]), ([1.0, 4.0, 2.5], [1, 0, 0]), ([2.0, 1.0], [0, 0])]),
        (
            Mistake(
                "divided by all labels",
                lambda losses, mask: sum(x for x, m in zip(losses, mask, strict=True) if m) / len(losses),
                "The sum is divided by all labels: a long question would make the loss small.",
            ),
            Mistake(
                "mask forgotten",
                lambda losses, mask: sum(losses) / len(losses),
                "This is the mean over all labels, those of the question too.",
            ),
            Mistake(
                "sum",
                lambda losses, mask: sum(x for x, m in zip(losses, mask, strict=True) if m),
                "This is the sum. Which number is it divided by, to be per label?",
            ),
            Mistake(
                "inverted",
                lambda losses, mask: masked_loss(losses, [1 - m for m in mask]),
                "The mask is inverted: 1 is where a label counts.",
            ),
        ),
    ),
    Exercise(
        "05.3",
        "The labels are shifted, the mask is not: learned[:-1] in place of learned[1:]. What is the model not taught?",
        what_is_not_taught,
        Choice(("to begin", "to stop", "both", "neither")),
        (
            Mistake(
                "to stop", "to stop", "Look at the label <|end|>: what is its input, and is that an answer's token?"
            ),
            Mistake(
                "both", "both", "One of the two is still a label. Write the six last pairs of the table with this mask."
            ),
            Mistake(
                "neither", "neither", "Look at the input <|assistant|>: which label does it have, and does that count?"
            ),
        ),
    ),
    Exercise(
        "05.4",
        "Training takes `steps` steps of `rows` conversations, `examples` of which are different. How many epochs "
        "is that?",
        epochs,
        Value(given={"steps": 24, "rows": 8, "examples": 16}),
        (
            Mistake(
                "rows forgotten",
                lambda steps, rows, examples: steps / examples,
                "A step reads several conversations.",
            ),
            Mistake(
                "steps in an epoch",
                lambda steps, rows, examples: examples / rows,
                "These are the steps of one epoch. How many epochs are all steps?",
            ),
            Mistake(
                "upside down",
                lambda steps, rows, examples: examples / (steps * rows),
                "It is upside down: with fewer examples, each is seen more often.",
            ),
            Mistake(
                "conversations read",
                lambda steps, rows, examples: steps * rows,
                "So many conversations are read in all. How many times is each of them among these?",
            ),
        ),
    ),
    Exercise(
        "05.5",
        "The training loss of a fine-tuning run is still falling. What follows for the held-out loss: does it fall "
        "too, rise, stay, or does nothing follow?",
        what_training_loss_says,
        Choice(("falls too", "rises", "stays", "nothing")),
        (
            Mistake("falls too", "falls too", "Look at the last steps of the figure: do both curves fall there?"),
            Mistake("rises", "rises", "Look at the first steps of the figure: do the curves part there already?"),
            Mistake(
                "stays", "stays", "Look at the first steps of the figure: does the held-out curve stay where it is?"
            ),
        ),
    ),
    Exercise(
        "05.6",
        "The embedding, which is also the head, and the `frozen` lower blocks are frozen. The model has `total` "
        "parameters, `embedding` of them in the embedding and `block` in each block. How many are trained?",
        trained_parameters,
        Value(tolerance=0.0, given={"total": 1000, "embedding": 300, "block": 160, "frozen": 2}),
        (
            Mistake(
                "embedding trained",
                lambda total, embedding, block, frozen: total - frozen * block,
                "The embedding is counted as trained here.",
            ),
            Mistake(
                "head counted apart",
                lambda total, embedding, block, frozen: total - 2 * embedding - frozen * block,
                "The head is the embedding: one matrix, counted once.",
            ),
            Mistake(
                "frozen ones",
                lambda total, embedding, block, frozen: embedding + frozen * block,
                "These are the frozen ones.",
            ),
            Mistake(
                "one block",
                lambda total, embedding, block, frozen: total - embedding - block,
                "Only one block is taken away here.",
            ),
        ),
    ),
)
