"""Objectives over pairs of answers, of which one was chosen."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PairLoss(NamedTuple):
    """A loss over pairs: `loss` [B] in nats, and `correct` [B] bool, whether the chosen one scores higher."""

    loss: Tensor
    correct: Tensor


def pairwise_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> PairLoss:
    """Bradley and Terry's model of a choice, fitted: chosen, rejected [B] scores -> one loss a pair.

        loss = - log sigmoid(chosen - rejected - margin)

    log 2 where the two score alike. Only differences count, so scores are free to drift together. As in InstructGPT
    (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, equation 1). margin [B]: how far apart the two should score
    at least, more where the chosen one was said to be much better (Llama 2, Touvron et al. 2023,
    https://arxiv.org/abs/2307.09288, equation 2).
    """
    return PairLoss(-F.logsigmoid(chosen - rejected - margin), chosen > rejected)


class DPOLoss(NamedTuple):
    """`loss` [B] in nats; `chosen_reward`, `rejected_reward` [B], the rewards that the policy implies, detached."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
) -> DPOLoss:
    """Direct preference optimisation: each argument [B] is `sum_logprobs` of an answer -> one loss a pair.

        reward = beta (log policy - log reference)      loss = - log sigmoid(chosen_reward - rejected_reward)

    log 2 where policy and reference agree. beta: how dearly the policy pays for leaving the reference. Rafailov et al.
    2023, https://arxiv.org/abs/2305.18290, equation 7.
    """
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    return DPOLoss(pairwise_loss(chosen, rejected).loss, chosen.detach(), rejected.detach())
