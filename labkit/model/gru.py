"""A plain recurrent mixer, to compare attention with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.machine import disable_compile
from labkit.model.context import ForwardContext
from labkit.model.mixers import AttentionConfig


@dataclass(frozen=True)
class GRU:
    """The gated recurrent unit: Learning Phrase Representations using RNN Encoder-Decoder,
    https://arxiv.org/abs/1406.1078.
    """

    def build(self, width: int, config: AttentionConfig, index: int, tap_prefix: str) -> GRUMixer:
        return GRUMixer(width, tap_prefix)


class GRUState(NamedTuple):
    """hidden [B, D]: what it remembers of all tokens before."""

    hidden: Tensor

    def select(self, rows: Tensor) -> GRUState:
        return GRUState(self.hidden[rows])


class GRUMixer(nn.Module):
    """h_t = (1 - z) n + z h_{t-1}, with z = σ(W_z x + U_z h), r = σ(W_r x + U_r h), n = tanh(W_n x + r U_n h).

    As in torch.nn.GRU, r is applied after the product, and the rows of both matrices are those of r, z and n.
    """

    def __init__(self, width: int, tap_prefix: str):
        super().__init__()
        self.width, self.tap_prefix = width, tap_prefix
        self.input = nn.Linear(width, 3 * width)
        self.hidden = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width, bias=False)

    def new_state(self, batch_size: int, max_length: int) -> GRUState:
        return GRUState(self.out.weight.new_zeros(batch_size, self.width))

    def forward(self, x: Tensor, state: GRUState | None, context: ForwardContext) -> tuple[Tensor, GRUState | None]:
        """x [B, T, D] -> [B, T, D], and the state after the T tokens."""
        hidden = (self.new_state(len(x), 0) if state is None else state).hidden
        with torch.autocast(x.device.type, enabled=False):  # many small steps: casting would cost more than it saves
            hiddens = self._run(x.float(), hidden.float(), context.token_mask, context.document_starts)
        y = self.out(context.tap(f"{self.tap_prefix}.hidden", hiddens.to(x.dtype)))
        return y, None if state is None else GRUState(hiddens[:, -1])

    @disable_compile  # a loop over all tokens, which would be unrolled
    def _run(self, x: Tensor, h: Tensor, token_mask: Tensor | None, fresh: Tensor | None) -> Tensor:
        """x [B, T, D], h [B, D] -> every h [B, T, D]; all in fp32."""
        gates = F.linear(x, self.input.weight.float(), self.input.bias.float())  # [B, T, 3 D]
        weight, bias = self.hidden.weight.float(), self.hidden.bias.float()
        hiddens = []
        for t in range(gates.shape[1]):
            if fresh is not None:
                h = h.masked_fill(fresh[:, t, None], 0)
            x_rz, x_n = gates[:, t].split((2 * self.width, self.width), dim=-1)
            h_rz, h_n = F.linear(h, weight, bias).split((2 * self.width, self.width), dim=-1)
            r, z = (x_rz + h_rz).sigmoid().chunk(2, dim=-1)
            n = torch.tanh(x_n + r * h_n)
            new = torch.lerp(n, h, z)
            h = new if token_mask is None else torch.where(token_mask[:, t, None], new, h)
            hiddens.append(h)
        return torch.stack(hiddens, 1)
