"""Streaming gives what generate gives, one token at a time."""

from typing import Any

import pytest
import torch

from labkit.decoding import (
    Filter,
    NoRepeatNgram,
    Temperature,
    TopK,
    TopP,
    generate,
    stream_tokens,
    trace_generation,
    trace_given_tokens,
)
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(
            vocabulary=29,
            context=24,
            width=32,
            depth=2,
            heads=2,
            key_value_heads=1,
            feed_forward=Gated(intermediate_size=32),
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return model


@pytest.mark.parametrize("steps", [[Temperature(0)], [Temperature(0.8), TopK(5)], []])
@pytest.mark.parametrize("count", [1, 12, 100])
def test_equals_generate(model, steps, count):
    arguments = {"filters": steps, "max_new_tokens": count, "stop_ids": [3]}
    whole = generate(model, [[5, 6, 7]], generator=torch.Generator().manual_seed(1), **arguments)[0]
    assert list(stream_tokens(model, [5, 6, 7], generator=torch.Generator().manual_seed(1), **arguments)) == whole


def test_stops_before_a_stop_token(model):
    free = list(stream_tokens(model, [1], filters=[Temperature(0)], max_new_tokens=10))
    ended = list(stream_tokens(model, [1], filters=[Temperature(0)], max_new_tokens=10, stop_ids=[free[3]]))
    assert ended == free[: free.index(free[3])]


@pytest.mark.parametrize("length", [0, 24, 30])
def test_a_prompt_without_room_is_said_in_words(model, length):
    with pytest.raises(LabError, match="is empty|no room for new tokens in a context of 24"):
        list(stream_tokens(model, [1] * length, max_new_tokens=1))


def test_a_trace_holds_what_was_weighed(model):
    seeded = torch.Generator().manual_seed(1)
    first, *rest = trace_generation(
        model, [5, 6, 7], filters=[Temperature(0.8), TopK(2)], max_new_tokens=5, top_n=4, generator=seeded
    )
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]]))[0, -1]
    best = logits.topk(4).indices.tolist()
    assert [candidate.token for candidate in first.candidates][:4] == best
    assert first.candidates[0].probability == pytest.approx(logits.softmax(-1)[best[0]].item())
    # of two tokens at temperature 0.8, by hand; the others are removed
    two = (logits[best[:2]] / 0.8).softmax(-1)
    assert [candidate.final_probability for candidate in first.candidates[:4]] == pytest.approx(
        [*two.tolist(), 0, 0], abs=1e-6
    )
    assert first.token == sorted(best[:2])[int(first.uniform_draw >= two[0 if best[0] < best[1] else 1].item())]
    assert len(rest) == 4 and not rest[-1].ended
    # Temperature removes nothing and moves what the sharper distribution gained; TopK removes all but two.
    whole, sharper = logits.softmax(-1), (logits / 0.8).softmax(-1)
    temperature, top_k = first.filter_effects
    assert (temperature.removed_mass, temperature.remaining_tokens, top_k.remaining_tokens) == (0, 29, 2)
    assert temperature.total_variation == pytest.approx((sharper - whole).clamp(min=0).sum().item(), abs=1e-5)
    assert top_k.removed_mass == pytest.approx(1 - sharper[best[:2]].sum().item(), abs=1e-5)
    assert top_k.total_variation == pytest.approx(top_k.removed_mass, abs=1e-5)
    assert first.candidates[0].filtered_probabilities[0] == pytest.approx(sharper[best[0]].item())
    entropies = [-(p * p.clamp(min=1e-30).log()).sum().item() for p in (whole, two)]
    assert first.entropy == pytest.approx(entropies, abs=1e-5)


def test_a_branch_begins_as_told_and_goes_on_with_the_numbers_of_its_places(model):
    def traced(begins: list[int]) -> list[Any]:
        seeded = torch.Generator().manual_seed(1)
        return list(
            trace_generation(model, [5, 6], filters=[TopK(9)], max_new_tokens=8, generator=seeded, forced_prefix=begins)
        )

    free = traced([])
    same = traced([step.token for step in free[:3]])
    assert [step.token for step in same] == [step.token for step in free]
    assert [step.uniform_draw for step in same] == [None] * 3 + [step.uniform_draw for step in free[3:]]
    other = (free[2].token + 1) % 29
    assert [step.token for step in traced([*(step.token for step in free[:2]), other])][:3][-1] == other


def test_a_text_is_read_back_as_it_was_traced(model):
    steps: list[Filter] = [Temperature(0.9), NoRepeatNgram(2), TopP(0.8)]
    free = list(
        trace_generation(model, [5, 6], filters=steps, max_new_tokens=8, generator=torch.Generator().manual_seed(1))
    )
    back = trace_given_tokens(model, [5, 6], [step.token for step in free], filters=steps)
    for one, other in zip(free, back, strict=True):
        assert other.uniform_draw is None and one.token == other.token
        assert [c.token for c in one.candidates] == [c.token for c in other.candidates]
        assert [c.final_probability for c in one.candidates] == pytest.approx(
            [c.final_probability for c in other.candidates], abs=1e-5
        )
        assert one.entropy == pytest.approx(other.entropy, abs=1e-4)
    assert trace_given_tokens(model, [5], []) == []


def test_a_trace_says_what_ended_it(model):
    free = list(stream_tokens(model, [1], filters=[Temperature(0)], max_new_tokens=10))
    *steps, last = trace_generation(model, [1], filters=[Temperature(0)], max_new_tokens=10, stop_ids=[free[3]])
    assert last.ended and last.token == free[3] and [step.token for step in steps] == free[: free.index(free[3])]


def test_one_seed_gives_every_strategy_the_same_numbers(model):
    drawn = [
        [step.uniform_draw for step in trace_generation(model, [1], filters=steps, max_new_tokens=6, generator=seeded)]
        for steps, seeded in (([], torch.Generator().manual_seed(2)), ([TopK(1)], torch.Generator().manual_seed(2)))
    ]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 6


def test_what_is_drawn_is_among_the_candidates(model):
    for step in trace_generation(model, [1], max_new_tokens=20, generator=torch.Generator().manual_seed(3), top_n=1):
        assert step.token in [candidate.token for candidate in step.candidates]
