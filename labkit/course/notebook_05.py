"""The exercises of notebook 05, supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Callable

from labkit.course.checkers import Choice, Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "Supervised fine-tuning"

Turns = list[tuple[str, int]]


def label_counts(turns: Turns) -> tuple[int, int]:
    """Each turn is its speaker's token, its words and <|end|>. <|bos|>, before the first turn, is no label."""
    labels = sum(1 + words + 1 for _, words in turns)
    counting = sum(words + 1 for speaker, words in turns if speaker == "assistant")
    return labels, counting


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


def _wrong_counts(labels: int = 0, by_turn: int = 0, everyone: bool = False) -> Callable[[Turns], tuple[int, int]]:
    """label_counts, with so many labels more; so many more that count in each answer; and all turns for answers."""

    def wrong(turns: Turns) -> tuple[int, int]:
        answers = [words for speaker, words in turns if everyone or speaker == "assistant"]
        return label_counts(turns)[0] + labels, sum(words + 1 + by_turn for words in answers)

    return wrong


EXERCISES = (
    Exercise(
        "05.1",
        "Write label_counts(turns): how many labels the row of a conversation has, and how many of them count, as a "
        "pair. turns is a list of (speaker, number of tokens of its words).",
        label_counts,
        Function(
            lambda: [
                ([("user", 4), ("assistant", 6)],),
                ([("system", 5), ("user", 3), ("assistant", 2), ("user", 7), ("assistant", 1)],),
                ([("user", 3)],),
                ([],),
            ]
        ),
        (
            Mistake(
                "ends forgotten",
                _wrong_counts(by_turn=-1),
                "The <|end|> of an answer does not count here: who teaches the model to stop?",
            ),
            Mistake(
                "opening token counted",
                _wrong_counts(by_turn=1),
                "The token <|assistant|> counts here. The program writes it, and the model is asked after it.",
            ),
            Mistake(
                "tokens for labels",
                _wrong_counts(labels=1),
                "These are the tokens of the row. Which of them does no token stand before?",
            ),
            Mistake(
                "beginning forgotten",
                _wrong_counts(labels=-1),
                "One label too few: before the first turn stands <|bos|>, and the turn's first token is its label.",
            ),
            Mistake(
                "every turn counts",
                _wrong_counts(everyone=True),
                "The turns of the user, or of the system, count here. The model is not to write them.",
            ),
            Mistake(
                "words alone",
                lambda turns: (
                    sum(words for _, words in turns),
                    sum(words for speaker, words in turns if speaker == "assistant"),
                ),
                "Only the words are counted. Each turn has two special tokens: are they labels, and do they count?",
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
