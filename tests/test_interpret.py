"""What a model attends to, and that looking changes nothing."""

import base64

import pytest
import torch

from labkit.errors import LabError
from labkit.interpret import Recorder, attention, for_viewer
from labkit.model import Gated, ModelConfig, Transformer
from labkit.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def reader() -> tuple[Transformer, Tokenizer]:
    tokenizer = Tokenizer.train(["Tom ran to the park because he was late."] * 4)
    torch.manual_seed(0)
    shape = ModelConfig(tokenizer.size, 32, width=32, depth=3, heads=2, key_heads=1, feed_forward=Gated(64))
    return Transformer(shape).eval(), tokenizer


def test_every_row_is_a_distribution_over_the_tokens_so_far(reader):
    model, tokenizer = reader
    ids = tokenizer.encode("Tom ran to the park.")
    found = attention(model, tokenizer, ids)
    assert found.weights.shape == (3, 2, len(ids), len(ids)) and "".join(found.tokens) == "Tom ran to the park."
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(3, 2, len(ids)))
    assert found.weights.triu(1).abs().max() == 0
    assert found.weights[:, :, 0, 0].eq(1).all()


def test_the_weights_are_softmax_of_queries_and_keys_by_hand(reader):
    """Layer 0: q and k as the model makes them; one head, one row, in plain arithmetic."""
    model, tokenizer = reader
    ids = torch.tensor([tokenizer.encode("Tom ran to the park.")])
    recorder = Recorder((".query", ".key"))
    with torch.no_grad():
        model(ids, tap=recorder)
    q, k = recorder.kept["blocks.0.attention.query"][0, 1], recorder.kept["blocks.0.attention.key"][0, 0]
    scores = [float(q[3] @ k[j]) / 16**0.5 for j in range(4)]
    total = sum(torch.tensor(scores).exp())
    expected = torch.tensor(scores).exp() / total
    found = attention(model, tokenizer, ids[0].tolist()).weights[0, 1, 3, :4]
    torch.testing.assert_close(found, expected)


def test_looking_changes_nothing(reader):
    model, tokenizer = reader
    ids = torch.tensor([tokenizer.encode("Tom ran.")])
    with torch.no_grad():
        assert model(ids).equal(model(ids, tap=Recorder("weights")))
    model.train()
    attention(model, tokenizer, ids[0].tolist())
    assert model.training
    model.eval()


def test_the_viewer_gets_bytes_in_the_order_of_the_weights(reader):
    model, tokenizer = reader
    found = attention(model, tokenizer, tokenizer.encode("Tom ran."))
    data = for_viewer(found)
    T = len(found.tokens)
    read = torch.frombuffer(bytearray(base64.b64decode(data["weights"])), dtype=torch.uint8)
    read = read.view(data["layers"], data["heads"], T, T)
    assert data["tokens"] == found.tokens and (read.float() / 255 - found.weights).abs().max() <= 0.5 / 255 + 1e-6


def test_texts_that_cannot_be_looked_at(reader):
    model, tokenizer = reader
    for ids in ([], [5] * 33):
        with pytest.raises(LabError, match=f"A text of {len(ids)} tokens cannot be looked at: give 1 to 32"):
            attention(model, tokenizer, ids)
