"""Process supervision: the objective of a reward model that scores each step of an answer, and what the scores of the
steps say of the whole.

A step's score is the log-odds that it is correct. Scores are [B, T], and `step_ends` [B, T] is True at the last token
of each step; elsewhere a score says nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

StepAggregate = Literal["product", "min", "last"]
"""What is made of the probabilities that the steps are correct; see `answer_log_probability`."""


class StepLoss(NamedTuple):
    """Over all steps of a batch: `loss_sum` in nats, how many steps there are, and at how many of them the likelier
    label is the given one; each [].
    """

    loss_sum: Tensor
    step_count: Tensor
    correct_count: Tensor


def step_loss(scores: Tensor, correct: Tensor, step_ends: Tensor) -> StepLoss:
    """Cross-entropy of each step's label: scores [B, T], correct [B, T] bool, step_ends [B, T] bool -> sums.

        loss = - sum over steps of log sigmoid(score) where the step is correct, else log sigmoid(-score)

    Each step counts the same, in a long answer and in a short one. Uesato et al. 2022,
    https://arxiv.org/abs/2211.14275; Lightman et al. 2023, https://arxiv.org/abs/2305.20050. TRL's PRMTrainer trains
    two logits by the cross-entropy of a token classifier; their difference is this score.
    """
    found, labels = scores[step_ends].float(), correct[step_ends]
    loss = F.binary_cross_entropy_with_logits(found, labels.float(), reduction="sum")
    return StepLoss(loss, step_ends.sum(), ((found > 0) == labels).sum())


def step_log_probabilities(scores: Tensor, step_ends: Tensor) -> Tensor:
    """The log-probability that each step is correct, at its last token; 0 elsewhere: [B, T]."""
    return F.logsigmoid(scores.float()).masked_fill(~step_ends, 0.0)


def answer_log_probability(log_probabilities: Tensor, step_ends: Tensor, aggregate: StepAggregate) -> Tensor:
    """One number for each answer, of the log-probabilities of its steps: [B, T] -> [B].

        product   sum of the logs: the probability that every step is correct
        min       of the step that is the least likely correct
        last      of the last step

    Lightman et al. 2023 score a solution by the product; Math-Shepherd (Wang et al. 2023,
    https://arxiv.org/abs/2312.08935) by the minimum; Snell et al. 2024 (https://arxiv.org/abs/2408.03314) by the last
    step. A row without a step gives 0.
    """
    if aggregate == "product":
        return log_probabilities.masked_fill(~step_ends, 0.0).sum(-1)
    if aggregate == "min":
        return log_probabilities.masked_fill(~step_ends, 0.0).amin(-1)
    last = step_ends & (step_ends.flip(-1).cumsum(-1).flip(-1) == 1)
    return log_probabilities.masked_fill(~last, 0.0).sum(-1)
