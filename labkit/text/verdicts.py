"""Comparisons to be judged in words: a prompt, answer A, answer B, and the verdict that a language model writes.

    <|user|> Where is Tom?
    A: Tom is in the park.
    B: In the park.
    Which answer is better, A or B?<|end|><|assistant|> A

The verdict is the first token in which " A" and " B" differ; what they have in common stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.text.batch import Batch, shifted_batch
from labkit.text.chat import encode_answer_prefix, encode_prompt
from labkit.text.pairs import PreferencePair
from labkit.text.sources import EpochSampler, StatelessSource
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message


class VerdictTokens(NamedTuple):
    """shared: the ids before the verdict. a, b: the token by which the answer shown first, or second, is better."""

    shared: tuple[int, ...]
    a: int
    b: int


class Comparison(NamedTuple):
    """ids: up to where the verdict stands. right, wrong: the verdict for the chosen answer, and for the other."""

    ids: list[int]
    right: int
    wrong: int


def verdict_tokens(tokenizer: Tokenizer) -> VerdictTokens:
    """Raises LabError for a tokenizer in which one verdict is the beginning of the other."""
    first, second = (encode_answer_prefix(tokenizer, name) for name in "AB")
    for at, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return VerdictTokens(tuple(first[:at]), a, b)
    raise LabError("This tokenizer does not tell the verdicts A and B apart.")


def comparison_messages(prompt: Sequence[Message], first: str, second: str) -> tuple[Message, ...]:
    """The prompt with both answers and the question in its last message, the user's."""
    *before, last = prompt
    asked = f"{last.content}\nA: {first}\nB: {second}\nWhich answer is better, A or B?"
    return (*before, Message(last.role, asked))


def encode_comparisons(tokenizer: Tokenizer, pair: PreferencePair) -> tuple[Comparison, Comparison]:
    """A pair in both orders: the chosen answer shown first, and second."""
    verdict, found = verdict_tokens(tokenizer), []
    for chosen_first in (True, False):
        answers = (pair.chosen, pair.rejected) if chosen_first else (pair.rejected, pair.chosen)
        ids = [*encode_prompt(tokenizer, comparison_messages(pair.prompt, *answers)), *verdict.shared]
        found.append(Comparison(ids, *((verdict.a, verdict.b) if chosen_first else (verdict.b, verdict.a))))
    return found[0], found[1]


def fitting_comparisons(tokenizer: Tokenizer, pairs: Sequence[PreferencePair], length: int) -> list[PreferencePair]:
    """The pairs that fit, with prompt and verdict, in rows of `length` tokens."""
    return [pair for pair in pairs if len(encode_comparisons(tokenizer, pair)[0].ids) < length]


def comparison_batch(comparisons: Sequence[Comparison], length: int, pad_token_id: int) -> Batch:
    """Rows of T = `length`, each with one label: the right verdict."""
    rows = [[*one.ids, one.right] for one in comparisons]
    counts = [[False] * len(one.ids) + [True] for one in comparisons]
    return shifted_batch(rows, counts, length, pad_token_id)


class VerdictSource(StatelessSource):
    """B = `batch_size` pairs a step, each in both orders, so 2B rows; every pass shuffled anew by (seed, pass)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        pairs: Sequence[PreferencePair],
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.encoded = [encode_comparisons(tokenizer, pair) for pair in pairs]
        self.length, self.pad = length, tokenizer.pad_token_id
        self.order = EpochSampler(batch_size, seed, len(pairs), rank, world_size)

    def next_batch(self, unused_model: Any, step: int) -> Batch:
        chosen = [self.encoded[index] for index in self.order.row_indices(step)]
        return comparison_batch([one for both in chosen for one in both], self.length, self.pad)
