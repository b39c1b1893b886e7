"""Training objectives as pure functions of tensors.

A loss returns sums and counts, never a mean: sums can be added over micro-batches and over processes, and divided
once, so that the gradient is that of one big batch however it was cut up.

>>> import torch
>>> logits = torch.zeros(1, 2, 4)                      # uniform over V = 4: every label costs log 4
>>> labels, mask = torch.tensor([[3, 1]]), torch.tensor([[True, False]])
>>> loss = next_token_loss(logits, labels, mask)
>>> round(loss.loss_sum.item(), 4), loss.counted.item()  # one label counts
(1.3863, 1)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORED = -100


class TokenLoss(NamedTuple):
    """A loss over tokens: `loss_sum` [] in nats and `counted` [], how many labels it is summed over."""

    loss_sum: Tensor
    counted: Tensor


def next_token_loss(logits: Tensor, labels: Tensor, mask: Tensor) -> TokenLoss:
    """Cross-entropy of the next token, summed over the labels that count.

        loss_sum = - sum over mask[b, t] of log softmax(logits[b, t])[labels[b, t]]

    logits: [B, T, V], any precision (the logarithm is taken in fp32); labels: [B, T] int64, the token after each
    input; mask: [B, T] bool, True where the label counts. A label that does not count may be any number.
    """
    V = logits.shape[-1]
    counted = labels.masked_fill(~mask, _IGNORED)  # [B, T]
    flat = logits.float().reshape(-1, V)
    loss_sum = F.cross_entropy(flat, counted.flatten(), ignore_index=_IGNORED, reduction="sum")
    return TokenLoss(loss_sum, mask.sum())


def token_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax(logits)[labels], one number a token: [B, T, V], [B, T] -> [B, T], in fp32 nats."""
    return -F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").reshape(labels.shape)


def sum_logprobs(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each row's counted labels together: [B, T, V], [B, T], [B, T] -> [B] nats."""
    return (token_logprobs(logits, labels.masked_fill(~mask, 0)) * mask).sum(-1)


def mean_logprobs(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """`sum_logprobs` divided by each row's number of counted labels: [B] nats a token; 0 for an empty row."""
    return sum_logprobs(logits, labels, mask) / mask.sum(-1).clamp(min=1)


def load_balancing_loss(shares: Tensor, chosen: Tensor, mask: Tensor | None = None) -> Tensor:
    """How unevenly a router spreads tokens: 1 when evenly, up to E when all go to one of E experts.

        loss = E / K * sum over experts e of (share of tokens sent to e) * (mean share that the router gives e)

    shares: [..., E], the router's, that add up to 1; chosen: [..., K], the experts of each token; mask: [...] bool,
    False for padding, which is not counted (0 where nothing is). Switch Transformers,
    https://arxiv.org/abs/2101.03961, equation 4; over K experts a token as in Mixtral's code.
    """
    E, K = shares.shape[-1], chosen.shape[-1]
    sent, shares = F.one_hot(chosen, E).float().sum(-2), shares.float()
    if mask is None:
        mask = torch.ones(shares.shape[:-1], dtype=torch.bool, device=shares.device)
    tokens = mask.sum().clamp(min=1)
    mean_sent, mean_share = (x[mask].sum(0) / tokens for x in (sent, shares))  # [E] each; mean_sent adds up to K
    return E / K * (mean_sent * mean_share).sum()


class PairLoss(NamedTuple):
    """A loss over pairs: `loss` [B] in nats, and `right` [B] bool, whether the chosen one scores higher."""

    loss: Tensor
    right: Tensor


def pairwise_loss(chosen: Tensor, rejected: Tensor) -> PairLoss:
    """Bradley and Terry's model of a choice, fitted: chosen, rejected [B] scores -> one loss a pair.

        loss = - log sigmoid(chosen - rejected)

    log 2 where the two score alike. Only differences count, so scores are free to drift together. As in InstructGPT
    (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, equation 1).
    """
    return PairLoss(-F.logsigmoid(chosen - rejected), chosen > rejected)


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


class ClippedLoss(NamedTuple):
    """`loss_sum` [] over the counted tokens, and `clipped_sum` [], on how many of them the clipped term decided."""

    loss_sum: Tensor
    clipped_sum: Tensor


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip: float
) -> ClippedLoss:
    """PPO's surrogate, to be made small: every argument [B, T], mask True where a token counts.

        ratio = exp(logprobs - old_logprobs)
        loss_sum = - sum over mask of min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A)

    A token's gradient vanishes once its probability has moved by `clip` in the direction that its advantage asks for.
    Schulman et al. 2017, https://arxiv.org/abs/1707.06347, equation 7.
    """
    ratio = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
    free, held = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    return ClippedLoss(-(torch.minimum(free, held) * mask).sum(), ((held < free) & mask).sum())


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float
) -> ClippedLoss:
    """The critic's squared error, with the step from its old values held to `clip`: every argument [B, T].

        held = old_values + clamp(values - old_values, -clip, clip)
        loss_sum = 1/2 sum over mask of max((values - returns)^2, (held - returns)^2)

    As PPO's reference code does it (Huang et al. 2022, The 37 Implementation Details of Proximal Policy Optimization,
    https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/, detail 9).
    """
    held = old_values + (values - old_values).clamp(-clip, clip)
    free_error, held_error = (values - returns) ** 2, (held - returns) ** 2
    return ClippedLoss(
        0.5 * (torch.maximum(free_error, held_error) * mask).sum(), ((held_error > free_error) & mask).sum()
    )


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the next token's distribution in nats: [B, T, V] -> [B, T]; log V where it is uniform.

    A token that a filter has forbidden (a logit of -inf) adds nothing: p log p goes to 0 with p.
    """
    logprobs = logits.float().log_softmax(-1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)
