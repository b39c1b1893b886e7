"""How far one rollout may move the policy: choices of the surrogate loss, by what they clip."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from labkit.configs import NonNegative, Positive, check_fields
from labkit.losses.policy import Surrogate, clipped_ratio_surrogate, clipped_weight_surrogate, unclipped_surrogate


@dataclass(frozen=True)
class NoClip:
    """Nothing is clipped: see `losses.unclipped_surrogate`."""

    def __call__(self, ratio: Tensor, logprobs: Tensor, advantages: Tensor) -> Surrogate:
        return unclipped_surrogate(ratio, advantages)


@dataclass(frozen=True)
class ClipRatio:
    """The ratio of new to old probability is clipped, as in PPO: see `losses.clipped_ratio_surrogate`.

    Attributes:
        low: the lower bound is 1 - low.
        high: the upper bound is 1 + high.
    """

    low: NonNegative = 0.2
    high: Positive = 0.2

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, ratio: Tensor, logprobs: Tensor, advantages: Tensor) -> Surrogate:
        return clipped_ratio_surrogate(ratio, advantages, low=self.low, high=self.high)


@dataclass(frozen=True)
class ClipWeight:
    """The weight of a token's gradient, which is the ratio, is bounded, as in CISPO: see
    `losses.clipped_weight_surrogate`.

    Attributes:
        max_weight: the bound.
    """

    max_weight: Positive = 5.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, ratio: Tensor, logprobs: Tensor, advantages: Tensor) -> Surrogate:
        return clipped_weight_surrogate(ratio, logprobs, advantages, max_weight=self.max_weight)


ClippingChoice = NoClip | ClipRatio | ClipWeight
