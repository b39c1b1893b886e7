"""Rollouts: batches that the model in training writes itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.decoding import Judge
from labkit.errors import LabError
from labkit.losses.advantages import Advantages
from labkit.machine import autocast
from labkit.model.actor_critic import ActorCritic
from labkit.model.transformer import Transformer
from labkit.preferences.prompts import Prompts
from labkit.stages.credit import GAECredit, ScoredAnswers
from labkit.stages.sampling import Sampler, Samples


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
    """A source for `fit`: the model answers new prompts and learns from these answers in `epochs` steps, then others.

    A step reads `accumulate` batches of `rows` answers, so many to each prompt as `samples` says. Batch n reads the
    prompts n P … n P + P - 1 with P = rows / samples, and draws from (seed, n), so that what is written depends on the
    weights alone. What a stop would lose is the batches between their first use and their last: that is the state.
    """

    def __init__(
        self,
        prompts: Prompts,
        sampler: Sampler,
        judge: Judge,
        credit: GAECredit,
        reference: Transformer,
        *,
        rows: int,
        samples: int,
        epochs: int,
        accumulate: int = 1,
        precision: str,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        check_rows(rows, samples, world_size)
        self.prompts, self.sampler, self.judge, self.credit = prompts, sampler, judge, credit
        self.reference = reference.eval()
        self.rows, self.samples, self.epochs, self.accumulate = rows, samples, epochs, accumulate
        self.precision, self.seed, self.rank, self.world_size = precision, seed, rank, world_size
        self.kept: list[Rollout] = []

    def next_batch(self, model: ActorCritic, step: int) -> Rollout:
        """The batch of this number; a step of `fit` asks for `accumulate` of them, one after another."""
        iteration, within = divmod(step, self.epochs * self.accumulate)
        if within == 0:
            self.kept = self.write(model, iteration)
        if not self.kept:
            raise LabError(f"Step {step // self.accumulate} learns from a rollout that was not kept.")
        return self.kept[within % self.accumulate]

    def state_dict(self) -> dict[str, Any]:
        return {
            name + (f".{part}" if part else ""): value
            for part, rollout in enumerate(self.kept)
            for name, value in rollout._asdict().items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parts = range(self.accumulate if state else 0)
        names = Rollout._fields
        self.kept = [Rollout(**{name: state[name + (f".{part}" if part else "")] for name in names}) for part in parts]

    @torch.no_grad()
    def write(self, model: ActorCritic, iteration: int) -> list[Rollout]:
        """The batches of one iteration: answers, and what every token of them was worth."""
        first = iteration * self.accumulate
        batches = range(first, first + self.accumulate)
        written = [self._sampled(model, batch) for batch in batches]
        scored = [self._scored(model, samples) for samples in written]
        credited = self.credit(scored)
        return [self._rollout(*given) for given in zip(batches, written, scored, credited, strict=True)]

    def _indices(self, batch: int) -> list[int]:
        """Of the prompts of this process, each as often as it is answered."""
        count = self.rows // self.samples
        mine = range(batch * count, (batch + 1) * count)[self.rank :: self.world_size]
        return [index for index in mine for _ in range(self.samples)]

    def _sampled(self, model: ActorCritic, batch: int) -> Samples:
        asked = [self.prompts.ids(index) for index in self._indices(batch)]
        # In training's precision: on the first step of a rollout the ratio of probabilities is then 1.
        with autocast(_device(model), self.precision):
            samples = self.sampler.sample(model.actor, asked, self._generator(batch))
        return samples._replace(batch=samples.batch.to(_device(model)))

    def _scored(self, model: ActorCritic, samples: Samples) -> ScoredAnswers:
        device, batch = _device(model), samples.batch
        reference = self.reference.to(device)
        with autocast(device, self.precision):
            x, values = model(batch.inputs, batch.mask)
            logprobs = self.sampler.logprobs(model.actor, x, batch)
            reference_logprobs = self.sampler.logprobs(reference, reference.hidden(batch.inputs), batch)
            scores = torch.tensor(self.judge(samples.prompts, samples.closed), device=device)
        return ScoredAnswers(scores, logprobs, reference_logprobs, values, batch.mask)

    def _rollout(self, batch: int, samples: Samples, scored: ScoredAnswers, credit: Advantages) -> Rollout:
        gold, mask, returns = self.prompts.gold(self._indices(batch), samples.answers), scored.mask, credit.returns
        return Rollout(
            samples.batch.inputs,
            samples.batch.labels,
            mask,
            scored.logprobs,
            scored.values,
            credit.advantages,
            returns,
            scored.scores.mean(),
            torch.tensor(float(np.mean(gold)) if gold else 0.0, device=mask.device),
            (scored.logprobs - scored.reference).sum(-1).mean(),
            mask.sum(-1).float().mean(),
            1 - (returns - scored.values)[mask].var() / returns[mask].var().clamp(min=1e-8),
        )

    def _generator(self, batch: int) -> torch.Generator:
        drawn = np.random.default_rng([self.seed, batch, self.rank]).integers(2**62)
        return torch.Generator().manual_seed(int(drawn))


def _device(model: ActorCritic) -> torch.device:
    return model.actor.embedding.weight.device
