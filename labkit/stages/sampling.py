"""Sampling: answers that the model in training generates itself, with the log-probabilities by which they were drawn.

The first of the three parts of a policy-gradient stage; a judge gives each answer a number
(`labkit.evaluation.judges`), and credit says what each token was worth (`labkit.stages.credit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from labkit.decoding import Temperature, generate
from labkit.decoding.compiled import CompiledGenerator, supports_compiled_generation
from labkit.decoding.filters import Filter, TopP, filter_logits
from labkit.losses import token_logprobs
from labkit.model.transformer import Transformer
from labkit.text.batch import Batch, batch_with_last_token_index
from labkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from labkit.evaluation.conversations import Conversation


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
    both as rows: `batch` [B, T], its mask True on the answers. conversations: where there is more than one answer to a
    prompt's user, one a row, whose completion is then all that follows the prompt.
    """

    prompts: Sequence[Sequence[int]]
    completions: Sequence[Sequence[int]]
    batch: Batch
    conversations: Sequence[Conversation] = ()


class Sampler:
    """Draws answers of at most `max_new_tokens` tokens at a temperature, for rows of `max_length`.

    compile: by the compiled writer, which writes the same, where the model can be compiled. answers_per_reading: how
    many of the prompts, one after another, are the same one and are read once. top_p, precision: how tokens are drawn,
    where that differs from what is trained: from the nucleus alone, in another precision than training's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        max_new_tokens: int,
        temperature: float,
        compile: bool = False,
        answers_per_reading: int = 1,
        top_p: float = 1.0,
        precision: str | None = None,
    ):
        self.answers_per_reading = answers_per_reading
        self.tokenizer, self.max_length, self.max_new_tokens = tokenizer, max_length, max_new_tokens
        self.temperature, self.compile = temperature, compile
        self.top_p, self.precision = top_p, precision
        self.filters: list[Filter] = [Temperature(temperature), *([TopP(top_p)] if top_p < 1 else [])]
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

    def completion_logprobs(self, model: Transformer, hidden_states: Tensor, batch: CompletionRows) -> Tensor:
        """Log-probability of each token of the answers under the distribution that it is drawn from: `model` at the
        sampler's temperature. hidden_states [B, T, D] of `model.hidden_states` -> [B, T] nats; 0 where the mask is
        False.
        """
        return completion_logprobs(model, hidden_states, batch, self.temperature)

    def sampler_logprobs(self, model: Transformer, hidden_states: Tensor, batch: CompletionRows) -> Tensor:
        """As `completion_logprobs`, under the distribution that tokens were really drawn from: that of the nucleus, in
        the precision of these hidden states. A token that was drawn is in the nucleus, whatever rounding says.
        """
        mask = batch.mask
        logits, labels = model.logits(hidden_states[mask]).float(), batch.labels[mask].unsqueeze(-1)
        logits = logits / self.temperature
        kept = filter_logits(self.filters[1:], logits)
        kept = kept.scatter(-1, labels, logits.gather(-1, labels))
        found = token_logprobs(kept.unsqueeze(0), labels.view(1, -1))
        return found.new_zeros(mask.shape).masked_scatter(mask, found)

    def _drawn(self, model: Transformer, prompts: Sequence[Sequence[int]], uniform_draws: Tensor) -> list[list[int]]:
        options: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "stop_ids": self.tokenizer.stop_ids,
            "uniform_draws": uniform_draws,
            "keep_stop": True,
        }
        if not (self.compile and supports_compiled_generation(model)):
            options["uniform_draws"] = uniform_draws.view(-1, self.answers_per_reading, self.max_new_tokens)
            return generate(
                model,
                prompts[:: self.answers_per_reading],
                filters=self.filters,
                batch_size=len(prompts),
                num_return_sequences=self.answers_per_reading,
                **options,
            )
        if self.writer is None or self.writer.model is not model:
            self.writer = CompiledGenerator(
                model, batch_size=len(prompts), max_length=self.max_length, filters=self.filters
            )
        return self.writer.generate(prompts, **options)
