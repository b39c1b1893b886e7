"""REINFORCE: the gradient of the expected reward, less a KL penalty in it.

    gradient = mean of (reward - baseline) gradient of log policy(answer)

Williams 1992, Simple statistical gradient-following algorithms for connectionist reinforcement learning; for language
models Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740, 3.1), who find that it needs no clipping and no critic
where the policy begins as a fine-tuned model. The baseline is the moving mean of the rewards, their "REINFORCE with
baseline". Every setting of policy gradients can be changed here: this is the page to try one axis at a time.

Departures: a token is credited with the rewards from it on, so that the KL penalty of tokens before it is no noise;
the sum over an answer's tokens is divided by max_new_tokens, which the learning rate takes up.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.losses.policy import LossMean
from labkit.stages.credit import BaselineChoice, MovingMean
from labkit.stages.policy_gradient import PolicyGradient
from labkit.stages.registry import register


@register("reinforce", "policy gradient with a moving mean as baseline")
@dataclass(frozen=True)
class REINFORCE(PolicyGradient):
    """Train the fine-tuned model by REINFORCE."""

    baseline: BaselineChoice = MovingMean()
    loss_mean: LossMean = "constant"

    title = "REINFORCE"
    short_title = "REINFORCE"
    about = (
        "The policy generates answers. An answer becomes likelier if its reward is above the average reward of earlier "
        "answers, and less likely if it is below, in proportion to the difference. There is no value model and no "
        "clipping."
    )
