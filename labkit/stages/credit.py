"""Credit: from a judge's number for a whole answer to what each of its tokens was worth.

A score is compared with a baseline, what was to be expected, and the difference is the advantage. Where the baseline
comes from is a choice, a frozen dataclass each: nothing, the mean of earlier scores, the other answers to the same
prompt, or a value model. The KL penalty, where it stands in the reward, is taken off first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from labkit.configs import NonNegative, Positive, Share, check_fields
from labkit.errors import LabError
from labkit.losses.advantages import (
    Advantages,
    discounted_returns,
    gae,
    group_advantages,
    group_step_advantages,
    leave_one_out_advantages,
    shaped_rewards,
    whiten_together,
)
from labkit.losses.policy import KLEstimator
from labkit.machine import all_reduce_sum

ADAPTIVE_KL_GAIN, ADAPTIVE_KL_CLIP = 0.1, 0.2
"""Ziegler et al. 2019, 2.2: by what share the coefficient grows at most is their product."""


class StepRewards(NamedTuple):
    """Rewards of the steps of B answers: `rewards` [B, T] at the last token of each, 0 elsewhere; `ends` [B, T] bool,
    True there.
    """

    rewards: Tensor
    ends: Tensor


class ScoredAnswers(NamedTuple):
    """B answers of T tokens, as credit needs them: the judge's `scores` [B]; `logprobs` of the policy that wrote them,
    `reference_logprobs`, and the value model's `values`, each [B, T]; `mask` [B, T] True on the answers. steps: where
    each step is rewarded by itself, in the score's place; the scores are then their sums.
    """

    scores: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    mask: Tensor
    steps: StepRewards | None = None


@dataclass(frozen=True)
class NoKL:
    """Nothing holds the policy to the reference model."""

    coef: ClassVar[float] = 0.0


@dataclass(frozen=True)
class KLInReward:
    """The KL penalty is taken off each token's reward.

    Attributes:
        coef: weight of the KL.
        estimator: of the KL of a token: see `losses.kl_estimate`.
        target: nats per answer that coef is steered to after each rollout, Ziegler et al. 2019
            (https://arxiv.org/abs/1909.08593, 2.2); None keeps coef as it is.
    """

    coef: NonNegative = 0.1
    estimator: KLEstimator = "k1"
    target: Positive | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.target is not None and not self.coef:
            raise LabError("KLInReward: target steers coef by a factor, so that 0 stays 0. Set coef above 0.")


@dataclass(frozen=True)
class KLInLoss:
    """The KL penalty is added to the loss, token by token, and differentiated.

    Attributes:
        coef: weight of the KL.
        estimator: of the KL of a token: k3, as in GRPO, or k2 (see `losses.kl_estimate`).
    """

    coef: NonNegative = 0.04
    estimator: KLEstimator = "k3"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.estimator == "k1":
            raise LabError(
                "KLInLoss: k1 has a gradient of mean 0, so that it holds nothing. Choose estimator k2 or k3."
            )


KLChoice = NoKL | KLInReward | KLInLoss


class Baseline(ABC):
    """What an answer's rewards are compared with. `needs_group`: whether it needs two answers or more to a prompt."""

    needs_group: ClassVar[bool] = False

    @abstractmethod
    def advantages(self, rewards: Tensor, part: ScoredAnswers, num_generations: int, moving_mean: float) -> Advantages:
        """rewards [B, T] of each token; the answers to one prompt stand side by side. moving_mean: of the scores of
        earlier rollouts.
        """

    def check(self, num_generations: int) -> None:
        """Raises LabError where so many answers to a prompt do not serve it."""
        if self.needs_group and num_generations < 2:
            raise LabError(
                f"{type(self).__name__} compares the answers to one prompt with each other: num_generations must be "
                f"at least 2, not {num_generations}."
            )


@dataclass(frozen=True)
class NoBaseline(Baseline):
    """The rewards still to come are compared with nothing: REINFORCE (Williams 1992)."""

    def advantages(self, rewards: Tensor, part: ScoredAnswers, num_generations: int, moving_mean: float) -> Advantages:
        returns = discounted_returns(rewards, part.mask, gamma=1.0)
        return Advantages(returns, returns.clone())  # a checkpoint holds both, and no tensor twice


@dataclass(frozen=True)
class MovingMean(Baseline):
    """The rewards still to come, less the moving mean of the scores of earlier rollouts. The first rollout is compared
    with its own mean.

    Attributes:
        momentum: weight of the mean so far against that of the new rollout.
    """

    momentum: Share = 0.9

    def __post_init__(self) -> None:
        check_fields(self)

    def advantages(self, rewards: Tensor, part: ScoredAnswers, num_generations: int, moving_mean: float) -> Advantages:
        returns = discounted_returns(rewards, part.mask, gamma=1.0)
        return Advantages((returns - moving_mean) * part.mask, returns)


@dataclass(frozen=True)
class GroupMean(Baseline):
    """An answer is compared with the mean score of the answers to the same prompt: see `losses.group_advantages`. It is
    one action; where each step is rewarded by itself, it is compared with the mean over the steps of these answers: see
    `losses.group_step_advantages`.

    Attributes:
        divide_by_deviation: divide the difference by the standard deviation of the group's scores.
    """

    divide_by_deviation: bool = True

    needs_group: ClassVar[bool] = True

    def advantages(self, rewards: Tensor, part: ScoredAnswers, num_generations: int, moving_mean: float) -> Advantages:
        if part.steps is not None:
            options = {"divide_by_deviation": self.divide_by_deviation}
            steps = group_step_advantages(rewards, part.steps.ends, num_generations, **options) * part.mask
            return Advantages(steps, discounted_returns(rewards, part.mask, gamma=1.0))
        scores = rewards.sum(-1)
        found = group_advantages(scores, num_generations, divide_by_deviation=self.divide_by_deviation)
        return _for_all_tokens(found, scores, part.mask)


@dataclass(frozen=True)
class LeaveOneOut(Baseline):
    """An answer is compared with the mean score of the other answers to the same prompt: see
    `losses.leave_one_out_advantages`.
    """

    needs_group: ClassVar[bool] = True

    def advantages(self, rewards: Tensor, part: ScoredAnswers, num_generations: int, moving_mean: float) -> Advantages:
        scores = rewards.sum(-1)
        return _for_all_tokens(leave_one_out_advantages(scores, num_generations), scores, part.mask)


@dataclass(frozen=True)
class ValueModel(Baseline):
    """A value model (the critic), trained beside the policy, predicts at each token the reward still to come:
    generalised advantage estimation (see `losses.gae`).

    Attributes:
        gamma: discount of later rewards.
        lam: λ of generalised advantage estimation.
        vf_coef: weight of the value model's loss.
        cliprange_value: how far a step may move a value.
    """

    gamma: Share = 1.0
    lam: Share = 0.95
    vf_coef: NonNegative = 0.5
    cliprange_value: Positive = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def advantages(self, rewards: Tensor, part: ScoredAnswers, num_generations: int, moving_mean: float) -> Advantages:
        return gae(rewards, part.values, part.mask, gamma=self.gamma, lam=self.lam)


BaselineChoice = NoBaseline | MovingMean | GroupMean | LeaveOneOut | ValueModel


def _for_all_tokens(advantages: Tensor, scores: Tensor, mask: Tensor) -> Advantages:
    """The same advantage and return, [B] each, for all tokens of an answer."""
    return Advantages(advantages.unsqueeze(-1) * mask, scores.unsqueeze(-1) * mask)


class Credit:
    """From scores to advantages, rollout after rollout.

    baseline: what rewards are compared with. kl: where the KL penalty stands. whiten: advantages get mean 0 and
    variance 1 over all answers of a step and all processes. What changes from rollout to rollout is its state: the
    moving mean of the scores, and an adaptive KL coefficient.
    """

    def __init__(self, baseline: Baseline, kl: KLChoice, *, whiten: bool, num_generations: int = 1):
        self.baseline, self.kl, self.whiten, self.num_generations = baseline, kl, whiten, num_generations
        self.kl_coef = kl.coef if isinstance(kl, KLInReward) else 0.0
        self.moving_mean: float | None = None

    def __call__(self, parts: Sequence[ScoredAnswers]) -> list[Advantages]:
        """Of the batches that make one step together; all processes are asked at once."""
        mean_score, kl = _means(parts) if self._has_state else (0.0, 0.0)
        found = [self._of(part, mean_score if self.moving_mean is None else self.moving_mean) for part in parts]
        if self._has_state:
            self._update_state(mean_score, kl)
        if not self.whiten:
            return found
        white = whiten_together([one.advantages for one in found], [part.mask for part in parts], all_reduce_sum)
        return [one._replace(advantages=advantages) for one, advantages in zip(found, white, strict=True)]

    @property
    def _has_state(self) -> bool:
        return isinstance(self.baseline, MovingMean) or (isinstance(self.kl, KLInReward) and self.kl.target is not None)

    def state_dict(self) -> dict[str, Tensor]:
        if self.moving_mean is None:
            return {}
        return {
            "moving_mean": torch.tensor(self.moving_mean, dtype=torch.float64),
            "kl_coef": torch.tensor(self.kl_coef, dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            self.moving_mean, self.kl_coef = float(state["moving_mean"]), float(state["kl_coef"])

    def _of(self, part: ScoredAnswers, moving_mean: float) -> Advantages:
        estimator = self.kl.estimator if isinstance(self.kl, KLInReward) else "k1"
        at_the_end = part.scores if part.steps is None else torch.zeros_like(part.scores)
        rewards = shaped_rewards(
            at_the_end, part.logprobs, part.reference_logprobs, part.mask, kl_coef=self.kl_coef, estimator=estimator
        )
        rewards = rewards if part.steps is None else rewards + part.steps.rewards
        return self.baseline.advantages(rewards, part, self.num_generations, moving_mean)

    def _update_state(self, mean_score: float, kl: float) -> None:
        """What the next rollout is compared with, and what a nat costs it."""
        momentum = self.baseline.momentum if isinstance(self.baseline, MovingMean) else 0.0
        before = mean_score if self.moving_mean is None else self.moving_mean
        self.moving_mean = momentum * before + (1 - momentum) * mean_score
        if isinstance(self.kl, KLInReward) and self.kl.target is not None:
            error = kl / self.kl.target - 1
            self.kl_coef *= 1 + ADAPTIVE_KL_GAIN * min(max(error, -ADAPTIVE_KL_CLIP), ADAPTIVE_KL_CLIP)


def _means(parts: Sequence[ScoredAnswers]) -> tuple[float, float]:
    """The mean score, and the mean KL of the policy from the reference in nats per answer, over all processes."""
    sums = torch.zeros(3, dtype=torch.float32, device=parts[0].mask.device)
    for part in parts:
        kl = ((part.logprobs - part.reference_logprobs) * part.mask).sum()
        sums += torch.stack([torch.tensor(float(len(part.scores)), device=kl.device), part.scores.sum(), kl])
    answers, score, nats = all_reduce_sum(sums).tolist()
    return score / answers, nats / answers
