"""Held-out loss, by hand on a model that knows nothing: every token then costs log V."""

import math

import pytest
import torch

from labkit.evaluation.held_out_loss import document_loss, loss_sum_and_count, mismatched_prompt_loss, text_loss
from labkit.model.transformer import ModelConfig, Transformer
from labkit.text.chat import texts_with_leading_space
from labkit.text.sources import document_batch
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, Message

STORY = "Tom saw a café. He was happy."


def conversation(number):
    turns = (Message("user", f"What has {number}?"), Message("assistant", f"Tom has {number}."))
    return Document("conversation", "", turns)


DOCUMENTS = [Document("story", STORY, conversation(1).messages), conversation(23)]
TOKENIZER = Tokenizer.train([piece for document in DOCUMENTS for piece in texts_with_leading_space(document)])
SIZE = TOKENIZER.vocab_size


def model(uniform=False):
    torch.manual_seed(0)
    made = Transformer(ModelConfig(vocabulary=SIZE, context=128, width=32, depth=1, heads=1, key_value_heads=1))
    if uniform:
        torch.nn.init.zeros_(made.embedding.weight)  # tied: every logit is 0
    return made


def test_a_model_that_knows_nothing_pays_log_v_for_each_token_of_a_text():
    metrics = text_loss(model(uniform=True), TOKENIZER, [STORY], 16, 4)
    count = len(TOKENIZER.encode(STORY))
    assert metrics["validation_tokens"] == count
    assert metrics["validation_loss"] == pytest.approx(math.log(SIZE))
    assert metrics["nats_per_character"] == pytest.approx(count * math.log(SIZE) / 29)
    assert metrics["bits_per_byte"] == pytest.approx(count * math.log2(SIZE) / 30)  # é has two bytes


def test_bytes_of_documents_are_those_of_their_words_alone():
    metrics = document_loss(model(uniform=True), TOKENIZER, DOCUMENTS, 127, 1)
    pieces = [STORY, "What has 1?", "Tom has 1.", "What has 23?", "Tom has 23."]
    size = sum(len(piece.encode()) for piece in pieces)
    bits = metrics["validation_tokens"] * math.log2(SIZE)
    assert metrics["bits_per_byte"] == pytest.approx(bits / size)


def test_bytes_of_answers_are_those_of_the_answers_alone():
    metrics = document_loss(model(uniform=True), TOKENIZER, DOCUMENTS, 127, 2, "answers")
    count = sum(len(TOKENIZER.encode(f" Tom has {number}.")) + 1 for number in (1, 23))
    assert metrics["validation_tokens"] == count
    assert metrics["bits_per_byte"] == pytest.approx(count * math.log2(SIZE) / len("Tom has 1.Tom has 23."))


def test_the_loss_does_not_depend_on_the_rows_of_a_batch_nor_on_padding():
    one = document_loss(model(), TOKENIZER, DOCUMENTS, 127, 1)
    assert document_loss(model(), TOKENIZER, DOCUMENTS, 100, 2) == pytest.approx(one, rel=1e-5)


def test_a_text_is_one_long_row_when_it_fits():
    made = model()
    whole = text_loss(made, TOKENIZER, [STORY], 128, 4)
    made.eval()
    ids = torch.tensor([[TOKENIZER.bos_token_id, *TOKENIZER.encode(STORY)]])
    with torch.no_grad():
        logprobs = made(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])
    assert whole["validation_loss"] == pytest.approx(-float(logprobs.mean()), rel=1e-4)


def test_measuring_leaves_the_model_as_it_was():
    made = model().train()
    loss_sum_and_count(made, [document_batch(TOKENIZER, DOCUMENTS, 64)])
    assert made.training and all(parameter.grad is None for parameter in made.parameters())
    assert loss_sum_and_count(made.eval(), []) == (0.0, 0) and not made.training


def test_answers_after_the_question_of_another(monkeypatch):
    seen: list[Document] = []

    def loss(model, tokenizer, documents, *rest):
        seen.extend(documents)
        return {"validation_loss": 2.5}

    monkeypatch.setattr("labkit.evaluation.held_out_loss.document_loss", loss)
    made, three = model(), [conversation(number) for number in (1, 2, 3)]
    longer = three[0]._replace(messages=three[0].messages * 2)
    assert mismatched_prompt_loss(made, TOKENIZER, [three[0], longer], 64, 2) == {}
    mixed = [*three[:2], longer, three[2]]
    assert mismatched_prompt_loss(made, TOKENIZER, mixed, 64, 2) == {"mismatched_question_loss": 2.5}
    assert [[message.content for message in document.messages] for document in seen] == [
        ["What has 2?", "Tom has 1."],
        ["What has 3?", "Tom has 2."],
        ["What has 1?", "Tom has 3."],
    ]
