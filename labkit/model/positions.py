"""How a model knows the order of its tokens.

An encoding is a module with four hooks that do nothing by default; each paper's encoding overrides the one
that it changes, and attention calls all four without asking which encoding it has. Positions are tensors, so
rows of unequal length (padded on the left) and packed rows work alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labkit.errors import LabError


class PositionEncoding(nn.Module):
    """The hooks that a position encoding may override."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Change the embedded tokens x [B, T, D], once, before the first block."""
        return x

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Change queries q [B, T, H, E] and keys k [B, T, K, E] in every attention, before the keys are
        cached.
        """
        return q, k

    def bias(self, q: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """What to add to the attention scores, broadcast to [B, H, T, S], or None."""
        return None

    def value_term(self, weights: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """What to add to attention's output [B, H, T, E], given its weights [B, H, T, S], or None."""
        return None


class Places(NamedTuple):
    """An encoding with the positions of one call: queries [(B,) T] and keys [(B,) S], S counting cached keys
    too.
    """

    encoding: PositionEncoding
    queries: Tensor
    keys: Tensor

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoding.rotate(q, k, self.queries)

    def bias(self, q: Tensor) -> Tensor | None:
        return self.encoding.bias(q, self.queries, self.keys)

    def value_term(self, weights: Tensor) -> Tensor | None:
        return self.encoding.value_term(weights, self.queries, self.keys)


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: RoFormer, https://arxiv.org/abs/2104.09864."""

    base: float = 10_000.0

    def build(self, context: int, head_width: int) -> RotaryEncoding:
        if self.base <= 1:
            raise LabError(f"Rotary needs a base above 1, not {self.base}; 10000 is usual.")
        if head_width % 2:
            raise LabError(f"Rotary turns pairs of numbers, so the head width must be even, not {head_width}.")
        return RotaryEncoding(self.base, context, head_width)


class RotaryEncoding(PositionEncoding):
    """Turn the pair (x_i, x_{i + E/2}) at position p by the angle p · base^(-2i/E).

    A score q·k then depends on the distance between the two positions alone. Pairs are half a head apart, as
    in Llama's and Qwen's checkpoints; the paper pairs neighbours, which is the same up to the order of the
    numbers.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, base: float, context: int, head_width: int):
        super().__init__()
        frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
        angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)  # [context, E/2]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)  # [(B,) T, 1, E/2]
        return turn(q, cos, sin), turn(k, cos, sin)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of x [B, T, H, E]: (a, b) -> (a cos - b sin, b cos + a sin)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
