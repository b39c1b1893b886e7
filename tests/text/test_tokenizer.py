"""The tokenizer: exact round trip, special tokens never read out of text, a stated rule for its size."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabError
from labkit.text.tokenizer import SMALLEST_VOCABULARY, SPECIAL_TOKENS, Tokenizer

WORDS = "Tom Anna the dog park kite red blue went to saw lost found was happy sad in a".split()
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(12)) + "." for i in range(400)]
TOKENIZER = Tokenizer.train(TEXTS)


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_exactly(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.encode_batch([text]) == [TOKENIZER.encode(text)]


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|reserved_0|>", "<|", "end", " ", "Tom"])).map("".join))
@settings(deadline=None)
def test_special_tokens_are_never_read_out_of_text(text):
    ids = TOKENIZER.encode(text)
    special = {TOKENIZER.backend.token_to_id(token) for token in SPECIAL_TOKENS}
    assert not special & set(ids)
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_are_shown_only_when_asked():
    ids = [TOKENIZER.bos_token_id, *TOKENIZER.encode(" Tom"), TOKENIZER.eos_token_id]
    assert TOKENIZER.decode(ids) == " Tom"
    assert TOKENIZER.decode(ids, keep_special_tokens=True) == "<|bos|> Tom<|end|>"
    assert TOKENIZER.token_text(TOKENIZER.pad_token_id) == "<|pad|>"


def test_the_default_size_is_a_pure_function_of_the_text_and_a_multiple_of_64():
    again = Tokenizer.train(iter(TEXTS))
    assert again.backend.to_str() == TOKENIZER.backend.to_str()
    assert TOKENIZER.vocab_size % 64 == 0
    assert len(TOKENIZER.backend.get_vocab()) == TOKENIZER.vocab_size


def test_the_default_saturates_at_one_token_a_word():
    more = Tokenizer.train(TEXTS * 5)
    assert more.vocab_size == TOKENIZER.vocab_size == 320
    assert all(len(TOKENIZER.encode(" " + word)) == 1 for word in WORDS)


def test_a_size_asked_for_is_given_exactly():
    assert Tokenizer.train(TEXTS, 270).vocab_size == 270


def test_a_size_that_the_text_cannot_give_is_refused_with_the_one_it_can():
    with pytest.raises(LabError, match=r"cannot give a vocabulary of 5000: .* end at (\d+)\.") as caught:
        Tokenizer.train(TEXTS, 5000)
    possible = int(str(caught.value).split("end at ")[1].split(".")[0])
    assert Tokenizer.train(TEXTS, possible).vocab_size == possible
    with pytest.raises(LabError, match=f"Ask for at most {possible}"):
        Tokenizer.train(TEXTS, possible + 1)


def test_a_size_below_the_bytes_is_refused():
    with pytest.raises(LabError, match=f"needs {SMALLEST_VOCABULARY} tokens or more"):
        Tokenizer.train(TEXTS, 200)


def test_half_a_character_is_refused_in_words():
    with pytest.raises(LabError, match="a broken character .* position 3"):
        TOKENIZER.encode("Tom\ud800")


def test_saved_and_loaded_it_is_the_same(tmp_path):
    TOKENIZER.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.vocab_size == TOKENIZER.vocab_size and loaded.stop_ids == TOKENIZER.stop_ids
        assert loaded.encode("Tom<|end|> saw") == TOKENIZER.encode("Tom<|end|> saw")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_a_missing_broken_or_foreign_tokenizer_is_refused_in_words(tmp_path):
    with pytest.raises(LabError, match="There is no tokenizer at"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(LabError, match="is not a tokenizer file"):
        Tokenizer.load(tmp_path)
    TOKENIZER.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<|user|>"]
    del data["model"]["vocab"]["<|user|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(LabError, match=r"has no <\|user\|>"):
        Tokenizer.load(tmp_path)


def test_bytes_of_a_character_are_shown_as_bytes():
    tokenizer = Tokenizer.train(["Tom is in the park."])
    assert [tokenizer.token_text(index) for index in tokenizer.encode("ä ")] == ["<C3>", "<A4>", " "]
