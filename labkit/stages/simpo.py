"""Simple preference optimisation: DPO without a reference model, on the log-probability a token.

    reward = β log policy(answer) / tokens of answer      loss = - log sigmoid(reward(chosen) - reward(rejected) - γ)

The reward is what greedy decoding goes by, and no longer answer wins by its length alone; γ is the margin that is asked
for (Meng, Xia and Chen 2024, https://arxiv.org/abs/2405.14734). Nothing but a small learning rate and few steps keeps
the policy where it was.

As in the paper, and as in TRL's CPOTrainer (0.24, loss_type simpo) with cpo_alpha 0, no negative log-likelihood is
added (TRL's default adds it). TRL's simpo_gamma is gamma here.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.configs import NonNegative, Positive, check_fields
from labkit.losses import PreferenceLoss, simpo_loss
from labkit.stages.preference_policy import PairLogprobs, PairwisePolicy, held_out_loss_specs
from labkit.stages.registry import register


@register("simpo", "simple preference optimisation, without a reference model")
@dataclass(frozen=True)
class SimPO(PairwisePolicy):
    """Train the fine-tuned model on preference pairs without a reference model.

    Attributes:
        beta: the reward of an answer is beta times its log-probability per token.
        gamma: margin by which the chosen answer's reward is to exceed the rejected one's.
    """

    beta: Positive = 2.0
    gamma: NonNegative = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Simple preference optimisation"
    short_title = "SimPO"
    about = (
        "The chosen answer becomes likelier than the rejected one, by a margin. What is compared is the "
        "log-probability per token, so length does not count. There is no reference model, so only a small learning "
        "rate keeps the model close to where it began."
    )
    uses_reference = False
    relative_lr = 0.5  # at the whole of DPO's, right answers fell by 6 points at the smoke preset
    metric_specs = held_out_loss_specs(
        "nats per pair",
        "Mean of −log sigmoid of the difference of the two rewards, less the margin, on held-out pairs.",
    )

    def preference_loss(self, pairs: PairLogprobs) -> PreferenceLoss:
        chosen, rejected, *_ = pairs.per_token.sides
        return simpo_loss(chosen, rejected, beta=self.beta, gamma=self.gamma)
