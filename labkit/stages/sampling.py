"""Sampling: answers that the model in training generates itself, with the log-probabilities by which they were drawn.

The first of the three parts of a policy-gradient stage; a judge gives each answer a number
(`labkit.evaluation.judges`), and credit says what each token was worth (`labkit.stages.credit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.decoding import Temperature, generate
from labkit.decoding.compiled import CompiledGenerator, can_compile
from labkit.model.transformer import Transformer
from labkit.text.batch import Batch, unshifted_batch
from labkit.text.tokenizer import Tokenizer


class Samples(NamedTuple):
    """B prompts and a sampled answer to each, as ids, without the end token and with it where the model drew one; and
    both as rows: `batch` [B, T], its mask True on the answers, of which the last token stands at `ends` [B].
    """

    prompts: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    closed: Sequence[Sequence[int]]
    batch: Batch
    ends: Tensor


class Sampler:
    """Draws answers of at most `answer_tokens` tokens at a temperature, for rows of `length`.

    compile: by the compiled writer, which writes the same, where the model can be compiled.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, length: int, answer_tokens: int, temperature: float, compile: bool = False
    ):
        self.tokenizer, self.length, self.answer_tokens = tokenizer, length, answer_tokens
        self.temperature, self.compile = temperature, compile
        self.writer: CompiledGenerator | None = None

    def sample(self, model: Transformer, prompts: Sequence[Sequence[int]], generator: torch.Generator) -> Samples:
        """An answer to each prompt."""
        answers = self._answers(model, prompts, generator)
        end = self.tokenizer.turn_end
        closed = [[*answer, end] if len(answer) < self.answer_tokens else answer for answer in answers]
        rows = [
            ([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
            for prompt, answer in zip(prompts, closed, strict=True)
        ]
        batch, ends = unshifted_batch(rows, self.length, self.tokenizer.pad)
        return Samples(prompts, answers, closed, batch, ends)

    def logprobs(self, model: Transformer, x: Tensor, batch: Batch) -> Tensor:
        """Log-probability of each token of the answers under the distribution that it is drawn from: `model` at the
        sampler's temperature. x [B, T, D] of `model.hidden` -> [B, T] nats; 0 where the mask is False.
        """
        return model.logprobs(x, batch.labels, batch.mask, self.temperature)

    def _answers(
        self, model: Transformer, prompts: Sequence[Sequence[int]], generator: torch.Generator
    ) -> list[list[int]]:
        filters = [Temperature(self.temperature)]
        options: dict[str, Any] = {
            "max_new_tokens": self.answer_tokens,
            "stop_ids": self.tokenizer.stops,
            "generator": generator,
        }
        if not (self.compile and can_compile(model)):
            return generate(model, prompts, filters=filters, rows=len(prompts), **options)
        if self.writer is None or self.writer.model is not model:
            self.writer = CompiledGenerator(model, rows=len(prompts), length=self.length, filters=filters)
        return self.writer.write(prompts, **options)
