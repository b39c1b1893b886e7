"""Dr. GRPO: GRPO without its two biases.

Liu et al. 2025, https://arxiv.org/abs/2503.20783, 3: dividing by the group's deviation weighs prompts that are nearly
always or nearly never answered well more, and averaging each answer over its own length weighs the tokens of long
wrong answers less. Both are left out: the sum over tokens is divided by a constant, max_new_tokens. No KL.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.losses.policy import LossMean
from labkit.stages.credit import (
    BaselineChoice,
    GroupMean,
    KLChoice,
    NoKL,
)
from labkit.stages.grpo import GRPO
from labkit.stages.registry import register


@register("drgrpo", "GRPO without division by the deviation and by the length")
@dataclass(frozen=True)
class DrGRPO(GRPO):
    """Train the fine-tuned model by Dr. GRPO."""

    baseline: BaselineChoice = GroupMean(divide_by_deviation=False)
    kl: KLChoice = NoKL()
    loss_mean: LossMean = "constant"

    title = "Dr. GRPO"
    short_title = "Dr. GRPO"
    about = (
        "The policy generates several answers to each prompt: a group. An answer becomes likelier if its reward is "
        "above the group's mean, and less likely if it is below, in proportion to the difference. Every token weighs "
        "the same. There is no value model and no KL penalty."
    )
