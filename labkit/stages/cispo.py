"""CISPO: the weight of a token's gradient is clipped, never its gradient.

MiniMax 2025, https://arxiv.org/abs/2506.13585, 3.1: PPO's clipping silences the rare tokens on which an answer turns;
here the ratio, as a weight without gradient, is bounded above, and every token goes on teaching.

Departures: the bound is 5, since the paper does not print its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.configs import Count
from labkit.losses.policy import LossMean
from labkit.stages.clipping import ClippingChoice, ClipWeight
from labkit.stages.credit import KLChoice, NoKL
from labkit.stages.grpo import GRPO
from labkit.stages.registry import register


@register("cispo", "GRPO that clips the weight of the gradient")
@dataclass(frozen=True)
class CISPO(GRPO):
    """Train the fine-tuned model by CISPO."""

    epochs: Count = 2
    kl: KLChoice = NoKL()
    clipping: ClippingChoice = ClipWeight()
    loss_mean: LossMean = "token"

    title = "CISPO"
    short_title = "CISPO"
    about = (
        "GRPO in which clipping takes the gradient from no token: the weight of each token's gradient is bounded "
        "instead. The loss is averaged over all tokens."
    )
