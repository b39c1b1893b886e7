"""Objectives over tokens, and the log-probabilities that the others are made of."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORED = -100


class TokenLoss(NamedTuple):
    """A loss over tokens: `loss_sum` [] in nats and `label_count` [], how many labels it is summed over."""

    loss_sum: Tensor
    label_count: Tensor


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
    """log softmax(logits)[labels], one number per token: [B, T, V], [B, T] -> [B, T], in fp32 nats."""
    return -F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").reshape(labels.shape)


def sum_logprobs(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each row's counted labels together: [B, T, V], [B, T], [B, T] -> [B] nats."""
    return (token_logprobs(logits, labels.masked_fill(~mask, 0)) * mask).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the next token's distribution in nats: [B, T, V] -> [B, T]; log V where it is uniform.

    A token that a filter has forbidden (a logit of -inf) adds nothing: p log p goes to 0 with p.
    """
    logprobs = logits.float().log_softmax(-1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)
