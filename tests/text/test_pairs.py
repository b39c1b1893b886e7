"""Pairs as rows: what counts, where an answer ends, and what does not fit."""

import numpy as np
import pytest

from labkit.errors import LabError
from labkit.text.pairs import PairSource, PreferencePair, collate_pairs, drop_long_pairs, encode_pair, pair_to_row
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message

TURNS = (Message("user", "Where is Tom?"), Message("assistant", "Here."), Message("user", "And Anna?"))
PAIRS = [
    PreferencePair(TURNS, "Anna is there.", "No."),
    PreferencePair((Message("user", "How many apples?"),), "Two.", "Two apples, I think."),
    PreferencePair((Message("user", "Why?"),), "Because.", "I know."),
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([f"{pair.prompt[0].content} {pair.chosen} {pair.rejected}" for pair in PAIRS] * 3)


def test_only_the_last_answer_counts(tokenizer):
    batch = collate_pairs([encode_pair(tokenizer, pair) for pair in PAIRS], 64, tokenizer.pad_token_id)
    said = [
        tokenizer.decode(labels[mask].tolist()).strip() for labels, mask in zip(batch.labels, batch.mask, strict=True)
    ]
    assert said == [pair.chosen for pair in PAIRS] + [pair.rejected for pair in PAIRS]


def test_a_row_ends_with_the_closing_token_as_an_input(tokenizer):
    batch = collate_pairs([encode_pair(tokenizer, pair) for pair in PAIRS], 64, tokenizer.pad_token_id)
    for inputs, labels, mask, end in zip(batch.inputs, batch.labels, batch.mask, batch.last_token_index, strict=True):
        assert inputs[end] == tokenizer.eos_token_id and labels[end - 1] == tokenizer.eos_token_id and mask[end - 1]
        assert not mask[end:].any() and (inputs[end + 1 :] == tokenizer.pad_token_id).all()


def test_the_reference_goes_with_its_row(tokenizer):
    reference = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    source = PairSource(tokenizer, PAIRS, 3, 64, seed=1, reference_logprobs=reference)
    plain = PairSource(tokenizer, PAIRS, 3, 64, seed=1)
    for step in range(3):
        batch = source.next_batch(None, step)
        assert batch.inputs.equal(plain.next_batch(None, step).inputs)
        chosen, rejected = batch.reference_logprobs.chunk(2)
        assert sorted(chosen.tolist()) == [1, 3, 5] and rejected.sub(chosen).tolist() == [1, 1, 1]


def test_rows_are_as_wide_as_they_need_to_be(tokenizer):
    longest = max(len(ids) for pair in PAIRS for ids, _ in encode_pair(tokenizer, pair))
    width = collate_pairs([encode_pair(tokenizer, pair) for pair in PAIRS], 500, tokenizer.pad_token_id).inputs.shape[1]
    assert longest <= width < longest + 16 and width % 16 == 0


def test_what_does_not_fit(tokenizer):
    lengths = [max(len(ids) for ids, _ in encode_pair(tokenizer, pair)) for pair in PAIRS]
    assert drop_long_pairs(tokenizer, PAIRS, max(lengths)) == PAIRS
    assert drop_long_pairs(tokenizer, PAIRS, sorted(lengths)[1]) == [
        p for p, n in zip(PAIRS, lengths, strict=True) if n < max(lengths)
    ]
    with pytest.raises(LabError, match=f"{max(lengths)} tokens together; the longest that fits is 5"):
        PairSource(tokenizer, PAIRS, 3, 5).next_batch(None, 0)


def test_columns_are_those_of_a_conversation():
    row = pair_to_row(PAIRS[1])
    assert row["prompt"] == [{"role": "user", "content": "How many apples?"}]
    assert row["rejected"] == [{"role": "assistant", "content": "Two apples, I think."}]
