"""GRPO: group relative policy optimisation. The group of answers to a prompt is its own baseline.

Shao et al. 2024, https://arxiv.org/abs/2402.03300, 4.1: an answer's advantage is its score less the group's mean,
divided by the group's deviation; the ratio is clipped as PPO's, the KL (k3) stands in the loss, and each answer counts
the same, whatever its length.

Departures: groups of 4, not 64. With one step on each rollout, as there, every ratio is 1 and nothing is clipped;
`epochs` takes more. TRL's GRPOTrainer averages over tokens (DAPO's loss) and has no KL by default; `loss_mean` and `kl`
say that here.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.losses.policy import LossMean
from labkit.stages.clipping import ClippingChoice, ClipRatio
from labkit.stages.credit import (
    BaselineChoice,
    GroupMean,
    KLChoice,
    KLInLoss,
)
from labkit.stages.policy_gradient import PolicyGradient
from labkit.stages.registry import register


@register("grpo", "policy gradient that compares the answers to one prompt")
@dataclass(frozen=True)
class GRPO(PolicyGradient):
    """Train the fine-tuned model by GRPO."""

    baseline: BaselineChoice = GroupMean()
    kl: KLChoice = KLInLoss()
    clipping: ClippingChoice = ClipRatio()
    loss_mean: LossMean = "answer"

    title = "Group relative policy optimisation"
    short_title = "GRPO"
    about = (
        "The policy generates several answers to each prompt: a group. An answer becomes likelier if its reward is "
        "above the group's mean, and less likely if it is below, in proportion to the difference in standard "
        "deviations of the group. There is no value model."
    )
