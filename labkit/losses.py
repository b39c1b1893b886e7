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
    loss_sum = F.cross_entropy(logits.float().view(-1, V), counted.view(-1), ignore_index=_IGNORED, reduction="sum")
    return TokenLoss(loss_sum, mask.sum())


def token_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax(logits)[labels], one number a token: [B, T, V], [B, T] -> [B, T], in fp32 nats."""
    return -F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)


def sum_logprobs(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each row's counted labels together: [B, T, V], [B, T], [B, T] -> [B] nats."""
    return (token_logprobs(logits, labels.masked_fill(~mask, 0)) * mask).sum(-1)


def mean_logprobs(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """`sum_logprobs` divided by each row's number of counted labels: [B] nats a token; 0 for an empty row."""
    return sum_logprobs(logits, labels, mask) / mask.sum(-1).clamp(min=1)
