"""Odds ratio preference optimisation: fine-tuning on the chosen answers, and a penalty on the rejected ones.

    loss = - log p(chosen) - β log sigmoid(log odds(chosen) - log odds(rejected))
    p(answer) = exp(log policy(answer) / tokens of answer)      odds = p / (1 - p)

One stage does the work of fine-tuning and of alignment, without a reference model (Hong, Lee and Thorne 2024,
https://arxiv.org/abs/2403.07691, where β is λ).

Where this departs from the paper and from TRL's ORPOTrainer (0.24):

1. It begins with the fine-tuned model where a plan has one, like the other methods, so that they can be compared; the
   paper begins with the base model, as orpo@pretrain does.
2. The log-likelihood is of the answer alone, a mean over its tokens and then over answers (TRL: of prompt and answer,
   over all tokens of a batch).
3. The loss on held-out pairs is of the odds ratio alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.configs import Positive, check_fields
from labkit.losses import PreferenceLoss, odds_ratio_loss
from labkit.stages.preference_policy import PairLogprobs, PairwisePolicy, held_out_loss_specs
from labkit.stages.registry import register


@register("orpo", "odds ratio preference optimisation: fine-tuning with a penalty on rejected answers")
@dataclass(frozen=True)
class ORPO(PairwisePolicy):
    """Fine-tune on the chosen answers, and make the rejected ones less likely.

    Attributes:
        beta: weight of the odds-ratio loss, which compares the two answers.
    """

    beta: Positive = 0.1

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Odds ratio preference optimisation"
    short_title = "ORPO"
    about = (
        "Supervised fine-tuning on the chosen answers, with a second term in the loss that makes the odds of the "
        "chosen answer larger than those of the rejected one. There is no reference model: the fine-tuning itself "
        "keeps the chosen answers likely."
    )
    uses_reference = False
    metric_specs = held_out_loss_specs(
        "nats per pair", "The loss of the odds ratio on the held-out pairs, without the loss of fine-tuning."
    )

    def preference_loss(self, pairs: PairLogprobs) -> PreferenceLoss:
        chosen, rejected, *_ = pairs.per_token.sides
        return odds_ratio_loss(chosen, rejected, beta=self.beta)

    @property
    def nll_weight(self) -> float:
        return 1.0
