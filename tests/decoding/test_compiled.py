"""The compiled writer writes what generate writes."""

import pytest
import torch

from labkit import machine
from labkit.decoding import NoRepeatNgram, Temperature, TopK, generate
from labkit.decoding.compiled import CompiledGenerator, _one_row
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Transformer
from labkit.model.positions import NoPosition
from labkit.model.rwkv import RWKV

PROMPTS = [[5, 6, 7, 8, 9, 10], [1], [2, 3, 4], [11, 12], [7, 7, 7, 7]]


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(29, 96, 32, 2, 2, 1, feed_forward=Gated(32)))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("steps", [[Temperature(0)], [Temperature(1.2), TopK(9)]])
def test_the_steps_are_generates(model, steps, monkeypatch):
    """Without the compiler, over the edge of a bucket, with more prompts than rows, and with rows that end."""
    monkeypatch.setattr(machine, "has_compiler", lambda: False)
    machine.warn_once.cache_clear()  # it is said once a process

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    with pytest.warns(UserWarning, match="continues without torch.compile"):
        writer = CompiledGenerator(model, batch_size=2, filters=steps)
        free = writer.generate(PROMPTS, max_new_tokens=80, generator=seeded())
    assert free == generate(model, PROMPTS, filters=steps, max_new_tokens=80, generator=seeded())
    assert [seen for seen, _ in sorted(writer.graphs)] == [64, 128]
    stops = [free[0][3], free[2][1]]
    expected = generate(model, PROMPTS, filters=steps, max_new_tokens=80, stop_ids=stops, generator=seeded())
    assert writer.generate(PROMPTS, max_new_tokens=80, stop_ids=stops, generator=seeded()) == expected
    unequal = [[4] * 90, [1]]
    long = writer.generate(unequal, max_new_tokens=100, generator=seeded())
    assert long == generate(model, unequal, filters=steps, max_new_tokens=100, generator=seeded())
    assert [len(row) for row in long] == [6, 95]  # what the context has room for


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3])
def test_compiled_it_writes_the_same(model, rows):
    writer = CompiledGenerator(model, batch_size=rows, filters=[Temperature(1.2), TopK(9)])
    found = writer.generate(PROMPTS, max_new_tokens=20, generator=torch.Generator().manual_seed(3))
    plain = generate(
        model, PROMPTS, filters=writer.filters, max_new_tokens=20, generator=torch.Generator().manual_seed(3)
    )
    assert found == plain
    for parameter in model.parameters():  # trained on between two calls
        parameter.data *= 1.1
    other = torch.nn.Parameter(model.norm.weight.data * 0.7)  # and one of them replaced
    model.norm.weight = other
    assert writer.generate(PROMPTS, max_new_tokens=20, generator=torch.Generator().manual_seed(3)) == generate(
        model, PROMPTS, filters=writer.filters, max_new_tokens=20, generator=torch.Generator().manual_seed(3)
    )


def test_half_the_bytes_say_nearly_the_same(model, monkeypatch):
    monkeypatch.setattr(machine, "has_compiler", lambda: False)
    writer = CompiledGenerator(model, batch_size=1, filters=[Temperature(0)], bf16=True)
    assert writer.model.embedding.weight.dtype == torch.bfloat16 and model.embedding.weight.dtype == torch.float32
    with torch.no_grad():
        half, full = writer.model(torch.tensor([PROMPTS[0]])).float(), model(torch.tensor([PROMPTS[0]]))
    assert (half - full).norm() / full.norm() < 0.05
    assert len(writer.generate([PROMPTS[0]], max_new_tokens=5)[0]) == 5


def test_what_is_not_compiled_is_said(model):
    mixed = Transformer(ModelConfig(29, 96, 32, 2, 2, 2, mixer=RWKV((2, 2, 2, 2)), position=NoPosition()))
    for make, message in [
        (lambda: CompiledGenerator(mixed, batch_size=1), "Only decoder-only attention models"),
        (lambda: CompiledGenerator(model, batch_size=1, filters=[NoRepeatNgram(2)]), "that need the previous tokens"),
        (lambda: CompiledGenerator(model, batch_size=0), "not 0"),
        (lambda: CompiledGenerator(model, batch_size=1).generate([[]], max_new_tokens=3), "prompt is empty"),
        (
            lambda: CompiledGenerator(model, batch_size=1, max_length=9).generate([[1, 2]], max_new_tokens=8),
            "room for 9 .* may have 10",
        ),
    ]:
        with pytest.raises(LabError, match=message):
            make()


def test_one_row_is_a_sum_of_products():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(48, 33), torch.randn(1, 1, 48)
    assert torch.allclose(_one_row(x, layer.weight, layer.bias), layer(x), atol=1e-6)
    assert torch.allclose(_one_row(x, layer.weight), layer(x) - layer.bias, atol=1e-6)
    half = _one_row(x.bfloat16(), layer.weight.bfloat16())
    assert half.shape == (1, 1, 33) and half.dtype == torch.bfloat16
