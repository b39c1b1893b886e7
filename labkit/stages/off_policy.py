"""Off-policy correction: where answers are drawn from another distribution than the one that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.configs import Positive, check_fields
from labkit.losses.policy import kl_estimate, truncated_importance_weights
from labkit.machine import all_reduce_sum


@dataclass(frozen=True)
class NoCorrection:
    """Every token counts as if the trained policy had drawn it."""


@dataclass(frozen=True)
class TruncatedImportanceSampling:
    """Each token's loss is weighted by its probability in training over its probability in sampling, at most `cap`:
    see `losses.truncated_importance_weights`.

    Attributes:
        cap: largest weight.
    """

    cap: Positive = 2.0

    def __post_init__(self) -> None:
        check_fields(self)


OffPolicyCorrection = NoCorrection | TruncatedImportanceSampling


def importance_weights(
    correction: OffPolicyCorrection, logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor
) -> Tensor | tuple[()]:
    """The weight of each token, [B, T]; none where nothing is corrected."""
    if isinstance(correction, NoCorrection):
        return ()
    return truncated_importance_weights(logprobs, sampler_logprobs, mask, cap=correction.cap)


def mismatch_metrics(
    logprobs: Sequence[Tensor],
    sampler_logprobs: Sequence[Tensor],
    masks: Sequence[Tensor],
    weights: Sequence[Tensor | tuple[()]],
) -> dict[str, Tensor]:
    """Means over the tokens of a step's batches, [B, T] each, and of all processes: sampler_kl, the KL of the sampler
    from the trainer in nats per token (k1, which is right where the sampler never draws some tokens; k3 is not);
    importance_weight, where there are weights.
    """
    sums = torch.zeros(3, device=masks[0].device)
    for trainer, sampler, mask, weight in zip(logprobs, sampler_logprobs, masks, weights, strict=True):
        kl = kl_estimate(sampler, trainer, "k1")[mask].float().sum()
        weighed = weight[mask].float().sum() if isinstance(weight, Tensor) else torch.zeros_like(kl)
        sums += torch.stack([mask.sum().float(), kl, weighed])
    tokens, kl, weighed = all_reduce_sum(sums)
    found = {"sampler_kl": kl / tokens}
    return found | ({"importance_weight": weighed / tokens} if isinstance(weights[0], Tensor) else {})
