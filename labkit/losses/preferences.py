"""Objectives over pairs of answers, of which one was chosen."""

from typing import NamedTuple

import torch
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


class PreferenceLoss(NamedTuple):
    """`loss` [B]; `chosen_reward`, `rejected_reward` [B], the rewards that the policy implies, detached."""

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
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """Direct preference optimisation: each argument [B] is `sum_logprobs` of an answer -> one loss a pair, in nats.

        reward = beta (log policy - log reference)      loss = - log sigmoid(chosen_reward - rejected_reward)

    log 2 where policy and reference agree. beta: how dearly the policy pays for leaving the reference. Rafailov et al.
    2023, https://arxiv.org/abs/2305.18290, equation 7.

    label_smoothing ε: conservative DPO, the mean loss where a share ε of the labels is flipped, which is smallest at a
    finite margin of log((1 - ε) / ε) (Mitchell 2023, https://ericmitchell.ai/cdpo.pdf):

        (1 - ε) loss(chosen, rejected) + ε loss(rejected, chosen)
    """
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    loss = pairwise_loss(chosen, rejected).loss
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * pairwise_loss(rejected, chosen).loss
    return PreferenceLoss(loss, chosen.detach(), rejected.detach())


def robust_dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float,
) -> PreferenceLoss:
    """DPO's loss, estimated without bias from labels of which a share is flipped: arguments as of `dpo_loss`.

        ((1 - ε) loss(chosen, rejected) - ε loss(rejected, chosen)) / (1 - 2 ε)

    label_smoothing ε: that share, below 1/2. Over the flips its mean is the loss on the labels without them; of one
    pair it may be negative. log 2 where policy and reference agree. Chowdhury, Kini and Natarajan 2024,
    https://arxiv.org/abs/2403.00409.
    """
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    kept, flipped = pairwise_loss(chosen, rejected).loss, pairwise_loss(rejected, chosen).loss
    loss = ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    return PreferenceLoss(loss, chosen.detach(), rejected.detach())


def ipo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """Identity preference optimisation: arguments as of `dpo_loss` -> one loss a pair, in squared nats.

        (log policy ratio - log reference ratio - 1 / (2 beta))^2      ratio = chosen / rejected

    1 / (4 beta^2) where policy and reference agree. The margin that costs nothing is finite, so that no pair, however
    often it was seen, drives the policy ever further. beta is the paper's tau. Azar et al. 2023,
    https://arxiv.org/abs/2310.12036, equation 17.
    """
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    loss = (chosen - rejected - 1 / (2 * beta)).square()
    return PreferenceLoss(loss, beta * chosen.detach(), beta * rejected.detach())


def simpo_loss(mean_chosen: Tensor, mean_rejected: Tensor, *, beta: float, gamma: float) -> PreferenceLoss:
    """Simple preference optimisation, without a reference: each argument [B] is an answer's log-probability a token.

        reward = beta mean_logprob      loss = - log sigmoid(chosen_reward - rejected_reward - gamma)

    gamma: the margin by which the chosen reward should be the larger, in nats; TRL calls it simpo_gamma. Meng, Xia and
    Chen 2024, https://arxiv.org/abs/2405.14734.
    """
    chosen, rejected = beta * mean_chosen, beta * mean_rejected
    return PreferenceLoss(pairwise_loss(chosen - gamma, rejected).loss, chosen.detach(), rejected.detach())


def odds_ratio_loss(mean_chosen: Tensor, mean_rejected: Tensor, *, beta: float) -> PreferenceLoss:
    """What ORPO adds to the loss of fine-tuning: arguments as of `simpo_loss` -> one loss a pair, in nats.

        odds = p / (1 - p), p = exp(mean_logprob)      loss = - beta log sigmoid(log odds(chosen) - log odds(rejected))

    beta log 2 where both are as likely. beta is the paper's lambda. The rewards are beta mean_logprob, as TRL has them.
    Hong, Lee and Thorne 2024, https://arxiv.org/abs/2403.07691, equations 4 and 7.
    """
    loss = beta * pairwise_loss(_log_odds(mean_chosen), _log_odds(mean_rejected)).loss
    return PreferenceLoss(loss, beta * mean_chosen.detach(), beta * mean_rejected.detach())


def _log_odds(logprob: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p; finite where p rounds to 1."""
    return logprob - torch.log(-torch.expm1(logprob.clamp(max=-torch.finfo(logprob.dtype).eps)))
