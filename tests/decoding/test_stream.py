"""Streaming gives what generate gives, one token at a time."""

import pytest
import torch

from labkit.decoding import Temperature, TopK, generate, stream
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(vocabulary=29, context=24, width=32, depth=2, heads=2, key_heads=1, feed_forward=Gated(hidden=32))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return model


@pytest.mark.parametrize("steps", [[Temperature(0)], [Temperature(0.8), TopK(5)], []])
@pytest.mark.parametrize("count", [1, 12, 100])
def test_equals_generate(model, steps, count):
    arguments = {"steps": steps, "max_new_tokens": count, "stop_ids": [3]}
    whole = generate(model, [[5, 6, 7]], generator=torch.Generator().manual_seed(1), **arguments)[0]
    assert list(stream(model, [5, 6, 7], generator=torch.Generator().manual_seed(1), **arguments)) == whole


def test_stops_before_a_stop_token(model):
    free = list(stream(model, [1], steps=[Temperature(0)], max_new_tokens=10))
    ended = list(stream(model, [1], steps=[Temperature(0)], max_new_tokens=10, stop_ids=[free[3]]))
    assert ended == free[: free.index(free[3])]


@pytest.mark.parametrize("length", [0, 24, 30])
def test_a_prompt_without_room_is_said_in_words(model, length):
    with pytest.raises(LabError, match="needs at least one, and fewer than 24"):
        list(stream(model, [1] * length, max_new_tokens=1))
