"""Direct preference optimisation: learn from preference pairs without a reward model and without sampling.

β times the log-ratio of an answer's probability under the policy and the reference model is the policy's implicit
reward; the reward model's loss is applied to it (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290).

Two settings change the loss, both off by default. label_smoothing supposes that this share of the labels is flipped
(conservative DPO, Mitchell 2023, https://ericmitchell.ai/cdpo.pdf). rpo_alpha adds the chosen answer's negative
log-likelihood, so that it does not become less likely while the rejected one falls faster (iterative reasoning
preference optimisation, Pang et al. 2024, https://arxiv.org/abs/2404.19733):

    loss = loss_DPO + rpo_alpha (- log policy(chosen) / tokens of chosen)

Where this departs from the papers and from TRL's DPOTrainer (0.24):

1. The negative log-likelihood is a mean over an answer's tokens and then over answers, as in the paper (TRL: over all
   tokens of a batch, so that long answers weigh more).
2. The loss on held-out pairs is of the preferences alone, without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from labkit.configs import NonNegative, Positive, check_fields
from labkit.losses import PreferenceLoss, dpo_loss
from labkit.stages.claims import Claim, Metrics
from labkit.stages.preference_policy import FlippedShare, PairLogprobs, PairwisePolicy
from labkit.stages.registry import register


@register("dpo", "direct preference optimisation, without a reward model")
@dataclass(frozen=True)
class DPO(PairwisePolicy):
    """Train the fine-tuned model on preference pairs.

    Attributes:
        beta: how strongly the policy is kept close to the reference model; larger is closer.
        label_smoothing: share of the pairs that is assumed to be labelled the wrong way round (conservative DPO).
        rpo_alpha: weight of the chosen answers' negative log-likelihood, which is added to the loss.
    """

    beta: Positive = 0.3
    label_smoothing: FlippedShare = 0.0
    rpo_alpha: NonNegative = 0.0

    added_fields = ("label_smoothing", "rpo_alpha")

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Direct preference optimisation"
    short_title = "DPO"
    about = (
        "The fine-tuned model is trained on the preference pairs directly: the chosen answer becomes likelier than the "
        "rejected one, each relative to its probability under the reference model, which is the model before this "
        "stage. There is no reward model and no sampling."
    )

    def preference_loss(self, pairs: PairLogprobs) -> PreferenceLoss:
        return dpo_loss(*pairs.sides, beta=self.beta, label_smoothing=self.label_smoothing)

    @property
    def nll_weight(self) -> float:
        return self.rpo_alpha

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its loss on held-out pairs is below log 2, which guessing gives."""
        if "validation_loss" not in metrics:
            return None
        return Claim(
            cls.kind, "loss on held-out pairs", metrics["validation_loss"], math.log(2), "chance: log 2", "lower"
        )
