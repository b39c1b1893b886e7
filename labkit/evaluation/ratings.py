"""How well a reward model predicts held-out ratings, and how often it ranks answers to a prompt as they were rated."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labkit.evaluation.held_out_loss import Metrics
from labkit.evaluation.preference_accuracy import length_baseline_accuracy, pairwise_accuracy
from labkit.losses import rating_loss
from labkit.machine import autocast
from labkit.model.reward_model import RewardModel
from labkit.text.pairs import PreferencePair
from labkit.text.ratings import RatingScale, differently_rated, rated_batch
from labkit.text.tokenizer import Tokenizer
from labkit.text.unpaired import RatedAnswer


def rating_metrics(
    reward_model: RewardModel,
    tokenizer: Tokenizer,
    answers: Sequence[RatedAnswer],
    scale: RatingScale,
    length: int,
    precision: str = "fp32",
) -> Metrics:
    """On held-out answers that fit in a row: the loss; the mean squared error of the predicted ratings beside their
    variance, which is the error of always predicting their mean; and the correlation, where ratings and scores differ.
    Where two answers to one prompt were rated differently: how often the higher one scores higher, and what length
    alone gives.
    """
    scores = score_answers(reward_model, tokenizer, answers, length, precision)
    ratings = torch.tensor([one.rating for one in answers])
    wanted = torch.tensor([scale.score(one.rating) for one in answers])
    measured = {
        "validation_loss": float(rating_loss(scores, wanted).mean()),
        "rating_error": float((scale.mean + scale.deviation * scores - ratings).square().mean()),
        "rating_variance": float(ratings.var(unbiased=False)),
        "answers": len(answers),
    }
    if len(ratings.unique()) > 1 and len(scores.unique()) > 1:
        measured["rating_correlation"] = float(torch.corrcoef(torch.stack((scores, ratings)))[0, 1])
    places = differently_rated(answers)
    if places:
        better, worse = torch.tensor(places).unbind(1)
        pairs = [PreferencePair(answers[i].prompt, answers[i].completion, answers[j].completion) for i, j in places]
        measured["pair_accuracy"] = pairwise_accuracy(scores[better] - scores[worse])
        measured |= {"length_accuracy": length_baseline_accuracy(pairs), "pairs": len(pairs)}
    return measured


@torch.no_grad()
def score_answers(
    reward_model: RewardModel,
    tokenizer: Tokenizer,
    answers: Sequence[RatedAnswer],
    length: int,
    precision: str = "fp32",
    batch_size: int = 64,
) -> torch.Tensor:
    """The reward model's scores of N answers, [N]."""
    was_training = reward_model.training
    reward_model.eval()
    device, found = reward_model.head.weight.device, []
    with autocast(device, precision):
        for start in range(0, len(answers), batch_size):
            batch = rated_batch(tokenizer, answers[start : start + batch_size], RatingScale(), length).to(device)
            found.append(reward_model.scores_at(batch.inputs, batch.mask, batch.last_token_index).float().cpu())
    reward_model.train(was_training)
    return torch.cat(found)
