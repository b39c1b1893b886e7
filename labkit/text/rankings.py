"""Ranked lists: a prompt and several answers to it, from the best to the worst.

    {"prompt": [{"role": "user", "content": …}], "responses": ["the best", "the second", …], "ranks": [1, 2, …]}

For other rows that are read see `labkit.text.reading.rankings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.text.batch import batch_with_last_token_index
from labkit.text.chat import Row, encode_prompt_and_answer
from labkit.text.pairs import PreferencePair
from labkit.text.sources import EpochSampler, StatelessSource
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message


class Ranking(NamedTuple):
    """`prompt` ends with the user's turn; `answers` are two or more, the assistant's words alone, the best first.
    scores: of the answers, the highest first; () where nobody gave any.
    """

    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    scores: tuple[float, ...] = ()

    @property
    def pairs(self) -> list[PreferencePair]:
        """Each two of the answers, the better one chosen: K (K - 1) / 2 of K answers. Their margin is how far apart
        they score.
        """
        scores = self.scores or (0.0,) * len(self.answers)
        both = combinations(zip(self.answers, scores, strict=True), 2)
        return [PreferencePair(self.prompt, better, worse, high - low) for (better, high), (worse, low) in both]

    def select(self, places: Sequence[int]) -> Ranking:
        """The same with these of its answers alone."""
        answers = tuple(self.answers[place] for place in places)
        return Ranking(self.prompt, answers, tuple(self.scores[place] for place in places if self.scores))


def ranking_of_pair(pair: PreferencePair) -> Ranking:
    """A list of two, without a score."""
    return Ranking(pair.prompt, (pair.chosen, pair.rejected))


class RankingBatch(NamedTuple):
    """B lists of up to K answers as N rows, a row an answer; the answers of a list stand together, the best first.

    inputs, labels, mask [N, T], last_token_index [N] as in PairBatch. rows [B, K]: which row each answer of a list is;
    present [B, K]: whether the list has that many answers, where not `rows` is 0.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    last_token_index: Tensor
    rows: Tensor
    present: Tensor

    def to(self, device: torch.device) -> RankingBatch:
        return RankingBatch(*(tensor.to(device) for tensor in self))


class RankingSource(StatelessSource):
    """B = `batch_size` lists a step in rows of T = `length`, every pass shuffled anew by (seed, pass). All answers of a
    list are in one batch, so that each is read once a pass, and not once for each answer that it is compared with.

    Raises LabError where there is no list, or an answer that does not fit in a row; `drop_long_rankings` finds the
    lists that do.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        rankings: Sequence[Ranking],
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.encoded = [encode_ranking(tokenizer, ranking) for ranking in rankings]
        self.length, self.pad = length, tokenizer.pad_token_id
        self.order = EpochSampler(batch_size, seed, len(rankings), rank, world_size)

    def next_batch(self, unused_model: Any, step: int) -> RankingBatch:
        return collate_rankings([self.encoded[i] for i in self.order.row_indices(step)], self.length, self.pad)


def encode_ranking(tokenizer: Tokenizer, ranking: Ranking) -> list[Row]:
    """A list -> a row for each answer, whole: the ids of prompt and answer, and which belong to the answer."""
    return [encode_prompt_and_answer(tokenizer, ranking.prompt, answer) for answer in ranking.answers]


def collate_rankings(encoded_rankings: Sequence[Sequence[Row]], length: int, pad_token_id: int) -> RankingBatch:
    """Encoded lists -> rows of T = `length`, which must have room for the longest."""
    batch, ends = batch_with_last_token_index([row for rows in encoded_rankings for row in rows], length, pad_token_id)
    sizes = torch.tensor([len(rows) for rows in encoded_rankings])
    place = torch.arange(int(sizes.max()))
    present = place < sizes.unsqueeze(1)
    rows = (sizes.cumsum(0) - sizes).unsqueeze(1) + place
    return RankingBatch(*batch, ends, rows * present, present)


def drop_long_rankings(tokenizer: Tokenizer, rankings: Sequence[Ranking], length: int) -> list[Ranking]:
    """The lists without the answers that do not fit, with their prompt, in a row of `length` tokens; and without those
    lists of which fewer than two answers are left.
    """
    fitting = []
    for ranking in rankings:
        rows = encode_ranking(tokenizer, ranking)
        places = [place for place, (ids, _) in enumerate(rows) if len(ids) <= length]
        if len(places) > 1:
            fitting.append(ranking.select(places))
    return fitting


def ranking_to_row(ranking: Ranking) -> dict[str, Any]:
    """A list as a row of the file described above."""
    ranks = list(range(1, len(ranking.answers) + 1))
    prompt = [message.to_dict() for message in ranking.prompt]
    scores = {"scores": list(ranking.scores)} if ranking.scores else {}
    return {"prompt": prompt, "responses": list(ranking.answers), "ranks": ranks, **scores}
