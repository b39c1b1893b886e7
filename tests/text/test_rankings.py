"""Ranked lists as rows: which row is whose answer, and what does not fit."""

import pytest

from labkit.errors import LabError
from labkit.text.pairs import PreferencePair
from labkit.text.rankings import (
    Ranking,
    RankingSource,
    collate_rankings,
    drop_long_rankings,
    encode_ranking,
    ranking_of_pair,
    ranking_to_row,
)
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message

TURNS = (Message("user", "Where is Tom?"), Message("assistant", "Here."), Message("user", "And Anna?"))
RANKINGS = [
    Ranking(TURNS, ("Anna is there.", "There.", "No.")),
    Ranking((Message("user", "How many apples?"),), ("Two.", "Two apples, I think.")),
    Ranking((Message("user", "Why?"),), ("Because.", "I know.", "Yes.", "No.")),
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([f"{one.prompt[-1].content} {' '.join(one.answers)}" for one in RANKINGS] * 3)


def answers_of(tokenizer, batch) -> list[list[str]]:
    """What the batch says each list's answers are, best first."""
    said = [
        tokenizer.decode(labels[mask].tolist()).strip() for labels, mask in zip(batch.labels, batch.mask, strict=True)
    ]
    return [
        [said[row] for row in rows[present].tolist()] for rows, present in zip(batch.rows, batch.present, strict=True)
    ]


def test_each_answer_is_one_row_and_lists_are_put_together_again(tokenizer):
    batch = collate_rankings([encode_ranking(tokenizer, one) for one in RANKINGS], 64, tokenizer.pad_token_id)
    assert len(batch.inputs) == 9 and batch.rows.shape == (3, 4)
    assert answers_of(tokenizer, batch) == [list(one.answers) for one in RANKINGS]
    assert batch.rows.tolist() == [[0, 1, 2, 0], [3, 4, 0, 0], [5, 6, 7, 8]]
    ends = [inputs[end] for inputs, end in zip(batch.inputs, batch.last_token_index, strict=True)]
    assert ends == [tokenizer.eos_token_id] * 9


def test_a_pass_reads_each_list_once_and_processes_share_it(tokenizer):
    source = RankingSource(tokenizer, RANKINGS, 1, 64, seed=1)
    read = [answers_of(tokenizer, source.next_batch(None, step))[0] for step in range(6)]
    whole = sorted(list(one.answers) for one in RANKINGS)
    assert sorted(read[:3]) == sorted(read[3:]) == whole
    whole_batch = RankingSource(tokenizer, RANKINGS, 2, 64, seed=1).next_batch(None, 1)
    shares = [RankingSource(tokenizer, RANKINGS, 2, 64, seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    parts = [answers_of(tokenizer, share.next_batch(None, 1))[0] for share in shares]
    assert parts == answers_of(tokenizer, whole_batch)


def test_pairs_of_a_list_and_the_list_of_a_pair():
    pairs = [(pair.chosen, pair.rejected) for pair in RANKINGS[0].pairs]
    assert pairs == [("Anna is there.", "There."), ("Anna is there.", "No."), ("There.", "No.")]
    pair = PreferencePair(TURNS, "Yes.", "No.")
    assert ranking_of_pair(pair).pairs == [pair]


def test_a_list_fits_where_all_its_answers_do(tokenizer):
    lengths = [max(len(ids) for ids, _ in encode_ranking(tokenizer, one)) for one in RANKINGS]
    assert drop_long_rankings(tokenizer, RANKINGS, max(lengths)) == RANKINGS
    fitting = [one for one, length in zip(RANKINGS, lengths, strict=True) if length < max(lengths)]
    assert drop_long_rankings(tokenizer, RANKINGS, max(lengths) - 1) == fitting != []
    with pytest.raises(LabError, match=f"{max(lengths)} tokens together; the longest that fits is 5"):
        RankingSource(tokenizer, RANKINGS, 3, 5).next_batch(None, 0)


def test_a_row_says_its_order():
    assert ranking_to_row(RANKINGS[1]) == {
        "prompt": [{"role": "user", "content": "How many apples?"}],
        "responses": ["Two.", "Two apples, I think."],
        "ranks": [1, 2],
    }
