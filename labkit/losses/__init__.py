"""Training objectives as pure functions of tensors.

A loss returns sums and counts, never a mean: sums can be added over micro-batches and over processes, and divided
once, so that the gradient is that of one big batch however it was cut up.

>>> import torch
>>> logits = torch.zeros(1, 2, 4)                      # uniform over V = 4: every label costs log 4
>>> labels, mask = torch.tensor([[3, 1]]), torch.tensor([[True, False]])
>>> loss = next_token_loss(logits, labels, mask)
>>> round(loss.loss_sum.item(), 4), loss.label_count.item()  # one label counts
(1.3863, 1)
"""

from labkit.losses.advantages import Advantages, discounted_returns, gae, last_token_mask, shaped_rewards, whiten
from labkit.losses.distillation import DistillationLoss, generalized_jsd_loss
from labkit.losses.experts import load_balancing_loss
from labkit.losses.policy import ClippedLoss, clipped_policy_loss, clipped_value_loss
from labkit.losses.preferences import (
    PairLoss,
    PreferenceLoss,
    dpo_loss,
    ipo_loss,
    odds_ratio_loss,
    pairwise_loss,
    robust_dpo_loss,
    simpo_loss,
)
from labkit.losses.rankings import (
    RankingLoss,
    all_pairs_loss,
    centering_loss,
    ordered_pair_accuracy,
    plackett_luce_loss,
    rating_loss,
)
from labkit.losses.steps import StepAggregate, StepLoss, answer_log_probability, step_log_probabilities, step_loss
from labkit.losses.tokens import TokenLoss, entropy, next_token_loss, sum_logprobs, token_logprobs
from labkit.losses.unpaired import KTOLoss, kto_kl, kto_loss

__all__ = [
    "Advantages",
    "ClippedLoss",
    "DistillationLoss",
    "KTOLoss",
    "PairLoss",
    "PreferenceLoss",
    "RankingLoss",
    "StepAggregate",
    "StepLoss",
    "TokenLoss",
    "all_pairs_loss",
    "answer_log_probability",
    "centering_loss",
    "clipped_policy_loss",
    "clipped_value_loss",
    "discounted_returns",
    "dpo_loss",
    "entropy",
    "gae",
    "generalized_jsd_loss",
    "ipo_loss",
    "kto_kl",
    "kto_loss",
    "last_token_mask",
    "load_balancing_loss",
    "next_token_loss",
    "odds_ratio_loss",
    "robust_dpo_loss",
    "ordered_pair_accuracy",
    "pairwise_loss",
    "plackett_luce_loss",
    "rating_loss",
    "shaped_rewards",
    "simpo_loss",
    "step_log_probabilities",
    "step_loss",
    "sum_logprobs",
    "token_logprobs",
    "whiten",
]
