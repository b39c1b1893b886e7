"""Long text in pieces: where it is cut, that the ids are those of one call, and what a tokenizer is trained on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from labkit.errors import LabError
from labkit.hub.tokenizer_files import load_tokenizer
from labkit.text.pieces import (
    MAX_WORD_CHARACTERS,
    is_word_boundary,
    sample_evenly_spaced_pieces,
    split_into_pieces,
    split_long_pretokens,
)
from labkit.text.tokenizer import Tokenizer
from tests.published import sentencepiece

SIGNS = st.one_of(
    st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\t'srelldm1²数あ한é.,;<|>\u3000\u2028\u200b\u0301")
)
PROSE = "Tom's in the park, isn't he?  We'll see; 數字 123 在哪裡？他說：「公園」。\n\n\tNo — he'd 4 kites 🙂.\n"
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
TOKENIZER = Tokenizer.train([PROSE * 40])


@given(st.text(SIGNS, min_size=2, max_size=40))
@settings(deadline=None, max_examples=300)
def test_a_boundary_is_where_the_pre_tokenizer_begins_a_word(text):
    begins = {start for _, (start, _) in GPT2.pre_tokenize_str(text)}
    assert {at for at in range(1, len(text)) if is_word_boundary(text, at)} <= begins


@given(st.lists(st.text(SIGNS, max_size=20), max_size=12), st.integers(60, 200))
@settings(deadline=None, max_examples=60)
def test_pieces_have_the_ids_of_one_call_and_do_not_depend_on_the_blocks(blocks, size):
    blocks = [f"{block} a " for block in blocks * 3] + [PROSE * 8]  # somewhere in `size` signs a word ends
    text = "".join(blocks)
    cut = list(split_into_pieces([text], TOKENIZER._same_apart, size))
    assert "".join(cut) == text and len(cut) > 1
    assert list(split_into_pieces(blocks, TOKENIZER._same_apart, size)) == cut
    whole = TOKENIZER.backend.encode(text, add_special_tokens=False).ids
    assert [index for piece in cut for index in TOKENIZER.backend.encode(piece, add_special_tokens=False).ids] == whole


def test_a_long_text_has_the_ids_of_one_call():
    text = PROSE * 3000
    assert TOKENIZER.encode(text) == TOKENIZER.backend.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.encode_batch(["Tom", text, "", text[:70_000]])[1:3] == [TOKENIZER.encode(text), []]


def test_a_text_without_boundaries_is_cut_at_a_bounded_length():
    text = "数" * (3 * MAX_WORD_CHARACTERS)
    assert list(map(len, split_into_pieces([text], piece_characters=MAX_WORD_CHARACTERS))) == [MAX_WORD_CHARACTERS] * 3
    assert TOKENIZER.decode(TOKENIZER.encode("数" * 200_000)) == "数" * 200_000


@pytest.mark.parametrize("legacy", [True, False])
def test_sentencepiece_has_the_ids_of_one_call_in_pieces(tmp_path, legacy):
    """A piece from inside is encoded without the blank that is put before a text."""
    tokenizer = load_tokenizer(sentencepiece(tmp_path, legacy), 10**6, say=lambda line: None)
    for text in (PROSE * 900, "Where is Tom? In the park. " * 3500, "  blanks   and\n\n\nlines <|end|> </s> " * 2500):
        chunks = list(tokenizer.encode_blocks([text]))
        assert len(chunks) > 1 and max(map(len, chunks)) < 200_000
        assert [index for ids in chunks for index in ids] == tokenizer.backend.encode(
            text, add_special_tokens=False
        ).ids


def test_a_tokenizer_that_begins_each_call_with_a_blank_gives_the_ids_of_one_call():
    """As Llama 2's does: the blank is not put into the middle of a text."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("▁", "merged_with_next"), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"], show_progress=False)
    backend.train_from_iterator([PROSE * 40], trainer)
    tokenizer = Tokenizer(backend, {"eos_token": "</s>"})
    text = PROSE * 2000
    assert tokenizer.encode(text) == backend.encode(text, add_special_tokens=False).ids


def test_half_a_character_is_refused_in_a_long_text_too():
    for text in ("ab\ud83d", PROSE * 2000 + "\ud83d"):
        with pytest.raises(LabError, match="a broken character"):
            TOKENIZER.encode(text)


def test_the_trainer_sees_no_endless_word():
    text = "数" * 1000 + " 123" + "=" * 600 + "\n" + PROSE
    assert "".join(split_long_pretokens([text])) == text
    assert max(map(len, split_long_pretokens(["数" * 1000]))) == 256
    assert list(split_long_pretokens([PROSE])) == [PROSE]


def test_a_long_text_is_sampled_evenly_for_the_tokenizer():
    texts = [chr(97 + part) * 70_000 + " " for part in range(20)]
    assert "".join(sample_evenly_spaced_pieces(texts)) == "".join(texts)
    taken = "".join(sample_evenly_spaced_pieces(texts, 700_000))
    assert 600_000 < len(taken) < 800_000
    assert (
        len(set(taken)) > 10
        and Tokenizer.train(sample_evenly_spaced_pieces([PROSE * 40])).vocab_size == TOKENIZER.vocab_size
    )
