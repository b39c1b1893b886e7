"""How rotary models are used beyond the context that they were trained with: frequencies that turn more slowly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from labkit.configs import Positive, Range, check_fields
from labkit.errors import LabError

Factor = Annotated[float, Range(1, 1e6)]
"""By how much a context is longer than the one that was trained with."""
Context = Annotated[int, Range(1, 2**24)]


class ScaledFrequencies(NamedTuple):
    """The frequency of each pair, (D/2,), and what queries and keys are each multiplied by."""

    frequencies: Tensor
    attention_factor: float


@dataclass(frozen=True)
class LinearScaling:
    """All positions closer together by `factor`: position interpolation, https://arxiv.org/abs/2306.15595."""

    factor: Factor

    shared_fields = ("factor",)
    older_kind = "Linear"

    def __post_init__(self) -> None:
        check_fields(self)

    def scale_frequencies(self, frequencies: Tensor, base: float) -> ScaledFrequencies:
        """The frequency of each pair, (D/2,) -> the scaled ones."""
        return ScaledFrequencies(frequencies / self.factor, 1.0)


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow turns slower by `factor`, fast ones as they were, those between in part: Llama 3.1's way.

    https://arxiv.org/abs/2407.21783 and Meta's reference code. original_max_position_embeddings: the context that was
    trained.
    """

    factor: Factor = 8.0
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Context = 8192

    shared_fields = ("factor", "original_max_position_embeddings")
    older_kind = "Llama3"
    older_names = {
        "low_freq_factor": "low",
        "high_freq_factor": "high",
        "original_max_position_embeddings": "original",
    }

    def __post_init__(self) -> None:
        check_fields(self)
        if self.high_freq_factor <= self.low_freq_factor:
            raise LabError(
                f"Llama3Scaling: high_freq_factor must be above low_freq_factor, {self.low_freq_factor:g}, "
                f"not {self.high_freq_factor:g}."
            )

    def scale_frequencies(self, frequencies: Tensor, base: float) -> ScaledFrequencies:
        """As `LinearScaling.scale_frequencies`."""
        turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)  # over the context that was trained
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return ScaledFrequencies(frequencies * (kept + (1 - kept) / self.factor), 1.0)


@dataclass(frozen=True)
class YaRN:
    """As `Llama3Scaling`, with a ramp over the pairs' numbers and sharper scores: https://arxiv.org/abs/2309.00071.

    beta_fast, beta_slow: the turns over the context that was trained between which the ramp stands. attention_factor:
    what queries and keys are multiplied by, the paper's 0.1 ln(factor) + 1 when None. truncate: the ramp begins and
    ends at whole pairs.
    """

    factor: Factor
    original_max_position_embeddings: Context
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    attention_factor: Positive | None = None
    truncate: bool = True

    shared_fields = ("factor", "original_max_position_embeddings")
    older_names = {"original_max_position_embeddings": "original", "beta_fast": "fast", "beta_slow": "slow"}

    def __post_init__(self) -> None:
        check_fields(self)
        if self.beta_fast <= self.beta_slow:
            raise LabError(f"YaRN: beta_fast must be above beta_slow, {self.beta_slow:g}, not {self.beta_fast:g}.")

    def scale_frequencies(self, frequencies: Tensor, base: float) -> ScaledFrequencies:
        """As `LinearScaling.scale_frequencies`."""
        half = len(frequencies)

        def pair(turns: float) -> float:
            """Which pair turns so often over the context that was trained."""
            return half * math.log(self.original_max_position_embeddings / (turns * 2 * math.pi)) / math.log(base)

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        slowed = ((torch.arange(half) - low) / (high - low if high != low else 1e-3)).clamp(0, 1)
        attention_factor = 0.1 * math.log(self.factor) + 1 if self.attention_factor is None else self.attention_factor
        return ScaledFrequencies(frequencies * (1 - slowed + slowed / self.factor), attention_factor)
