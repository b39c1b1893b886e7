"""Answers with a label for each of their steps, and their batches.

    {"prompt": [{"role": "user", "content": …}], "completions": ["Anna was in the park.", "Anna saw in."],
     "labels": [true, false]}

is TRL's stepwise supervision. A step is a sentence. Its score is read at its last token; that of the last one at the
answer's last token, which is the end token where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.text.batch import batch_with_last_token_index
from labkit.text.chat import Row, decode_reply, encode_prompt_and_answer
from labkit.text.sources import EpochSampler, StatelessSource
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message
from labkit.world.grammar import split_sentences


class StepwiseAnswer(NamedTuple):
    """`prompt` ends with the user's turn; completions: the sentences of the answer; labels: whether each is correct."""

    prompt: tuple[Message, ...]
    completions: tuple[str, ...]
    labels: tuple[bool, ...]

    @property
    def answer(self) -> str:
        """The assistant's words."""
        return " ".join(self.completions)


class StepBatch(NamedTuple):
    """B answers, a row each. inputs, labels, mask [B, T] as in PairBatch. step_ends [B, T] bool: the last token of each
    step that counts; correct [B, T] bool: there, whether the step is.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    step_ends: Tensor
    correct: Tensor

    def to(self, device: torch.device) -> StepBatch:
        return StepBatch(*(tensor.to(device) for tensor in self))


class EncodedSteps(NamedTuple):
    """A prompt and its answer as a row, the places of its steps' last tokens in it, and the steps' labels."""

    row: Row
    ends: list[int]
    labels: tuple[bool, ...]


class StepSource(StatelessSource):
    """B = `batch_size` answers a step in rows of T = `length`, every pass shuffled anew by (seed, pass). last_only: the
    label of an answer's last step alone counts, as TRL's train_on_last_step_only has it.

    Raises LabError where there is no answer, or one that does not fit in a row.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        answers: Sequence[StepwiseAnswer],
        batch_size: int,
        length: int,
        last_only: bool = False,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.tokenizer, self.answers, self.length, self.last_only = tokenizer, answers, length, last_only
        self.order = EpochSampler(batch_size, seed, len(answers), rank, world_size)

    def next_batch(self, unused_model: Any, step: int) -> StepBatch:
        chosen = [encode_steps(self.tokenizer, self.answers[index]) for index in self.order.row_indices(step)]
        return step_batch(chosen, self.length, self.tokenizer.pad_token_id, self.last_only)


def step_end_indices(tokenizer: Tokenizer, answer: Sequence[int]) -> list[int]:
    """The place of the last token of each sentence of an answer, its end token among them or not: the first at which
    all of the sentence is said; of the last sentence, the last place. An answer without a word is one step.

    Raises ValueError for an answer without a token.
    """
    if not answer:
        raise ValueError("an answer without a token has no step")
    text, ends, place, said = decode_reply(tokenizer, answer), [], 0, 0
    for sentence in split_sentences(text)[:-1]:
        said = text.index(sentence, said) + len(sentence)
        while len(decode_reply(tokenizer, answer[: place + 1])) < said:
            place += 1
        ends.append(place)
        place += 1
    return [*ends, len(answer) - 1]


def encode_steps(tokenizer: Tokenizer, answer: StepwiseAnswer) -> EncodedSteps:
    """An answer behind its prompt, and where its steps end. Raises ValueError where these are not the sentences that
    its words are cut into.
    """
    ids, counts = encode_prompt_and_answer(tokenizer, answer.prompt, answer.answer)
    first = counts.index(True)
    ends = [first + end for end in step_end_indices(tokenizer, ids[first:])]
    if len(ends) != len(answer.labels):
        raise ValueError(f"{len(answer.labels)} labels for {len(ends)} sentences: {answer.answer!r}")
    return EncodedSteps((ids, counts), ends, answer.labels)


def step_batch(encoded: Sequence[EncodedSteps], length: int, pad_token_id: int, last_only: bool = False) -> StepBatch:
    """Rows of at most T = `length` tokens, and where their steps end."""
    batch, _ = batch_with_last_token_index([one.row for one in encoded], length, pad_token_id)
    step_ends = torch.zeros(batch.inputs.shape, dtype=torch.bool)
    correct = torch.zeros_like(step_ends)
    for row, (_, ends, labels) in enumerate(encoded):
        counted = slice(-1, None) if last_only else slice(None)
        step_ends[row, ends[counted]] = True
        correct[row, ends[counted]] = torch.tensor(labels[counted])
    return StepBatch(*batch, step_ends, correct)


def fits_in_row(tokenizer: Tokenizer, answer: StepwiseAnswer, length: int) -> bool:
    """Whether the answer fits, with its prompt, in a row of `length` tokens."""
    return len(encode_prompt_and_answer(tokenizer, answer.prompt, answer.answer)[0]) <= length
