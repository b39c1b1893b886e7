"""Rollouts: batches that the model in training writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.decoding import Temperature, generate
from labkit.decoding.compiled import Writer, can_compile
from labkit.errors import LabError
from labkit.losses.advantages import gae, shaped_rewards, whiten
from labkit.machine import autocast
from labkit.model.actor_critic import ActorCritic
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer
from labkit.preferences.prompts import Prompts
from labkit.text.batch import unshifted_batch
from labkit.text.tokenizer import Tokenizer


class Rollout(NamedTuple):
    """B answers and what they were worth.

    inputs, labels, mask [B, T] as in Batch, mask True on the answers; logprobs, values [B, T] of the model that wrote
    them; advantages (whitened), returns [B, T]. Means over the answers, each []: reward of the reward model, gold of
    the oracle (0 where there is none), kl in nats per answer, length in tokens, and explained variance: how much of the
    returns' variance the critic foresaw.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    reward: Tensor
    gold: Tensor
    kl: Tensor
    length: Tensor
    explained_variance: Tensor


def check_rows(rows: int, samples: int, world_size: int) -> None:
    """Raises LabError unless `rows` answers are `samples` to each prompt, the same number for each process."""
    if rows % (samples * world_size):
        raise LabError(
            f"{rows} answers cannot be {samples} to each prompt on {world_size} processes; let rows be a multiple of "
            f"{samples * world_size}."
        )


class Rollouts:
    """A source for `fit`: every `epochs` steps the model answers new prompts, and learns from them so many times.

    Iteration i reads the indices i P … i P + P - 1 with P = rows / samples, and
    draws from (seed, i), so that what is written depends on the weights alone. What a stop would lose is the rollout
    between its first use and its last: that is the state.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Prompts,
        reward: RewardModel,
        reference: Transformer,
        *,
        rows: int,
        samples: int,
        length: int,
        answer_tokens: int,
        epochs: int,
        temperature: float,
        kl: float,
        gamma: float,
        lam: float,
        precision: str,
        compile: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        check_rows(rows, samples, world_size)
        self.tokenizer, self.prompts, self.reward, self.reference = (
            tokenizer, prompts, reward.eval(), reference.eval(),
        )  # fmt: skip
        self.rows, self.samples, self.length, self.answer_tokens = rows, samples, length, answer_tokens
        self.epochs, self.temperature, self.kl, self.gamma, self.lam = epochs, temperature, kl, gamma, lam
        self.precision, self.seed, self.rank, self.world_size = precision, seed, rank, world_size
        self.compile = compile
        self.writer: Writer | None = None
        self.last: Rollout | None = None

    def next_batch(self, model: ActorCritic, step: int) -> Rollout:
        if step % self.epochs == 0:
            self.last = self.write(model, step // self.epochs)
        if self.last is None:
            raise LabError(f"Step {step} goes on with a rollout that was not kept.")
        return self.last

    def state_dict(self) -> dict[str, Any]:
        return {} if self.last is None else self.last._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = Rollout(**state) if state else None

    @torch.no_grad()
    def write(self, model: ActorCritic, iteration: int) -> Rollout:
        """Answer the prompts of one iteration and work out what every token was worth."""
        device = model.actor.embedding.weight.device
        reward, reference_model = self.reward.to(device), self.reference.to(device)
        count = self.rows // self.samples
        indices = list(range(iteration * count, (iteration + 1) * count))[self.rank :: self.world_size]
        prompts = [self.prompts.ids(index) for index in indices]
        # In training's precision: on the first step of a rollout the ratio of probabilities is then 1.
        with autocast(device, self.precision):
            asked = [prompt for prompt in prompts for _ in range(self.samples)]
            answers = self._answers(model.actor, asked, self._generator(iteration))
            batch, ends = self._rows(asked, answers)
            inputs, labels, mask = batch.to(device)
            x, values = model(inputs, mask)
            logprobs = model.actor.logprobs(x, labels, mask)
            reference = reference_model.logprobs(reference_model.hidden(inputs), labels, mask)
            scores = reward.last(inputs, mask, ends.to(device))
        rewards = shaped_rewards(scores, logprobs, reference, mask, kl=self.kl)
        advantages, returns = gae(rewards, values, mask, gamma=self.gamma, lam=self.lam)
        gold = self.prompts.gold([i for i in indices for _ in range(self.samples)], answers)
        return Rollout(
            inputs,
            labels,
            mask,
            logprobs,
            values,
            whiten(advantages, mask),
            returns,
            scores.mean(),
            torch.tensor(float(np.mean(gold)) if gold else 0.0, device=device),
            (logprobs - reference).sum(-1).mean(),
            mask.sum(-1).float().mean(),
            1 - (returns - values)[mask].var() / returns[mask].var().clamp(min=1e-8),
        )

    def _answers(self, actor: Transformer, prompts: Sequence[list[int]], generator: torch.Generator) -> list[list[int]]:
        """An answer to each prompt; by the compiled writer, which writes the same, where the stage compiles."""
        steps = [Temperature(self.temperature)]
        options: dict[str, Any] = {
            "max_new_tokens": self.answer_tokens,
            "stop_ids": [self.tokenizer.turn_end],
            "generator": generator,
        }
        if not (self.compile and can_compile(actor)):
            return generate(actor, prompts, steps=steps, rows=self.rows, **options)
        if self.writer is None or self.writer.model is not actor:
            self.writer = Writer(actor, rows=len(prompts), length=self.length, steps=steps)
        return self.writer.write(prompts, **options)

    def _rows(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Any:
        """Prompts and answers as whole rows; an answer that was not cut off is closed by `<|end|>`."""
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            closed = [*answer, self.tokenizer.turn_end] if len(answer) < self.answer_tokens else answer
            rows.append(([*prompt, *closed], [False] * len(prompt) + [True] * len(closed)))
        return unshifted_batch(rows, self.length, self.tokenizer.pad)

    def _generator(self, iteration: int) -> torch.Generator:
        drawn = np.random.default_rng([self.seed, iteration, self.rank]).integers(2**62)
        return torch.Generator().manual_seed(int(drawn))
