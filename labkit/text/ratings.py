"""Batches of single answers with a rating each, on the scale that a reward model learns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.text.batch import batch_with_last_token_index
from labkit.text.chat import encode_prompt_and_answer
from labkit.text.sources import EpochSampler, StatelessSource
from labkit.text.tokenizer import Tokenizer
from labkit.text.unpaired import RatedAnswer, SingleAnswer


class RatingScale(NamedTuple):
    """A rating as a score: rating = mean + deviation · score."""

    mean: float = 0.0
    deviation: float = 1.0

    def score(self, rating: float) -> float:
        """The score that a model of these ratings should give."""
        return (rating - self.mean) / self.deviation


class RatedBatch(NamedTuple):
    """B answers, a row each. inputs, labels, mask [B, T], last_token_index [B] as in PairBatch. ratings [B]: as scores
    of the scale that is trained on.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    last_token_index: Tensor
    ratings: Tensor

    def to(self, device: torch.device) -> RatedBatch:
        return RatedBatch(*(tensor.to(device) for tensor in self))


class RatedSource(StatelessSource):
    """B = `batch_size` answers a step in rows of T = `length`, every pass shuffled anew by (seed, pass).

    Raises LabError where there is no answer, or one that does not fit in a row; `drop_long_answers` finds those that
    do.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        answers: Sequence[RatedAnswer],
        scale: RatingScale,
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.tokenizer, self.answers, self.scale, self.length = tokenizer, answers, scale, length
        self.order = EpochSampler(batch_size, seed, len(answers), rank, world_size)

    def next_batch(self, unused_model: Any, step: int) -> RatedBatch:
        chosen = [self.answers[index] for index in self.order.row_indices(step)]
        return rated_batch(self.tokenizer, chosen, self.scale, self.length)


def rated_batch(tokenizer: Tokenizer, answers: Sequence[RatedAnswer], scale: RatingScale, length: int) -> RatedBatch:
    """Answers -> rows of T = `length` at the most, which must have room for the longest."""
    encoded = [encode_prompt_and_answer(tokenizer, one.prompt, one.completion) for one in answers]
    batch, ends = batch_with_last_token_index(encoded, length, tokenizer.pad_token_id)
    return RatedBatch(*batch, ends, torch.tensor([scale.score(one.rating) for one in answers]))


def as_rated(answer: SingleAnswer) -> RatedAnswer:
    """An answer with a label as one with a rating: good is 1, bad is 0."""
    return RatedAnswer(answer.prompt, answer.completion, float(answer[2]))


def standard_scale(answers: Sequence[RatedAnswer]) -> RatingScale:
    """The scale on which the mean of these ratings is 0 and their standard deviation 1. Raises LabError where all are
    the same.
    """
    ratings = [one.rating for one in answers]
    deviation = statistics.pstdev(ratings)
    if not deviation or not math.isfinite(deviation):
        raise LabError(
            f"All {len(ratings)} training answers have the rating {ratings[0]:g}, so there is nothing to tell apart. "
            f"Give answers with different ratings."
        )
    return RatingScale(statistics.fmean(ratings), deviation)


def differently_rated(answers: Sequence[RatedAnswer]) -> list[tuple[int, int]]:
    """The places of each two answers to one prompt of which the first was rated higher than the second."""
    places: dict[object, list[int]] = {}
    for place, answer in enumerate(answers):
        places.setdefault(answer.prompt, []).append(place)
    found = []
    for same in places.values():
        for one, other in combinations(same, 2):
            if answers[one].rating != answers[other].rating:
                found.append((one, other) if answers[one].rating > answers[other].rating else (other, one))
    return found
