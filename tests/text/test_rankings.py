"""Ranked lists as rows: which row is whose answer, and what does not fit."""

import pytest

from labkit.errors import LabError
from labkit.text.chat import encode_prompt_and_answer
from labkit.text.pairs import PreferencePair, drop_long_pairs
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
from labkit.text.unpaired import count_contradictions, unpair, unpair_rankings
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


def test_an_answer_that_does_not_fit_is_left_out_alone(tokenizer):
    lengths = [[len(ids) for ids, _ in encode_ranking(tokenizer, one)] for one in RANKINGS]
    longest = max(map(max, lengths))
    assert drop_long_rankings(tokenizer, RANKINGS, longest) == RANKINGS
    scored = Ranking(TURNS, (*RANKINGS[0].answers, "No. " * 20), (4, 3, 2, 1))
    assert drop_long_rankings(tokenizer, [scored], longest) == [Ranking(TURNS, RANKINGS[0].answers, (4, 3, 2))]
    two = Ranking(TURNS, ("No.", "No. " * 20))
    assert drop_long_rankings(tokenizer, [two, *RANKINGS], longest) == RANKINGS
    with pytest.raises(LabError, match=f"{longest} tokens together; the longest that fits is 5"):
        RankingSource(tokenizer, RANKINGS, 3, 5).next_batch(None, 0)


def test_answers_one_by_one_are_each_once_and_the_middle_one_is_neither():
    found = [(one.completion, one.label) for one in unpair_rankings(RANKINGS)]
    assert found == [
        ("Anna is there.", True),
        ("No.", False),
        ("Two.", True),
        ("Two apples, I think.", False),
        ("Because.", True),
        ("I know.", True),
        ("Yes.", False),
        ("No.", False),
    ]
    pairs = [PreferencePair(TURNS, "Yes.", "No."), PreferencePair(TURNS, "No.", "Um.")]
    assert unpair_rankings(map(ranking_of_pair, pairs)) == unpair(pairs)
    assert count_contradictions(unpair(pairs)) == 1 and count_contradictions(unpair_rankings(RANKINGS)) == 0


def test_an_answer_in_many_pairs_is_encoded_once(tokenizer, monkeypatch):
    seen = []

    def encode(tokenizer, prompt, answer):
        seen.append(answer)
        return encode_prompt_and_answer(tokenizer, prompt, answer)

    monkeypatch.setattr("labkit.text.pairs.encode_prompt_and_answer", encode)
    assert len(drop_long_pairs(tokenizer, RANKINGS[2].pairs, 64)) == 6 and sorted(seen) == sorted(RANKINGS[2].answers)


def test_a_row_says_its_order():
    assert ranking_to_row(RANKINGS[1]) == {
        "prompt": [{"role": "user", "content": "How many apples?"}],
        "responses": ["Two.", "Two apples, I think."],
        "ranks": [1, 2],
    }
