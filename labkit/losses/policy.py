"""Objectives of policy gradients: the policy's, in parts that can be chosen, and the value model's.

Every argument is [B, T]: a row is a prompt and its answer, mask True on the answer's tokens. A policy loss is

    sum over mask of weight[b, t] surrogate(ratio[b, t], A[b, t])

with a ratio by token or by sequence (`importance_ratio`), a surrogate that clips the ratio, the gradient's weight or
nothing, and weights that average over tokens or over answers (`token_weights`).

>>> import torch
>>> mask = torch.ones(1, 2, dtype=torch.bool)
>>> old, new = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.75, 0.5]]))
>>> ratio = importance_ratio(new, old, mask, level="token")          # 1.5 and 1
>>> clipped_ratio_surrogate(ratio, torch.ones(1, 2), low=0.2, high=0.2).loss  # the first is held to 1.2
tensor([[-1.2000, -1.0000]])
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]
ImportanceLevel = Literal["token", "sequence"]
LossMean = Literal["token", "answer", "constant"]


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """What one drawn token says of the KL divergence of the policy from the reference: [B, T], [B, T] -> [B, T] nats.

        d = logprobs - reference_logprobs         k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d

    The mean of k1 and of k3 over draws of the policy is the divergence; k3 is never below 0 and varies less, k2 is
    biased. As a loss their gradients differ: that of k1 has mean 0, that of k2 the mean of the divergence's own, that
    of k3 the mean of the reverse divergence's. Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """
    d = logprobs - reference_logprobs
    if estimator == "k1":
        return d
    return d**2 / 2 if estimator == "k2" else torch.exp(-d) - 1 + d


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: ImportanceLevel) -> Tensor:
    """How much likelier the policy makes what the one before it drew: [B, T] each -> [B, T], 1 where mask is False.

        token:     exp(logprobs - old_logprobs), of each token
        sequence:  exp(mean over the answer's tokens of logprobs - old_logprobs), the same for all of them

    sequence: Group Sequence Policy Optimization, Zheng et al. 2025, https://arxiv.org/abs/2507.18071, equation 7.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    if level == "token":
        return log_ratio.exp()
    mean = log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(mask, mean, 0.0).exp()


class Surrogate(NamedTuple):
    """`loss` [B, T], to be minimised, and `clipped` [B, T] bool, where clipping took the gradient or part of it."""

    loss: Tensor
    clipped: Tensor


def unclipped_surrogate(ratio: Tensor, advantages: Tensor) -> Surrogate:
    """loss = - ratio A. On the first step after a rollout, where the ratio is 1, its gradient is REINFORCE's."""
    return Surrogate(-(ratio * advantages), torch.zeros_like(ratio, dtype=torch.bool))


def clipped_ratio_surrogate(ratio: Tensor, advantages: Tensor, *, low: float, high: float) -> Surrogate:
    """loss = - min(ratio A, clamp(ratio, 1 - low, 1 + high) A).

    A token's gradient vanishes once its probability has moved that far in the direction that its advantage asks for.
    Schulman et al. 2017, https://arxiv.org/abs/1707.06347, equation 7; high above low ("clip higher", DAPO, Yu et al.
    2025, https://arxiv.org/abs/2503.14476) leaves unlikely tokens more room to grow.
    """
    free, held = ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages
    return Surrogate(-torch.minimum(free, held), held < free)


def clipped_weight_surrogate(ratio: Tensor, logprobs: Tensor, advantages: Tensor, *, max_weight: float) -> Surrogate:
    """loss = - stop_gradient(min(ratio, max_weight)) A logprobs.

    The weight of a token's gradient is bounded, and no token loses its gradient: CISPO, MiniMax 2025,
    https://arxiv.org/abs/2506.13585, equation 4 (which leaves the lower bound out too).
    """
    weight = ratio.clamp(max=max_weight).detach()
    return Surrogate(-weight * advantages * logprobs, ratio > max_weight)


def truncated_importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, *, cap: float) -> Tensor:
    """By what a token's surrogate is multiplied where another distribution drew it than the one that is trained:
    [B, T] each -> [B, T] without a gradient, 1 where mask is False.

        weight = min(exp(logprobs - sampler_logprobs), cap)

    logprobs: the trainer's of the policy that wrote the answers; sampler_logprobs: those by which they were drawn. Yao
    et al. 2025, https://fengyao.notion.site/off-policy-rl; TRL's vllm_importance_sampling_cap, whose default is 2.
    """
    return torch.where(mask, logprobs - sampler_logprobs, 0.0).exp().clamp(max=cap).detach()


class TokenWeights(NamedTuple):
    """`weights` [B, T], 0 where the mask is False, and `divisor` [], of the weighted sum."""

    weights: Tensor
    divisor: Tensor


def token_weights(mask: Tensor, mean: LossMean, max_new_tokens: int) -> TokenWeights:
    """How the tokens of answers are averaged: mask [B, T].

    token:     1 each, over all tokens of the batch: long answers weigh more (DAPO, PPO)
    answer:    1 / length of its answer, over B: a token of a long answer weighs less (GRPO)
    constant:  1 / max_new_tokens, over B: every token weighs the same in every batch (Dr. GRPO)
    """
    counted = mask.float()
    if mean == "token":
        return TokenWeights(counted, mask.sum())
    tokens = mask.sum(-1, keepdim=True).clamp(min=1) if mean == "answer" else max_new_tokens
    return TokenWeights(counted / tokens, torch.tensor(len(mask), device=mask.device))


class ClippedLoss(NamedTuple):
    """`loss_sum` [] over the counted tokens, and `clipped_sum` [], on how many of them the clipped term decided."""

    loss_sum: Tensor
    clipped_sum: Tensor


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, cliprange: float
) -> ClippedLoss:
    """PPO's clipped surrogate, to be minimised: every argument [B, T], mask True where a token counts.

        ratio = exp(logprobs - old_logprobs)
        loss_sum = - sum over mask of min(ratio A, clamp(ratio, 1 - cliprange, 1 + cliprange) A)

    A token's gradient vanishes once its probability has moved by `cliprange` in the direction that its advantage asks
    for. Schulman et al. 2017, https://arxiv.org/abs/1707.06347, equation 7.
    """
    ratio = importance_ratio(logprobs, old_logprobs, mask, "token")
    loss, clipped = clipped_ratio_surrogate(ratio, advantages, low=cliprange, high=cliprange)
    return ClippedLoss((loss * mask).sum(), (clipped & mask).sum())


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    cliprange_value: float,
) -> ClippedLoss:
    """The critic's squared error, with the step from its old values held to `cliprange_value`: every argument [B, T].

        held = old_values + clamp(values - old_values, -cliprange_value, cliprange_value)
        loss_sum = 1/2 sum over mask of max((values - returns)^2, (held - returns)^2)

    As PPO's reference code does it (Huang et al. 2022, The 37 Implementation Details of Proximal Policy Optimization,
    https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/, detail 9).
    """
    held = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    free_error, held_error = (values - returns) ** 2, (held - returns) ** 2
    return ClippedLoss(
        0.5 * (torch.maximum(free_error, held_error) * mask).sum(),
        ((held_error > free_error) & mask).sum(),
    )
