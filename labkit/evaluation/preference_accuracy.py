"""How often a reward model ranks held-out pairs as they were chosen, and as gold ranks them; how sure it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from labkit.evaluation.held_out_loss import Metrics
from labkit.losses import pairwise_loss
from labkit.machine import autocast
from labkit.model.reward_model import RewardModel
from labkit.preferences.annotate import AnnotatedPair
from labkit.text.pairs import PreferencePair, batch_indices_by_length, collate_pairs, encode_pairs
from labkit.text.tokenizer import Tokenizer


class PairScores(NamedTuple):
    """A reward model's scores of N pairs: of the chosen answers [N] and of the rejected ones [N]."""

    chosen: torch.Tensor
    rejected: torch.Tensor


@torch.no_grad()
def score_pairs(
    reward_model: RewardModel,
    tokenizer: Tokenizer,
    pairs: Sequence[PreferencePair],
    length: int,
    precision: str = "fp32",
    batch_size: int = 32,
) -> PairScores:
    """The reward model's scores of each pair's chosen and rejected answer."""
    encoded = encode_pairs(tokenizer, pairs)
    was_training = reward_model.training
    reward_model.eval()
    found, device = torch.zeros(len(encoded), 2), reward_model.head.weight.device
    with autocast(device, precision):
        for chosen in batch_indices_by_length(encoded, batch_size):
            batch = collate_pairs([encoded[i] for i in chosen], length, tokenizer.pad_token_id).to(device)
            found[chosen] = reward_model.scores_at(batch.inputs, batch.mask, batch.last_token_index).view(2, -1).T.cpu()
    reward_model.train(was_training)
    return PairScores(*found.unbind(1))


def ranking_metrics(
    reward_model: RewardModel,
    tokenizer: Tokenizer,
    pairs: Sequence[PreferencePair],
    length: int,
    precision: str = "fp32",
) -> Metrics:
    """On held-out pairs that fit in a row: the loss, the share ranked as chosen, what length alone gives, and how far
    the probabilities are off.
    """
    chosen, rejected = score_pairs(reward_model, tokenizer, pairs, length, precision)
    return {
        "validation_loss": float(pairwise_loss(chosen, rejected).loss.mean()),
        "pair_accuracy": pairwise_accuracy(chosen - rejected),
        "calibration_error": expected_calibration_error(calibration_bins(chosen - rejected)),
        "length_accuracy": length_baseline_accuracy(pairs),
        "pairs": len(pairs),
    }


def gold_ranking_metrics(
    reward_model: RewardModel,
    tokenizer: Tokenizer,
    annotated_pairs: Sequence[AnnotatedPair],
    length: int,
    precision: str = "fp32",
) -> Metrics:
    """On held-out choices of a world's annotator: how often the ranking is that of gold.

    noise_ceiling: how often the choices themselves are gold's, which no model of gold can pass when it is judged by
    these choices. Pairs that gold holds equal are left out of gold_accuracy and gold_length_accuracy, and both where
    gold holds all of them equal.
    """
    ceiling = {
        "noise_ceiling": pairwise_accuracy(torch.tensor([c.chosen_gold - c.rejected_gold for c in annotated_pairs]))
    }
    known = [choice for choice in annotated_pairs if choice.chosen_gold != choice.rejected_gold]
    if not known:
        return ceiling
    sign = np.array([np.sign(choice.chosen_gold - choice.rejected_gold) for choice in known])
    scores = score_pairs(reward_model, tokenizer, [choice.pair for choice in known], length, precision)
    better = [c.pair if c.chosen_gold > c.rejected_gold else _turned(c.pair) for c in known]
    return {
        "gold_accuracy": pairwise_accuracy((scores.chosen - scores.rejected) * torch.from_numpy(sign)),
        "gold_length_accuracy": length_baseline_accuracy(better),
        **ceiling,
    }


def pairwise_accuracy(margins: torch.Tensor) -> float:
    """Share of margins [N] above zero; a margin of zero is half."""
    return float(((margins > 0).float() + 0.5 * (margins == 0).float()).mean())


class CalibrationBin(NamedTuple):
    """Pairs of about the same margin. claimed: the mean probability that the model gives to the answer that it scores
    higher, sigmoid of the margin, from 0.5 to 1. observed: the share of these pairs in which that answer was chosen.
    """

    claimed: float
    observed: float
    pairs: int


def calibration_bins(
    margins: torch.Tensor, agreement: torch.Tensor | None = None, num_bins: int = 5
) -> list[CalibrationBin]:
    """A reward model's probabilities beside what happened, in bins of as many pairs each, the unsure ones first.

    margins [N]: the score of the chosen answer less that of the rejected one. agreement [N]: how likely the choice is
    the model's, from 0 to 1, where that is known; else 1 above a margin of zero, and half at zero. Bins without a pair
    are left out.
    """
    if agreement is None:
        agreement = (margins > 0).float() + 0.5 * (margins == 0).float()
    sure = margins.abs()
    bins = [each for each in sure.argsort(stable=True).tensor_split(num_bins) if len(each)]
    claimed = torch.sigmoid(sure)
    return [CalibrationBin(float(claimed[b].mean()), float(agreement[b].mean()), len(b)) for b in bins]


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """sum over the bins of their share of the pairs times |claimed - observed|: Guo et al. 2017,
    https://arxiv.org/abs/1706.04599, equation 3, but of bins with as many pairs each. By chance it is above zero for a
    calibrated model, too: with 100 pairs a bin by some 0.03.
    """
    pairs = sum(one.pairs for one in bins)
    return sum(one.pairs * abs(one.claimed - one.observed) for one in bins) / pairs


def length_baseline_accuracy(pairs: Sequence[PreferencePair]) -> float:
    """How often the longer answer was chosen, or the shorter one, whichever is more often; in characters."""
    longer = pairwise_accuracy(torch.tensor([float(len(pair.chosen) - len(pair.rejected)) for pair in pairs]))
    return max(longer, 1 - longer)


def _turned(pair: PreferencePair) -> PreferencePair:
    return pair._replace(chosen=pair.rejected, rejected=pair.chosen)
