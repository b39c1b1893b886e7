"""Sampling: answers that the model in training generates itself, with the log-probabilities by which they were drawn.

The first of the three parts of a policy-gradient stage; a judge gives each answer a number
(`labkit.evaluation.judges`), and credit says what each token was worth (`labkit.stages.credit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from labkit.decoding import Temperature, generate
from labkit.decoding.compiled import CompiledGenerator, supports_compiled_generation
from labkit.losses import token_logprobs
from labkit.model.transformer import Transformer
from labkit.text.batch import Batch, batch_with_last_token_index
from labkit.text.tokenizer import Tokenizer


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """The logits [..., V] of the distribution that is drawn from at a temperature."""
    return logits if temperature == 1 else logits.float() / temperature


class CompletionRows(Protocol):
    """Rows with answers: `labels`, `mask` [B, T] as a Batch and a Rollout have them."""

    @property
    def labels(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor: ...


def completion_logprobs(
    model: Transformer, hidden_states: Tensor, batch: CompletionRows, temperature: float = 1.0
) -> Tensor:
    """Log-probability of each token of the answers at a temperature: hidden_states [B, T, D] of `model.hidden_states`
    -> [B, T] nats; 0 where the mask is False.
    """
    mask = batch.mask
    logits = apply_temperature(model.logits(hidden_states[mask]).unsqueeze(0), temperature)
    found = token_logprobs(logits, batch.labels[mask].unsqueeze(0))
    return found.new_zeros(mask.shape).masked_scatter(mask, found)


class Samples(NamedTuple):
    """B prompts and the tokens that the model drew to answer each, as ids: with the end token, where it drew one. And
    both as rows: `batch` [B, T], its mask True on the answers.
    """

    prompts: Sequence[Sequence[int]]
    completions: Sequence[Sequence[int]]
    batch: Batch


class Sampler:
    """Draws answers of at most `max_new_tokens` tokens at a temperature, for rows of `max_length`.

    compile: by the compiled writer, which writes the same, where the model can be compiled.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_length: int, max_new_tokens: int, temperature: float, compile: bool = False
    ):
        self.tokenizer, self.max_length, self.max_new_tokens = tokenizer, max_length, max_new_tokens
        self.temperature, self.compile = temperature, compile
        self.writer: CompiledGenerator | None = None

    def sample(self, model: Transformer, prompts: Sequence[Sequence[int]], uniform_draws: Tensor) -> Samples:
        """An answer to each prompt. uniform_draws [P, max_new_tokens]: numbers in [0, 1), the randomness of each."""
        drawn = self._drawn(model, prompts, uniform_draws.unsqueeze(1))
        rows = [
            ([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
            for prompt, answer in zip(prompts, drawn, strict=True)
        ]
        batch, _ = batch_with_last_token_index(rows, self.max_length, self.tokenizer.pad_token_id)
        return Samples(prompts, drawn, batch)

    def completion_logprobs(self, model: Transformer, hidden_states: Tensor, batch: Batch) -> Tensor:
        """Log-probability of each token of the answers under the distribution that it is drawn from: `model` at the
        sampler's temperature. hidden_states [B, T, D] of `model.hidden_states` -> [B, T] nats; 0 where the mask is
        False.
        """
        return completion_logprobs(model, hidden_states, batch, self.temperature)

    def _drawn(self, model: Transformer, prompts: Sequence[Sequence[int]], uniform_draws: Tensor) -> list[list[int]]:
        filters = [Temperature(self.temperature)]
        options: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "stop_ids": self.tokenizer.stop_ids,
            "uniform_draws": uniform_draws,
            "keep_stop": True,
        }
        if not (self.compile and supports_compiled_generation(model)):
            return generate(model, prompts, filters=filters, batch_size=len(prompts), **options)
        if self.writer is None or self.writer.model is not model:
            self.writer = CompiledGenerator(model, batch_size=len(prompts), max_length=self.max_length, filters=filters)
        return self.writer.generate(prompts, **options)
