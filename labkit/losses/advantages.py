"""From a score of a whole answer to what each of its tokens was worth.

Everything is [B, T]: a row is a prompt and its answer, `mask` is True on the answer's tokens. In a conversation of
several turns it is True on those of every answer, and what stands between them, the user's, takes no time: the token
after an answer's last is the next answer's first. What is not counted is zero in every result.

>>> import torch
>>> mask = torch.tensor([[True, True, True]])
>>> rewards = torch.tensor([[0.0, 0.0, 1.0]])
>>> discounted_returns(rewards, mask, gamma=0.5)
tensor([[0.2500, 0.5000, 1.0000]])
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.losses.policy import KLEstimator, kl_estimate


def last_token_mask(mask: Tensor) -> Tensor:
    """True at the last True of each row: [B, T] bool -> [B, T] bool. An empty row stays empty."""
    after = mask.flip(-1).cumsum(-1).flip(-1)  # how many are counted from here on
    return mask & (after == 1)


def shaped_rewards(
    scores: Tensor,
    logprobs: Tensor,
    reference_logprobs: Tensor,
    mask: Tensor,
    *,
    kl_coef: float,
    estimator: KLEstimator = "k1",
) -> Tensor:
    """What each token earns: the answer's score on its last token, less what leaving the reference costs.

        reward[t] = - kl_coef (logprobs[t] - reference_logprobs[t]) + [t is the last] score

    scores [B]; logprobs, reference_logprobs [B, T] of the tokens that were drawn, mask [B, T] -> [B, T]. The mean of
    logprobs - reference over draws of the policy is the KL divergence between the two; estimator: another in its place
    (see `kl_estimate`). Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, equation 2; Ziegler et al. 2019,
    https://arxiv.org/abs/1909.08593.
    """
    penalty = torch.where(mask, -kl_coef * kl_estimate(logprobs, reference_logprobs, estimator), 0.0)
    return penalty + scores.unsqueeze(-1) * last_token_mask(mask)


def discounted_returns(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """The rewards still to come, a step later worth gamma less: returns[t] = rewards[t] + gamma returns[t + 1]."""
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0).returns


class Advantages(NamedTuple):
    """`advantages` [B, T], how much better a token was than expected, and `returns` [B, T] = advantages + values."""

    advantages: Tensor
    returns: Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation: rewards, values, mask [B, T].

        error[t] = rewards[t] + gamma values[t + 1] - values[t]       (values are 0 after the last token)
        advantages[t] = error[t] + gamma lam advantages[t + 1]

    lam = 0 trusts the critic and looks one token ahead, lam = 1 trusts the rewards alone. Schulman et al. 2016,
    https://arxiv.org/abs/1506.02438, equations 11 and 16.
    """
    counted = mask.to(rewards.dtype)
    rewards, values = rewards * counted, values * counted
    advantages = torch.zeros_like(rewards)
    later_value = later_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        error = rewards[:, t] + gamma * later_value - values[:, t]
        advantages[:, t] = counted[:, t] * (error + gamma * lam * later_advantage)
        here = mask[:, t]
        later_value = torch.where(here, values[:, t], later_value)
        later_advantage = torch.where(here, advantages[:, t], later_advantage)
    return Advantages(advantages, advantages + values)


def group_advantages(scores: Tensor, num_generations: int, *, divide_by_deviation: bool) -> Tensor:
    """Each answer's score less the mean of its group, the answers to its prompt: scores [B], group by group -> [B].

        A = (score - mean) / (deviation + 1e-4), or the numerator alone

    The deviation is the sample's (with G - 1), as in the papers' code and TRL. A group whose answers score alike has
    advantage 0: it teaches nothing. GRPO, Shao et al. 2024, https://arxiv.org/abs/2402.03300, 4.1.2; without the
    division, which weighs easy and hard prompts more: Dr. GRPO, Liu et al. 2025, https://arxiv.org/abs/2503.20783.
    """
    groups = scores.view(-1, num_generations)
    alike = (groups == groups[:, :1]).all(-1, keepdim=True)  # of equal scores rounding would leave a difference
    centred = torch.where(alike, 0.0, groups - groups.mean(-1, keepdim=True))
    if divide_by_deviation:
        centred = centred / (groups.std(-1, keepdim=True) + 1e-4)
    return centred.view(-1)


def group_step_advantages(
    rewards: Tensor, step_ends: Tensor, num_generations: int, *, divide_by_deviation: bool
) -> Tensor:
    """Of rewards of the steps of answers: rewards [B, T] of tokens, step_ends [B, T] bool at the last token of each
    step, group by group -> [B, T]. A step's reward r is its tokens' sum; it is compared with those of all steps of the
    group, and a token has what is still to come.

        r~ = (r - mean) / (deviation + 1e-4), or the numerator alone        A[t] = sum of r~ at the ends from t on

    GRPO with process supervision, Shao et al. 2024, https://arxiv.org/abs/2402.03300, 4.1.3. The deviation is the
    sample's; of a group with one step, or whose steps are rewarded alike, all advantages are 0.
    """
    of_steps = _sums_at_ends(rewards, step_ends)
    groups, ends = (x.view(-1, num_generations * x.shape[-1]) for x in (of_steps, step_ends))
    counts, lowest = ends.sum(-1, keepdim=True), groups.masked_fill(~ends, torch.inf).amin(-1, keepdim=True)
    alike = lowest == groups.masked_fill(~ends, -torch.inf).amax(-1, keepdim=True)
    mean = groups.masked_fill(~ends, 0.0).sum(-1, keepdim=True) / counts.clamp(min=1)
    centred = torch.where(ends & ~alike, groups - mean, 0.0)
    if divide_by_deviation:
        variance = centred.square().sum(-1, keepdim=True) / (counts - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + 1e-4)
    return centred.view_as(rewards).flip(-1).cumsum(-1).flip(-1)


def _sums_at_ends(x: Tensor, ends: Tensor) -> Tensor:
    """At each end the sum of x behind the end before it, up to its own; 0 elsewhere: x, ends [B, T] -> [B, T]."""
    step = torch.zeros_like(ends, dtype=torch.long)
    step[:, 1:] = ends[:, :-1].cumsum(-1)  # of each token the number of its step
    return torch.zeros_like(x).scatter_add(-1, step, x).gather(-1, step).masked_fill(~ends, 0.0)


def leave_one_out_advantages(scores: Tensor, num_generations: int) -> Tensor:
    """Each answer's score less the mean of the other answers to its prompt: scores [B], groups side by side -> [B].

        A_i = score_i - (sum of the group - score_i) / (G - 1)

    G / (G - 1) times `group_advantages` without division, and unbiased. RLOO, Kool et al. 2019; Ahmadian et al. 2024,
    https://arxiv.org/abs/2402.14740, equation 8.
    """
    groups = scores.view(-1, num_generations)
    others = (groups.sum(-1, keepdim=True) - groups) / (num_generations - 1)
    return (groups - others).view(-1)


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """x [B, T] with mean 0 and variance 1 over all tokens that count: a learning rate then fits any scale of reward."""
    return whiten_together([x], [mask], eps=eps)[0]


def whiten_together(
    tensors: Sequence[Tensor],
    masks: Sequence[Tensor],
    all_reduce: Callable[[Tensor], Tensor] = lambda sum_: sum_,
    eps: float = 1e-8,
) -> list[Tensor]:
    """`whiten` of several tensors as if they were one. all_reduce: sums a number over all processes."""
    count = all_reduce(_sum(mask.sum() for mask in masks)).clamp(min=1)
    mean = all_reduce(_sum((x * mask).sum() for x, mask in zip(tensors, masks, strict=True))) / count
    squares = _sum((((x - mean) ** 2) * mask).sum() for x, mask in zip(tensors, masks, strict=True))
    deviation = torch.rsqrt(all_reduce(squares) / count + eps)
    return [(x - mean) * deviation * mask for x, mask in zip(tensors, masks, strict=True)]


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)
