"""Robust DPO: an unbiased estimate of DPO's loss from labels of which a known share is flipped.

    loss = ((1 - ε) loss_DPO(chosen, rejected) - ε loss_DPO(rejected, chosen)) / (1 - 2 ε)

Conservative DPO (`label_smoothing` of the stage dpo) adds the loss of the flipped pair and aims at a finite margin;
this one subtracts it: it undoes the flips in the mean, and pushes harder (Chowdhury, Kini and Natarajan 2024,
https://arxiv.org/abs/2403.00409).

Where this departs from the paper: the share is a setting, label_smoothing as TRL calls it, and not estimated. As in
TRL's DPOTrainer (0.24, loss_type robust), the loss of a pair has no lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.configs import Positive, check_fields
from labkit.losses import PreferenceLoss, robust_dpo_loss
from labkit.stages.preference_policy import FlippedShare, PairLogprobs, PairwisePolicy, held_out_loss_specs
from labkit.stages.registry import register


@register("robustdpo", "DPO for labels of which a known share is flipped")
@dataclass(frozen=True)
class RobustDPO(PairwisePolicy):
    """Train the fine-tuned model on preference pairs with noisy labels.

    Attributes:
        beta: how strongly the policy is kept close to the reference model; larger is closer.
        label_smoothing: share of the pairs that is labelled the wrong way round.
    """

    beta: Positive = 0.3
    label_smoothing: FlippedShare = 0.1

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Robust DPO"
    short_title = "robust DPO"
    about = (
        "Direct preference optimisation for noisy labels. A known share of the pairs is labelled the wrong way round, "
        "and the loss is corrected so that on average it is DPO's loss on the right labels."
    )
    metric_specs = held_out_loss_specs(
        "nats per pair",
        "DPO's loss on the held-out pairs, corrected for the share of their labels that is supposed to be flipped.",
    )

    def preference_loss(self, pairs: PairLogprobs) -> PreferenceLoss:
        return robust_dpo_loss(*pairs.sides, beta=self.beta, label_smoothing=self.label_smoothing)
