"""Sources: pure functions of (seed, step), shards that add up to the whole, every held-out token exactly
once.
"""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

from labkit.errors import LabError
from labkit.text.chat import encode_documents
from labkit.text.sources import (
    DocumentSource,
    EpochSampler,
    PackedDocumentSource,
    RandomChunkSource,
    encode_corpus,
    pack_first_fit_decreasing,
    sliding_window_batches,
)
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, Message


def read(index):
    turns = (Message("user", f"Who has {index}?"), Message("assistant", f"Tom has {index}."))
    return Document("story", f"Tom has {index} kites." * (index % 3), turns)


TOKENIZER = Tokenizer.train([f" Tom has {index} kites. Who has {index}?" for index in range(200)])
IDS = np.arange(1000, dtype=np.uint16)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def make(kind, rank=0, world_size=1, seed=3):
    shard = {"rank": rank, "world_size": world_size}
    if kind == "documents":
        return DocumentSource(TOKENIZER, read, 6, 24, seed=seed, num_documents=20, **shard)
    if kind == "packed":
        return PackedDocumentSource(TOKENIZER, [read(index) for index in range(40)], 6, 48, "answers", seed, **shard)
    return RandomChunkSource(IDS, 6, 16, seed, **shard)


@pytest.mark.parametrize("kind", ["documents", "packed", "crops"])
def test_a_batch_is_a_pure_function_of_seed_and_step(kind):
    source = make(kind)
    batches = [source.next_batch(None, step) for step in range(9)]
    assert same(make(kind).next_batch(None, 7), batches[7])
    assert not same(batches[7], batches[8])
    assert not same(make(kind, seed=4).next_batch(None, 7), batches[7])
    assert source.state_dict() == {}
    source.load_state_dict({})
    with pytest.raises(LabError, match="keeps no state"):
        source.load_state_dict({"step": 3})


@pytest.mark.parametrize("kind", ["documents", "packed", "crops"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_shards_together_are_the_whole_batch(kind, world_size):
    whole = make(kind).next_batch(None, 5)
    shards = [make(kind, rank, world_size).next_batch(None, 5) for rank in range(world_size)]
    for rank, shard in enumerate(shards):
        assert same(shard, [tensor[rank::world_size] for tensor in whole])


def test_fewer_rows_than_processes_is_refused():
    for kind in ("documents", "crops"):
        with pytest.raises(LabError, match="6 rows cannot be split over 7 processes"):
            make(kind, 0, 7)


def test_endless_documents_are_read_in_order():
    seen = []

    def noted(index):
        seen.append(index)
        return read(index)

    source = DocumentSource(TOKENIZER, noted, batch_size=4, length=16)
    source.next_batch(None, 0)
    source.next_batch(None, 2)
    assert seen == [0, 1, 2, 3, 8, 9, 10, 11]


def test_each_pass_reads_each_document_once_in_its_own_order():
    order = EpochSampler(batch_size=4, seed=0, num_examples=10)
    indices = [index for step in range(5) for index in order.row_indices(step)]
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    assert indices[:10] != indices[10:]


def test_loss_on_answers_counts_their_words_and_end():
    everything = DocumentSource(TOKENIZER, read, 2, 32).next_batch(None, 0)
    answers = DocumentSource(TOKENIZER, read, 2, 32, loss_on="answers").next_batch(None, 0)
    assert torch.equal(everything.inputs, answers.inputs)
    shown = TOKENIZER.decode(answers.labels[1][answers.mask[1]].tolist(), keep_special_tokens=True)
    assert shown == " Tom has 1.<|end|>"
    assert torch.equal(everything.mask, everything.labels != TOKENIZER.pad_token_id)


def test_packing_by_hand():
    rows = [([1, 2], [True, False]), ([3], [True]), ([4, 5, 6], [False, False, True])]
    assert pack_first_fit_decreasing(rows, 4) == [([4, 5, 6, 3], [False, False, True, True]), ([1, 2], [True, False])]


def test_packing_loses_nothing_and_wastes_little():
    rows = encode_documents(TOKENIZER, [read(index) for index in range(100)], 200)
    packed = pack_first_fit_decreasing(rows, 200)
    assert Counter(chain(*(ids for ids, _ in packed))) == Counter(chain(*(ids for ids, _ in rows)))
    assert all(len(ids) == len(answer) <= 200 for ids, answer in packed)
    assert sum(len(ids) for ids, _ in packed) / (200 * len(packed)) > 0.9


def test_no_documents_is_refused():
    with pytest.raises(LabError, match="no documents"):
        PackedDocumentSource(TOKENIZER, [], 2, 8)
    with pytest.raises(LabError, match="no documents"):
        DocumentSource(TOKENIZER, read, 2, 8, num_documents=0)


def test_crops_are_pieces_of_the_text_and_reach_both_ends():
    source = RandomChunkSource(IDS[:20], batch_size=64, length=16)
    batch = source.next_batch(None, 0)
    starts = batch.inputs[:, 0]
    assert torch.equal(batch.inputs, starts[:, None] + torch.arange(16))
    assert torch.equal(batch.labels, batch.inputs + 1)
    assert batch.mask.all()
    assert set(starts.tolist()) == {0, 1, 2, 3}


def test_crops_from_bos():
    batch = RandomChunkSource(IDS[:17], batch_size=32, length=16, bos_token_id=999).next_batch(None, 0)
    assert (batch.inputs[:, 0] == 999).all()
    assert torch.equal(batch.inputs[:, 1:], batch.labels[:, :-1])
    assert set(batch.labels[:, 0].tolist()) == {0, 1}


def test_a_text_too_short_for_the_context_is_refused_with_both_numbers():
    with pytest.raises(LabError, match="20 tokens, but a context of 64 needs at least 65"):
        RandomChunkSource(IDS[:20], 4, 64)


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 50])
def test_windows_count_each_token_exactly_once_with_what_came_before(stride, count):
    counted = []
    for batch in sliding_window_batches(IDS[:count], 3, 8, stride=stride, bos_token_id=999):
        assert batch.inputs.shape[0] <= 3 and batch.inputs.shape[1] == 8
        for inputs, labels, mask in zip(*batch, strict=True):
            counted += labels[mask].tolist()
            for position in mask.nonzero().flatten().tolist():
                label = int(labels[position])
                expected = 999 if position == 0 else label - 1
                assert int(inputs[position]) == expected
                assert position >= min(label, 8 - stride)
    assert counted == list(range(count))


def test_a_stride_beyond_the_context_is_refused():
    with pytest.raises(LabError, match="between 1 and the context, 8"):
        list(sliding_window_batches(IDS, 3, 8, stride=9, bos_token_id=0))


def test_a_corpus_is_encoded_exactly_and_mapped_from_its_file(tmp_path):
    texts = ["Tom has 3 kites.", "Who has 5?"]
    ids = encode_corpus(TOKENIZER, texts)
    assert ids.dtype == np.uint16
    assert TOKENIZER.decode(ids.tolist(), keep_special_tokens=True) == "Tom has 3 kites.<|end|>Who has 5?<|end|>"
    mapped = encode_corpus(TOKENIZER, texts, tmp_path)
    assert isinstance(mapped, np.memmap) and mapped.tolist() == ids.tolist()
    assert RandomChunkSource(mapped, 2, 8).next_batch(None, 0).inputs.shape == (2, 8)
    assert TOKENIZER.decode(encode_corpus(TOKENIZER, texts[:1]).tolist(), keep_special_tokens=True) == texts[0]


def test_an_empty_corpus_is_refused():
    for texts in ([], ["", ""]):
        with pytest.raises(LabError, match="no text"):
            encode_corpus(TOKENIZER, texts)
