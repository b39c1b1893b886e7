"""Taps that keep what passes, take heads out, or put other numbers in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

AblationKind = Literal["zero", "mean"]


class ActivationRecorder:
    """A tap that keeps what it is shown, by name, and changes nothing. name_suffixes: how the names end, one or
    several.
    """

    def __init__(self, name_suffixes: str | tuple[str, ...]):
        self.name_suffixes = name_suffixes
        self.activations: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name.endswith(self.name_suffixes):
            self.activations[name] = x.detach().float().cpu()
        return x


class HeadRef(NamedTuple):
    """A head of an attention, as taps name it: ("blocks.3.attention", 1)."""

    attention: str
    head: int


class AblateHeads:
    """A tap that takes heads out: row b of the batch does without heads[b], where that is not None.

    "zero": the head gives nothing. "mean": it gives each token the mean of what it gives to the row's tokens, so that
    what it always says stays, and what it says of this token goes.
    """

    def __init__(self, heads: Sequence[HeadRef | None], kind: AblationKind = "zero"):
        self.heads, self.kind = heads, kind

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if not name.endswith(".heads"):
            return x
        here = [(row, head.head) for row, head in enumerate(self.heads) if head and f"{head.attention}.heads" == name]
        if here:
            x = x.clone()  # [B, H, T, E]
        for row, head in here:
            x[row, head] = x[row, head].mean(0) if self.kind == "mean" else 0
        return x


class PatchActivations:
    """A tap that puts what was recorded of another text in the place of what passes: row b of the batch gets
    sites[b] = (name, index into one row of what passes there) of `activations`, whose tensors have a single row.
    """

    def __init__(self, activations: Mapping[str, Tensor], sites: Sequence[tuple[str, int]]):
        self.activations, self.sites = activations, sites

    def __call__(self, name: str, x: Tensor) -> Tensor:
        here = [(row, index) for row, (where, index) in enumerate(self.sites) if where == name]
        if here:
            x = x.clone()
        for row, index in here:
            x[row, index] = self.activations[name][0, index].to(x)
        return x
