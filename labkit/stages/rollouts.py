"""Rollouts: batches that the model in training writes itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.decoding.best import judge_scores
from labkit.errors import LabError
from labkit.losses.advantages import Advantages
from labkit.losses.policy import kl_estimate
from labkit.machine import all_reduce_sum, autocast, float_for_sums, uses_bf16
from labkit.model.actor_critic import ActorCritic, actor_critic_output, actor_of
from labkit.model.prefix_sharing import row_hidden_states
from labkit.model.transformer import Transformer
from labkit.preferences.prompts import IndexedPrompts
from labkit.stages.credit import Credit, ScoredAnswers, StepRewards, ValueModel
from labkit.stages.early_stop import EarlyStop
from labkit.stages.off_policy import OffPolicyCorrection, importance_weights, mismatch_metrics
from labkit.stages.rewards import RewardOfSamples, StepRewardsOfSamples
from labkit.stages.sampling import Sampler, Samples
from labkit.text.batch import Batch
from labkit.text.chat import without_end_token
from labkit.training.config import BatchSource
from labkit.training.engine import gather_full_parameters, make_parallel_eval_engine
from labkit.training.processes import accelerator

Policy = ActorCritic | Transformer
"""What a policy-gradient stage trains: with a critic or without."""


class Rollout(NamedTuple):
    """B answers and what they were worth.

    inputs, labels, mask [B, T] as in Batch, mask True on the answers; logprobs, values [B, T] of the model that wrote
    them, and reference_logprobs of the reference model; advantages, returns [B, T]. metrics: means over all answers of
    a step, each []: reward of the judge, gold of the oracle (0 where there is none), kl in nats per answer, length in
    tokens; with a critic explained_variance: how much of the returns' variance it predicted; with several answers to a
    prompt frac_reward_zero_std: of the prompts, how many of whose answers all got the same reward; reward_std: the
    deviation of the reward, with N; reward_length_correlation: Spearman's, of the reward and the length of the answers
    of a batch (of each process by itself); sampler_kl, importance_weight: see `off_policy.mismatch_metrics`.
    pretraining: rows of text to be mixed in, or none. importance_weights [B, T]: of each token's surrogate, or none.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    reference_logprobs: Tensor
    metrics: dict[str, Tensor]
    pretraining: Batch | tuple[()] = ()
    importance_weights: Tensor | tuple[()] = ()


_PER_TOKEN = Rollout._fields[:-3]
_METRICS = (
    *("reward", "gold", "kl", "length", "explained_variance", "frac_reward_zero_std"),
    *("reward_std", "reward_length_correlation", "sampler_kl", "importance_weight"),
    *("right", "repeats", "turns", "truncated"),
)


def _from_state(state: dict[str, Any], ending: str) -> Rollout:
    """The rollout whose tensors have names of this ending in a source's state. One that an older labkit saved is PPO's
    and without reference_logprobs, which PPO's loss does not read.
    """
    given = {"reference_logprobs" + ending: state["logprobs" + ending]} | state
    tensors: dict[str, Any] = {name: given[name + ending] for name in _PER_TOKEN}
    tensors["importance_weights"] = state.get("importance_weights" + ending, ())
    return Rollout(**tensors, metrics={name: state[name + ending] for name in _METRICS if name + ending in state})


def _split(state: dict[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands under a prefix, without it; and the rest."""
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return own, {name: value for name, value in state.items() if not name.startswith(prefix)}


def check_batch_size(batch_size: int, num_generations: int, world_size: int) -> None:
    """Raises LabError unless `batch_size` answers are `num_generations` to each prompt, as many on each process."""
    if batch_size % (num_generations * world_size):
        raise LabError(
            f"{batch_size} answers cannot be split into {num_generations} per prompt on {world_size} processes; make "
            f"train.batch_size a multiple of {num_generations * world_size}."
        )


class RolloutSource:
    """A source for `fit`: the model answers new prompts and learns from these answers in `epochs` steps, then others.

    A step reads `gradient_accumulation_steps` batches of `batch_size` answers, `num_generations` to each prompt.
    Batch n reads the prompts n P … n P + P - 1 with P = batch_size / num_generations, and draws from (seed, n), so that
    what is written depends on the weights alone. What a stop would lose is the batches between their first use and
    their last, and what credit has learnt of earlier ones: that is the state. pretraining: a source that holds no
    state, of whose text a batch goes with each step's. prefix_sharing: see `TrainConfig`. max_kl: see `EarlyStop`.
    step_rewards: rewards each step of an answer, in place of `reward`; an answer's score is then their sum.
    """

    def __init__(
        self,
        prompts: IndexedPrompts,
        sampler: Sampler,
        reward: RewardOfSamples,
        credit: Credit,
        reference: Transformer,
        *,
        batch_size: int,
        num_generations: int,
        epochs: int,
        gradient_accumulation_steps: int = 1,
        precision: str,
        prefix_sharing: bool = False,
        pretraining: BatchSource | None = None,
        max_kl: float | None = None,
        off_policy_correction: OffPolicyCorrection,
        step_rewards: StepRewardsOfSamples | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        check_batch_size(batch_size, num_generations, world_size)
        self.prompts, self.sampler, self.reward, self.credit = prompts, sampler, reward, credit
        self.pretraining, self.step_rewards = pretraining, step_rewards
        self.early_stop = EarlyStop(max_kl, epochs, gradient_accumulation_steps) if max_kl is not None else None
        device = accelerator().device
        self.reference = make_parallel_eval_engine(reference, device, uses_bf16(precision, device))
        self.batch_size, self.num_generations, self.epochs = batch_size, num_generations, epochs
        self.batches_a_step = gradient_accumulation_steps
        self.precision, self.seed, self.rank, self.world_size = precision, seed, rank, world_size
        self.prefix_sharing = prefix_sharing
        self.off_policy_correction, self.sampler_precision = off_policy_correction, sampler.precision or precision
        in_bf16 = [uses_bf16(one, device) for one in (precision, self.sampler_precision)]
        self.sampler_differs = sampler.top_p < 1 or in_bf16[0] != in_bf16[1]
        self.kept: list[Rollout] = []

    def next_batch(self, model: Policy, step: int) -> Rollout:
        """The batch of this number; a step of `fit` asks for `batches_a_step` of them, one after another."""
        iteration, within = divmod(step, self.epochs * self.batches_a_step)
        if self.early_stop and (self.kept or not step):
            iteration, within = self.early_stop.place(step, lambda: self._kl_since_rollout(model))
        if within == 0:
            self.kept = self.generate_batches(model, iteration)
        if not self.kept:
            raise LabError(
                f"Step {step // self.batches_a_step} needs a rollout that was not saved. Resume with as many processes "
                "as saved the checkpoint, or train the stage again (--again)."
            )
        batch = self.kept[within % self.batches_a_step]
        if self.early_stop:
            batch = batch._replace(metrics=batch.metrics | self.early_stop.metrics(batch.inputs.device))
        if self.pretraining is None:
            return batch
        return batch._replace(pretraining=self.pretraining.next_batch(model, step).to(batch.inputs.device))

    def state_dict(self) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for part, rollout in enumerate(self.kept):
            ending = f".{part}" if part else ""
            kept |= {name + ending: value for name, value in zip(_PER_TOKEN, rollout, strict=False)}
            # Batches that were drawn together share their means; a checkpoint holds no tensor twice.
            kept |= {name + ending: value.clone() for name, value in rollout.metrics.items()}
            if isinstance(rollout.importance_weights, Tensor):
                kept["importance_weights" + ending] = rollout.importance_weights
        if self.early_stop:
            kept |= {f"early_stop.{name}": value for name, value in self.early_stop.state_dict().items()}
        return kept | {f"credit.{name}": value for name, value in self.credit.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        of_credit, state = _split(state, "credit.")
        self.credit.load_state_dict(of_credit)
        of_early_stop, state = _split(state, "early_stop.")
        if self.early_stop and of_early_stop:
            self.early_stop.load_state_dict(of_early_stop)
        parts = range(self.batches_a_step if state else 0)
        if state and f"inputs.{self.batches_a_step - 1}" not in state and self.batches_a_step > 1:
            raise LabError(
                "The rollout in the checkpoint has the format of an older labkit. Train the stage again (--again)."
            )
        self.kept = [_from_state(state, f".{part}" if part else "") for part in parts]

    def reshard_states(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """This process's state, of those of another number of processes: each holds the prompts rank, rank + n … of a
        batch, and all answers to them.
        """
        mine = self.batch_size // self.num_generations
        order = [(index % len(states), index // len(states)) for index in range(mine)][self.rank :: self.world_size]
        found: dict[str, Any] = {}
        for name, value in states[0].items():
            if not value.ndim:
                found[name] = value  # a mean over all processes
                continue
            width = max(state[name].shape[1] for state in states)
            padded = [F.pad(state[name], (0, width - state[name].shape[1])) for state in states]
            each = self.num_generations
            found[name] = torch.cat([padded[rank][at * each : (at + 1) * each] for rank, at in order])
        return found

    @torch.no_grad()
    def generate_batches(self, model: Policy, iteration: int) -> list[Rollout]:
        """The batches of one iteration: answers, and what every token of them was worth."""
        first = iteration * self.batches_a_step
        batches = range(first, first + self.batches_a_step)
        written = [self._sampled(model, batch) for batch in batches]
        scored = [self._scored(model, *given) for given in zip(batches, written, strict=True)]
        credited = self.credit(scored)
        golds = [self._gold(*given) for given in zip(batches, written, strict=True)]
        means = _means(scored, credited, golds, self.num_generations)
        if not isinstance(self.credit.baseline, ValueModel):
            del means["explained_variance"]
        if self.num_generations == 1:
            del means["frac_reward_zero_std"]
        weights: list[Tensor | tuple[()]] = [()] * len(written)
        if self.sampler_differs:
            masks, logprobs = [one.mask for one in scored], [one.logprobs for one in scored]
            drawn = [self._sampler_logprobs(model, samples.batch) for samples in written]
            rows = zip(logprobs, drawn, masks, strict=True)
            weights = [importance_weights(self.off_policy_correction, *row) for row in rows]
            means |= mismatch_metrics(logprobs, drawn, masks, weights)
        means |= self._more_means(written)
        return [
            Rollout(
                *samples.batch,
                one.logprobs,
                one.values,
                credit.advantages,
                credit.returns,
                one.reference_logprobs,
                means,
                importance_weights=weight,
            )
            for samples, one, credit, weight in zip(written, scored, credited, weights, strict=True)
        ]

    @torch.no_grad()
    def _kl_since_rollout(self, model: Policy) -> float:
        """How far the policy has moved from what it was when it wrote the answers: nats per token, the mean of k3 over
        the tokens of a step and all processes.
        """
        sums = torch.zeros(2, device=_device(model))
        for batch in self.kept:
            with autocast(_device(model), self.precision):
                x = row_hidden_states(actor_of(model), batch.inputs, batch.mask, self.prefix_sharing)
                logprobs = self.sampler.completion_logprobs(actor_of(model), x, batch)
            kl = kl_estimate(batch.logprobs, logprobs, "k3")[batch.mask]
            sums += torch.stack([kl.float().sum(), batch.mask.sum().float()])
        nats, tokens = all_reduce_sum(sums).tolist()
        return nats / tokens

    def _indices(self, batch: int) -> list[int]:
        """Of the prompts of this process, each as often as it is answered."""
        count = self.batch_size // self.num_generations
        mine = range(batch * count, (batch + 1) * count)[self.rank :: self.world_size]
        return [index for index in mine for _ in range(self.num_generations)]

    def _sampled(self, model: Policy, batch: int) -> Samples:
        indices, samples = self._indices(batch), self.num_generations
        first = batch * (self.batch_size // samples)
        asked = [self.prompts.prompt_ids(index) for index in indices]
        places = [(index - first) * samples + at % samples for at, index in enumerate(indices)]
        # In training's precision, but where told otherwise: the trainer's probabilities are then those of the draws.
        with autocast(_device(model), self.sampler_precision), gather_full_parameters(actor_of(model)):
            written = self.sampler.sample(actor_of(model), asked, self._uniform_draws(batch)[places])
        return written._replace(batch=written.batch.to(_device(model)))

    def _scored(self, model: Policy, number: int, samples: Samples) -> ScoredAnswers:
        device, batch = _device(model), samples.batch
        with autocast(device, self.precision):
            x, values = actor_critic_output(model, batch.inputs, batch.mask, self.prefix_sharing)
            logprobs = self.sampler.completion_logprobs(actor_of(model), x, batch)
            reference_logprobs = self.reference.call_with_weights(self._logprobs, batch)
            steps = self._step_rewards(samples) if self.step_rewards is not None else None
            scores = steps.rewards.sum(-1) if steps else torch.tensor(self._rewards(number, samples), device=device)
        return ScoredAnswers(scores, logprobs, reference_logprobs, values, batch.mask, steps)

    def _step_rewards(self, samples: Samples) -> StepRewards:
        """The rewards of an answer's steps, at the tokens that end them."""
        assert self.step_rewards is not None
        rewards = torch.zeros(samples.batch.mask.shape)
        ends = torch.zeros_like(rewards, dtype=torch.bool)
        for row, (prompt, steps) in enumerate(zip(samples.prompts, self.step_rewards(samples), strict=True)):
            places = [len(prompt) - 1 + step.end for step in steps]  # a token is the label at the place before its own
            rewards[row, places] = torch.tensor([step.reward for step in steps])
            ends[row, places] = True
        return StepRewards(rewards.to(samples.batch.mask.device), ends.to(samples.batch.mask.device))

    def _sampler_logprobs(self, model: Policy, batch: Batch) -> Tensor:
        actor = actor_of(model)
        with autocast(_device(model), self.sampler_precision):
            x = row_hidden_states(actor, batch.inputs, batch.mask, self.prefix_sharing)
            return self.sampler.sampler_logprobs(actor, x, batch)

    def _rewards(self, number: int, samples: Samples) -> list[float]:
        return judge_scores(
            lambda prompts, answers: self.reward(self._indices(number), samples), samples.prompts, samples.completions
        )

    def _logprobs(self, model: Transformer, batch: Batch) -> Tensor:
        x = row_hidden_states(model, batch.inputs, batch.mask, self.prefix_sharing)
        return self.sampler.completion_logprobs(model, x, batch)

    def _gold(self, batch: int, samples: Samples) -> list[float]:
        answers = [without_end_token(self.sampler.tokenizer, drawn) for drawn in samples.completions]
        return [score.total for score in self.prompts.oracle_scores_if_known(self._indices(batch), answers)]

    def _more_means(self, written: Sequence[Samples]) -> dict[str, Tensor]:
        """More of what a Rollout says, of a source that knows more of its answers."""
        return {}

    def _uniform_draws(self, batch: int, turn: int = 0) -> Tensor:
        """[batch_size, max_new_tokens]: the randomness of each answer of a batch, whichever process writes it. turn: of
        a conversation, which of its answers.
        """
        seed = np.random.default_rng([self.seed, batch, turn]).integers(2**62)
        generator = torch.Generator().manual_seed(int(seed))
        return torch.rand(self.batch_size, self.sampler.max_new_tokens, generator=generator)


def _means(
    scored: Sequence[ScoredAnswers],
    credited: Sequence[Advantages],
    golds: Sequence[Sequence[float]],
    num_generations: int,
) -> dict[str, Tensor]:
    """What a Rollout says of its answers, over all of them that make a step together, on all processes."""
    sums, device = torch.zeros(13, dtype=torch.float64), scored[0].mask.device
    exact = float_for_sums(device)
    for one, credit, gold in zip(scored, credited, golds, strict=True):
        errors, returns = (x[one.mask].to(exact) for x in (credit.returns - one.values, credit.returns))
        scores, lengths = one.scores.to(exact), one.mask.sum(-1)
        kl = (one.logprobs - one.reference_logprobs).sum()
        of_answers: list[Any] = [len(scores), one.scores.sum(), sum(gold), kl]
        of_tokens: list[Any] = [
            one.mask.sum(),
            errors.sum(),
            (errors**2).sum(),
            returns.sum(),
            (returns**2).sum(),
            len(gold),
            num_generations * _alike(one.scores.view(-1, num_generations)),
            (scores**2).sum(),
            len(scores) * rank_correlation(scores, lengths),
        ]
        sums += torch.tensor([float(value) for value in [*of_answers, *of_tokens]], dtype=torch.float64)
    answers, reward, gold_sum, kl, tokens, error, error2, return_, return2, judged, alike, reward2, with_length = (
        all_reduce_sum(sums.to(device, exact)).tolist()
    )
    unexplained, variance = error2 / tokens - (error / tokens) ** 2, return2 / tokens - (return_ / tokens) ** 2
    found = {
        "reward": reward / answers,
        "gold": gold_sum / max(judged, 1),
        "kl": kl / answers,
        "length": tokens / answers,
        "explained_variance": 1 - unexplained / max(variance, 1e-8),
        "frac_reward_zero_std": alike / answers,
        "reward_std": math.sqrt(max(reward2 / answers - (reward / answers) ** 2, 0.0)),
        "reward_length_correlation": with_length / answers,
    }
    return {name: torch.tensor(value, dtype=torch.float32, device=device) for name, value in found.items()}


def _alike(groups: Tensor) -> int:
    """In how many groups, [groups, answers], all scores are the same."""
    return int((groups == groups[:, :1]).all(-1).sum())


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's rank correlation of N numbers and N others, equal ones sharing the mean of their ranks; 0 where all of
    one side are equal.
    """
    ranks = [(a[:, None] > a).sum(-1) + ((a[:, None] == a).sum(-1) - 1) / 2 for a in (x, y)]
    a, b = (rank.double() - rank.double().mean() for rank in (one.cpu() for one in ranks))
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else 0.0


def _device(model: Policy) -> torch.device:
    return actor_of(model).embedding.weight.device
