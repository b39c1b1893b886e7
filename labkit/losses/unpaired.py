"""Objectives over single answers, each with a label: desirable or not."""

from typing import NamedTuple

import torch
from torch import Tensor


class KTOLoss(NamedTuple):
    """`loss` [B], from 0 to the answer's weight; `reward` [B], which the policy implies, detached."""

    loss: Tensor
    reward: Tensor


def kto_loss(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    kl: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KTOLoss:
    """Kahneman-Tversky optimisation: policy, reference [B], `sum_logprobs` of an answer; desirable [B] bool; kl [] ->
    one loss an answer.

        reward = beta (log policy - log reference)
        loss = desirable_weight sigmoid(beta kl - reward)         of an answer that is desirable
        loss = undesirable_weight sigmoid(reward - beta kl)       of one that is not

    Half the weight where policy and reference agree. It saturates on both sides: an answer that is far better or far
    worse than expected moves the policy little. kl: what is expected of any answer, `kto_kl`; it has no gradient.
    Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, equation 7.
    """
    reward = beta * (policy - reference)
    above = reward - beta * kl.detach()
    gain, loss = desirable_weight * torch.sigmoid(-above), undesirable_weight * torch.sigmoid(above)
    return KTOLoss(torch.where(desirable, gain, loss), reward.detach())


def kto_kl(log_ratio_sum: Tensor, count: Tensor) -> Tensor:
    """KTO's reference point: policy's KL from the reference in nats, from answers set behind other prompts than theirs.

    log_ratio_sum []: of log policy - log reference, summed over `count` such answers, of all processes. Their mean is
    a biased estimate, since the answers were not drawn from the policy; where it is negative, 0 takes its place, as in
    the same paper.
    """
    return (log_ratio_sum / count).clamp(min=0).detach()
