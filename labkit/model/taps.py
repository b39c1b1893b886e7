"""A tap is called as x = tap(name, x) where x is made: it may keep x, or return another tensor in its place."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Tap = Callable[[str, Tensor], Tensor]


def no_tap(name: str, x: Tensor) -> Tensor:
    """The tap that looks at nothing."""
    return x
