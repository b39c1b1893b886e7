"""What stands on top of the stack and turns its vectors into answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LMHead(nn.Module):
    """x [B, T, D] -> logits [B, T, V].

    A tied head has no weights of its own and uses the token embedding [V, D]: Using the Output Embedding to
    Improve Language Models, https://arxiv.org/abs/1608.05859.
    """

    def __init__(self, width: int, vocabulary: int, tied: bool, norm_eps: float = 1e-6):
        super().__init__()
        self.weight = None if tied else nn.Parameter(torch.empty(vocabulary, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return F.linear(x, embedding if self.weight is None else self.weight)


class MaskedHead(LMHead):
    """The same with a layer before it and a bias, for tokens that were hidden: BERT's masked language model,
    https://arxiv.org/abs/1810.04805, 3.1.
    """

    def __init__(self, width: int, vocabulary: int, tied: bool, norm_eps: float = 1e-6):
        super().__init__(width, vocabulary, tied)
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return super().forward(self.norm(F.gelu(self.dense(x))), embedding) + self.bias


class ClassHead(nn.Module):
    """What a whole row is, by its first token's vector: x [B, T, D] -> [B, classes].

    tanh(W x + b), then a matrix: BERT's pooler; with two classes its next-sentence head
    (https://arxiv.org/abs/1810.04805, 3.1).
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.dense(x[:, 0])))


class ScalarHead(nn.Module):
    """x [B, T, D] -> one number per token, [B, T]; zero everywhere before training.

    Worked out in fp32 under autocast too: what is learnt from are small differences of such numbers.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * self.weight.float()).sum(-1) + self.bias.float()
