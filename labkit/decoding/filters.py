"""What changes a distribution before a token is drawn from it.

A filter is a frozen dataclass called on logits [B, V] that returns logits [B, V]; what it forbids becomes
-inf. Filters are applied in the order of the list: ``[Temperature(0.8), TopK(40), TopP(0.9)]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.errors import LabError

Filter = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Temperature:
    """Divide the logits by ``value``; 0 is the limit, greedy: only the likeliest token stays (the first of
    equals).
    """

    value: float

    def __post_init__(self) -> None:
        if not self.value >= 0:
            raise LabError(f"Temperature must be 0 (greedy) or more, not {self.value}.")

    def __call__(self, logits: Tensor) -> Tensor:
        if self.value == 0:
            return _keep_only(logits, logits.argmax(-1, keepdim=True))
        return logits / self.value


@dataclass(frozen=True)
class TopK:
    """Keep the ``k`` likeliest tokens: Hierarchical Neural Story Generation,
    https://arxiv.org/abs/1805.04833.
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise LabError(f"TopK must keep at least one token, not {self.k}.")

    def __call__(self, logits: Tensor) -> Tensor:
        if self.k >= logits.shape[-1]:
            return logits
        return _keep_only(logits, logits.topk(self.k, dim=-1).indices)


@dataclass(frozen=True)
class TopP:
    """Keep the smallest set of the likeliest tokens whose probability reaches ``p``: nucleus sampling, The
    Curious Case of Neural Text Degeneration, https://arxiv.org/abs/1904.09751.
    """

    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise LabError(f"TopP must be above 0 and at most 1, not {self.p}.")

    def __call__(self, logits: Tensor) -> Tensor:
        ordered, tokens = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # of all likelier tokens together
        ordered = ordered.masked_fill(before >= self.p, -torch.inf)
        return torch.empty_like(logits).scatter_(-1, tokens, ordered)


def _keep_only(logits: Tensor, tokens: Tensor) -> Tensor:
    """Forbid all but the given tokens [B, n]."""
    return torch.full_like(logits, -torch.inf).scatter_(-1, tokens, logits.gather(-1, tokens))
