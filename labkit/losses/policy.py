"""Objectives of policy gradients: the policy's and the value model's."""

from typing import NamedTuple

import torch
from torch import Tensor


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
    ratio = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
    free, held = ratio * advantages, ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
    return ClippedLoss(-(torch.minimum(free, held) * mask).sum(), ((held < free) & mask).sum())


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, cliprange_value: float
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
        0.5 * (torch.maximum(free_error, held_error) * mask).sum(), ((held_error > free_error) & mask).sum()
    )
