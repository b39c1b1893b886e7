"""Objectives of a reward model over ranked lists and rated answers; two answers alone are in `preferences`.

A list is a row of `scores` [B, K], its answers from the best to the worst, and of `mask` [B, K], True where there is an
answer: lists of fewer than K answers end with False.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class RankingLoss(NamedTuple):
    """Of B lists: `loss_sum` [B] in nats and `term_count` [B], of how many terms it is the sum; `correct` [B], from 0
    to 1, the share of a list's pairs that the scores put in its order.
    """

    loss_sum: Tensor
    term_count: Tensor
    correct: Tensor


def all_pairs_loss(scores: Tensor, mask: Tensor) -> RankingLoss:
    """Bradley and Terry's model of each two answers of a list: scores, mask [B, K] -> one loss a list; term_count is 1.

        loss = - 1 / (K choose 2) sum_{i < j} log sigmoid(s_i - s_j)

    A list counts once however long it is, and its answers are read once, not once a pair: Ouyang et al. 2022,
    https://arxiv.org/abs/2203.02155, equation 1. Of two answers it is `pairwise_loss`; a list of one gives 0.
    """
    pairs, margins = _ordered_pairs(scores, mask)
    losses = -F.logsigmoid(margins).masked_fill(~pairs, 0.0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
    return RankingLoss(losses, (mask.sum(1) > 1).long(), ordered_pair_accuracy(scores, mask))


def plackett_luce_loss(scores: Tensor, mask: Tensor) -> RankingLoss:
    """Plackett and Luce's model of a ranking, in which the best is chosen of all, then the best of the rest, and so
    on: scores, mask [B, K] -> one loss a list; term_count is its choices, one less than its answers.

        loss = - sum_{i=1}^{K-1} log( exp(s_i) / sum_{j >= i} exp(s_j) )

    Of two answers it is `pairwise_loss`, of K that score alike log K!. Luce 1959, Individual Choice Behavior; Plackett
    1975, The Analysis of Permutations, https://doi.org/10.2307/2346567; as a loss it is ListMLE (Xia et al. 2008,
    https://doi.org/10.1145/1390156.1390306). DPO's authors extend their loss to it (https://arxiv.org/abs/2305.18290,
    appendix A.3).
    """
    rest = mask.unsqueeze(1) & _upper_triangle(scores, diagonal=0)  # [B, K, K]: at [i, j] whether j is left at choice i
    rest = rest | torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    of_the_rest = scores.unsqueeze(1).masked_fill(~rest, -torch.inf).logsumexp(-1) - scores
    return RankingLoss(
        of_the_rest.masked_fill(~mask, 0.0).sum(1), (mask.sum(1) - 1).clamp(min=0), ordered_pair_accuracy(scores, mask)
    )


def ordered_pair_accuracy(scores: Tensor, mask: Tensor) -> Tensor:
    """The share of a list's pairs whose better answer scores higher, [B]: scores, mask [B, K], the best first."""
    pairs, margins = _ordered_pairs(scores, mask)
    return (pairs & (margins > 0)).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def centering_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """What holds the level of the scores at zero, which choices leave open: scores, mask [B, K] -> one a list, [B].

        loss = 1 / (K choose 2) sum_{i < j} (s_i + s_j)^2

    For two answers it is that of Eisenstein et al. 2023 (https://arxiv.org/abs/2312.09244, equation 2), whose ensembles
    compare scores of different models. TRL weighs it by center_rewards_coefficient and recommends 0.01. A list of one
    gives 0.
    """
    known, answers = scores.masked_fill(~mask, 0.0), mask.sum(1)
    sums = (answers - 2) * known.square().sum(1) + known.sum(1).square()  # of (s_i + s_j)^2 over i < j
    return torch.where(answers > 1, sums, 0.0) / (answers * (answers - 1) / 2).clamp(min=1)


def rating_loss(scores: Tensor, ratings: Tensor) -> Tensor:
    """Regression on what a person said an answer is worth: scores, ratings [N] -> one loss an answer.

        loss = 1/2 (score - rating)^2

    Ratings may be numbers, or 1 and 0 for thumbs up and down. TAMER learns a model of a person's evaluative feedback
    so (Knox and Stone 2009, https://doi.org/10.1145/1597735.1597738). Unlike choices it fixes the level of the scores.
    """
    return 0.5 * (scores - ratings).square()


def _ordered_pairs(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """[B, K, K]: at [i, j] whether answer i stands above answer j in the list, and its score less that of j."""
    both = mask.unsqueeze(2) & mask.unsqueeze(1) & _upper_triangle(scores, diagonal=1)
    return both, scores.unsqueeze(2) - scores.unsqueeze(1)


def _upper_triangle(scores: Tensor, diagonal: int) -> Tensor:
    size = scores.shape[1]
    return torch.ones(size, size, dtype=torch.bool, device=scores.device).triu(diagonal)
