"""SwiGLU by hand."""

import math

import torch

from labkit.model import Gated


def test_swiglu_by_hand():
    """Width 1, one unit, gate weight 2, up weight 3, down weight 5. At x = 1: silu(2) = 2 / (1 + e^-2), times
    3, times 5.
    """
    layer = Gated(hidden=1).build(width=1)
    with torch.no_grad():
        layer.gate_up.weight.copy_(torch.tensor([[2.0], [3.0]]))
        layer.down.weight.fill_(5.0)
    expected = 2 / (1 + math.exp(-2)) * 3 * 5
    torch.testing.assert_close(layer(torch.ones(1, 1)), torch.full((1, 1), expected))
