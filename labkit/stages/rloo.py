"""RLOO: each answer is compared with the mean of the others to the same prompt.

Kool et al. 2019, Buy 4 REINFORCE samples, get a baseline for free; for language models Ahmadian et al. 2024,
https://arxiv.org/abs/2402.14740, equation 8. The whole answer is one action, and the KL penalty is taken off its score.

Departures: the sum over an answer's tokens is divided by max_new_tokens, which the learning rate takes up. TRL's
RLOOTrainer clips the ratio of whole answers; with one step a rollout, as here, nothing is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.losses.policy import LossMean
from labkit.stages.credit import BaselineChoice, LeaveOneOut
from labkit.stages.policy_gradient import PolicyGradient
from labkit.stages.registry import register


@register("rloo", "REINFORCE with a leave-one-out baseline")
@dataclass(frozen=True)
class RLOO(PolicyGradient):
    """Train the fine-tuned model by RLOO."""

    baseline: BaselineChoice = LeaveOneOut()
    loss_mean: LossMean = "constant"

    title = "REINFORCE leave-one-out"
    short_title = "RLOO"
    about = (
        "The policy generates several answers to each prompt. An answer becomes likelier if its reward is above the "
        "mean reward of the others, and less likely if it is below, in proportion to the difference. There is no value "
        "model."
    )
