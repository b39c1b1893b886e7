"""REINFORCE++: PPO without a critic; the advantages of a whole step are normalised together.

Hu 2025, https://arxiv.org/abs/2501.03262: the KL penalty stands in each token's reward (k1), a token's advantage is the
sum of the rewards from it on, normalised over the global batch, and the ratio is clipped as PPO's.

Departures: advantages are divided by the deviation with N; rewards are not clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.configs import Count
from labkit.stages.clipping import ClippingChoice, ClipRatio
from labkit.stages.policy_gradient import PolicyGradient
from labkit.stages.registry import register


@register("reinforcepp", "REINFORCE++: PPO's clipping, no critic, advantages normalised over the batch")
@dataclass(frozen=True)
class REINFORCEPlusPlus(PolicyGradient):
    """Train the fine-tuned model by REINFORCE++."""

    num_generations: Count = 1
    epochs: Count = 2
    whiten: bool = True
    clipping: ClippingChoice = ClipRatio()

    title = "REINFORCE++"
    short_title = "REINFORCE++"
    about = (
        "The policy generates one answer to each prompt. An answer's advantage is its reward less its KL penalty, "
        "normalised over all answers of a step; the step is clipped as in PPO. There is no value model."
    )
