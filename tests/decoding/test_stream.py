"""Streaming gives what generate gives, one token at a time."""

import pytest
import torch

from labkit.decoding import Temperature, TopK, generate, stream, trace
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
    with pytest.raises(LabError, match="is empty|no room in a context of 24"):
        list(stream(model, [1] * length, max_new_tokens=1))


def test_a_trace_holds_what_was_weighed(model):
    seeded = torch.Generator().manual_seed(1)
    first, *rest = trace(
        model, [5, 6, 7], steps=[Temperature(0.8), TopK(2)], max_new_tokens=5, leading=4, generator=seeded
    )
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]]))[0, -1]
    best = logits.topk(4).indices.tolist()
    assert [candidate.token for candidate in first.candidates][:4] == best
    assert first.candidates[0].probability == pytest.approx(logits.softmax(-1)[best[0]].item())
    # of two tokens at temperature 0.8, by hand; the others are removed
    two = (logits[best[:2]] / 0.8).softmax(-1)
    assert [candidate.kept for candidate in first.candidates[:4]] == pytest.approx([*two.tolist(), 0, 0], abs=1e-6)
    assert first.token == sorted(best[:2])[int(first.drawn >= two[0 if best[0] < best[1] else 1].item())]
    assert len(rest) == 4 and not rest[-1].ended


def test_a_trace_says_what_ended_it(model):
    free = list(stream(model, [1], steps=[Temperature(0)], max_new_tokens=10))
    *steps, last = trace(model, [1], steps=[Temperature(0)], max_new_tokens=10, stop_ids=[free[3]])
    assert last.ended and last.token == free[3] and [step.token for step in steps] == free[: free.index(free[3])]


def test_one_seed_gives_every_strategy_the_same_numbers(model):
    drawn = [
        [step.drawn for step in trace(model, [1], steps=steps, max_new_tokens=6, generator=seeded)]
        for steps, seeded in (([], torch.Generator().manual_seed(2)), ([TopK(1)], torch.Generator().manual_seed(2)))
    ]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 6


def test_what_is_drawn_is_among_the_candidates(model):
    for step in trace(model, [1], max_new_tokens=20, generator=torch.Generator().manual_seed(3), leading=1):
        assert step.token in [candidate.token for candidate in step.candidates]
