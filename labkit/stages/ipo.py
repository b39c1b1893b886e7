"""Identity preference optimisation: DPO with a squared loss, whose best margin is finite.

    loss = (log policy(chosen)/policy(rejected) - log reference(chosen)/reference(rejected) - 1 / (2 β))²

DPO's loss falls forever as the margin grows, so that on few pairs, or on pairs of which one answer always wins, nothing
holds the policy back. Here a margin of 1 / (2 β) is right, and a larger one costs again (Azar et al. 2023,
https://arxiv.org/abs/2310.12036, equation 17, where β is τ).

Where this departs from the paper: a log-probability is the mean over an answer's tokens, as in TRL's DPOTrainer (0.24,
loss_type ipo), not the sum; so the margin is in nats a token, and one β serves answers of all lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.configs import Positive, check_fields
from labkit.losses import PreferenceLoss, ipo_loss
from labkit.stages.preference_policy import PairLogprobs, PairwisePolicy, held_out_loss_specs
from labkit.stages.registry import register


@register("ipo", "identity preference optimisation: DPO towards a finite margin")
@dataclass(frozen=True)
class IPO(PairwisePolicy):
    """Train the fine-tuned model on preference pairs to a margin of 1 / (2 beta) nats per token.

    Attributes:
        beta: how strongly the policy is kept close to the reference model; larger is closer.
    """

    beta: Positive = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Identity preference optimisation"
    short_title = "IPO"
    about = (
        "Like DPO, with a squared loss: the chosen answer is to become likelier than the rejected one by a certain "
        "margin, relative to the reference model, and no further. A pair that has reached the margin changes the model "
        "no more."
    )
    loss_unit = "squared nats per pair"
    metric_specs = held_out_loss_specs(
        "squared nats per pair",
        "Mean over the held-out pairs of the squared distance from the margin that is aimed at.",
    )

    def preference_loss(self, pairs: PairLogprobs) -> PreferenceLoss:
        return ipo_loss(*pairs.per_token.sides, beta=self.beta)
