"""DAPO: GRPO with clip-higher and a mean over tokens.

Yu et al. 2025, https://arxiv.org/abs/2503.14476: the upper clip is wider than the lower (0.28 and 0.2), so that
unlikely tokens have room to grow; the loss is averaged over all tokens; no KL.

Departures: groups whose answers are all rewarded alike are kept, and teach nothing (dynamic sampling draws others in
their place); answers that were cut off are judged as they are (there is no overlong penalty); two steps on a rollout
(the paper: sixteen), without which no ratio would be clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.configs import Count
from labkit.losses.policy import LossMean
from labkit.stages.clipping import ClippingChoice, ClipRatio
from labkit.stages.credit import KLChoice, NoKL
from labkit.stages.grpo import GRPO
from labkit.stages.registry import register


@register("dapo", "GRPO with a wider upper clip and a mean over tokens")
@dataclass(frozen=True)
class DAPO(GRPO):
    """Train the fine-tuned model by DAPO's loss."""

    epochs: Count = 2
    kl: KLChoice = NoKL()
    clipping: ClippingChoice = ClipRatio(0.2, 0.28)
    loss_mean: LossMean = "token"

    title = "DAPO"
    short_title = "DAPO"
    about = (
        "GRPO with more room for unlikely tokens to become likelier (clip higher), the loss averaged over all tokens, "
        "and no KL penalty."
    )
