"""What stands on top of the stack and turns its vectors into answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenHead(nn.Module):
    """x [B, T, D] -> logits [B, T, V].

    A tied head has no weights of its own and uses the token embedding [V, D]: Using the Output Embedding to
    Improve Language Models, https://arxiv.org/abs/1608.05859.
    """

    def __init__(self, width: int, vocabulary: int, tied: bool):
        super().__init__()
        self.weight = None if tied else nn.Parameter(torch.empty(vocabulary, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return F.linear(x, embedding if self.weight is None else self.weight)


class ScalarHead(nn.Module):
    """x [B, T, D] -> one number a token, [B, T]; zero everywhere before training.

    Worked out in fp32 under autocast too: what is learnt from are small differences of such numbers.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * self.weight.float()).sum(-1) + self.bias.float()
