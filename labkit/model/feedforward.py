"""What a block does to each token by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from labkit.errors import LabError


@dataclass(frozen=True)
class Gated:
    """The gated feed-forward SwiGLU: GLU Variants Improve Transformer, https://arxiv.org/abs/2002.05202.

    ``hidden`` is the number of gated units; 8/3 of the width gives as many parameters as a plain one of four
    widths.
    """

    hidden: int

    def build(self, width: int) -> GatedFeedForward:
        if self.hidden < 1:
            raise LabError(f"Gated needs at least one hidden unit, not {self.hidden}.")
        return GatedFeedForward(width, self.hidden)


class GatedFeedForward(nn.Module):
    """x [B, T, D] -> W_down (silu(W_gate x) * W_up x) [B, T, D].

    W_gate and W_up are one matrix, gate first: one large product is faster than two small ones.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
