"""The chat form, by rows written out and by agreement with transformers."""

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from labkit.errors import LabError
from labkit.text.chat import (
    decode_reply,
    encode_document,
    encode_documents,
    encode_messages,
    encode_prompt,
    encode_text_prompt,
    texts_with_leading_space,
)
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, Message

STORY = "Tom went to the park. He was happy."
TURNS = (
    Message("user", "Where is Tom?"),
    Message("assistant", "Tom is in the park."),
    Message("user", "How is he?"),
    Message("assistant", "He is happy."),
)
DOCUMENT = Document("story", STORY, TURNS)
TOKENIZER = Tokenizer.train([piece for piece in texts_with_leading_space(DOCUMENT)] * 40)


def show(ids):
    return TOKENIZER.decode(ids, keep_special_tokens=True)


def test_a_document_is_its_text_and_then_its_turns():
    ids, answer = encode_document(TOKENIZER, DOCUMENT, 200)
    assert show(ids) == (
        "<|bos|> Tom went to the park. He was happy.<|end|>"
        "<|user|> Where is Tom?<|end|><|assistant|> Tom is in the park.<|end|>"
        "<|user|> How is he?<|end|><|assistant|> He is happy.<|end|>"
    )
    assert show([index for index, counts in zip(ids, answer, strict=True) if counts]) == (
        " Tom is in the park.<|end|> He is happy.<|end|>"
    )


def test_an_answer_of_weight_0_is_context_and_not_learned():
    wrong, *more = TURNS[1:]
    unlearned = DOCUMENT._replace(messages=(TURNS[0], wrong._replace(weight=0), *more))
    ids, answer = encode_document(TOKENIZER, unlearned, 200)
    assert ids == encode_document(TOKENIZER, DOCUMENT, 200)[0]
    assert show([index for index, counts in zip(ids, answer, strict=True) if counts]) == " He is happy.<|end|>"


def test_only_whole_exchanges_that_fit_are_taken():
    whole, _ = encode_document(TOKENIZER, DOCUMENT, 200)
    one, _ = encode_document(TOKENIZER, DOCUMENT._replace(messages=TURNS[:2]), 200)
    assert encode_document(TOKENIZER, DOCUMENT, len(whole))[0] == whole
    assert encode_document(TOKENIZER, DOCUMENT, len(whole) - 1)[0] == one
    assert show(encode_document(TOKENIZER, DOCUMENT, len(one) - 1)[0]).endswith("He was happy.<|end|>")


def test_what_is_longer_than_the_row_by_itself_is_cut():
    whole, _ = encode_document(TOKENIZER, DOCUMENT, 200)
    assert encode_document(TOKENIZER, DOCUMENT, 4)[0] == whole[:4]
    conversation, mask = encode_document(TOKENIZER, DOCUMENT._replace(passage=""), 10)
    assert len(conversation) == len(mask) == 10
    assert show(conversation).startswith("<|bos|><|user|> Where is Tom?<|end|><|assistant|>")


def test_turns_after_the_last_answer_are_left_out():
    asked = DOCUMENT._replace(messages=TURNS[:3])
    assert show(encode_document(TOKENIZER, asked, 200)[0]).endswith(" Tom is in the park.<|end|>")


def test_many_documents_are_encoded_as_one_by_one():
    documents = [DOCUMENT, DOCUMENT._replace(passage=""), DOCUMENT._replace(messages=()), Document("", "", ())]
    rows = encode_documents(TOKENIZER, documents, 60)
    assert rows == [encode_document(TOKENIZER, document, 60) for document in documents]
    assert encode_documents(TOKENIZER, [], 60) == []


def test_a_prompt_ends_where_the_assistant_begins():
    assert show(encode_prompt(TOKENIZER, TURNS[:1])) == "<|bos|><|user|> Where is Tom?<|end|><|assistant|>"
    prompt = encode_prompt(TOKENIZER, TURNS[:1], passage=STORY)
    assert encode_document(TOKENIZER, DOCUMENT, 200)[0][: len(prompt)] == prompt


def test_a_reply_loses_its_first_space_alone():
    for text in ("Tom is here.", " indented", "", "two  spaces "):
        ids = encode_messages(TOKENIZER, [Message("assistant", text)])[2:-1]
        assert decode_reply(TOKENIZER, ids) == text


def test_an_opening():
    assert encode_text_prompt(TOKENIZER, "") == [TOKENIZER.bos_token_id]
    assert show(encode_text_prompt(TOKENIZER, "Tom went")) == "<|bos|> Tom went"


def test_an_unknown_role_is_refused():
    with pytest.raises(LabError, match="role 'tool'"):
        encode_prompt(TOKENIZER, [Message("tool", "x")])


@pytest.mark.parametrize("reader", [AutoTokenizer, PreTrainedTokenizerFast])
def test_transformers_gives_the_same_ids(tmp_path, reader):
    TOKENIZER.save(tmp_path)
    theirs = reader.from_pretrained(tmp_path)
    system = Message("system", "Be kind.\n\n  And brief. ")
    for turns in (TURNS, (system, *TURNS), (Message("user", ""),), (Message("user", " Ω\r\n\ttab "),)):
        rows = [message._asdict() for message in turns]
        prompt = theirs.apply_chat_template(rows, add_generation_prompt=True, return_dict=False)
        assert prompt == encode_prompt(TOKENIZER, turns)
        assert theirs.apply_chat_template(rows, return_dict=False) == encode_messages(TOKENIZER, turns)
    conversation = encode_document(TOKENIZER, DOCUMENT._replace(passage=""), 200)[0]
    assert theirs.apply_chat_template([m._asdict() for m in TURNS], return_dict=False) == conversation
    assert theirs.decode(conversation) == show(conversation)
    assert len(theirs) == TOKENIZER.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        TOKENIZER.bos_token_id,
        TOKENIZER.eos_token_id,
        TOKENIZER.pad_token_id,
    )
