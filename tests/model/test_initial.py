"""Where a model's weights begin: their spread, and heads that look back."""

import dataclasses
import functools

import pytest
import torch

from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Rotary, Transformer
from labkit.model.positions import Learned, NoPosition
from labkit.model.reward_model import RewardModel
from labkit.model.rwkv import RWKV
from labkit.model.taps import no_tap

SHAPE = ModelConfig(
    vocabulary=300,
    context=64,
    width=64,
    depth=2,
    heads=2,
    key_value_heads=1,
    feed_forward=Gated(intermediate_size=40),
    position=Rotary(base=100.0),
)


def first_weights(config: ModelConfig) -> torch.Tensor:
    """The first block's attention weights [B, H, T, T] of an untrained model over random tokens."""
    torch.manual_seed(0)
    model = Transformer(config)
    seen = {}

    def tap(name, x):
        seen[name] = x
        return no_tap(name, x)

    with torch.no_grad():
        model(torch.randint(0, config.vocabulary, (4, 40)), tap=tap)
    return seen["blocks.0.attention.weights"]


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("distance", [1, 3])
def test_every_head_looks_back(distance, qk_norm):
    weights = first_weights(dataclasses.replace(SHAPE, previous_token_init=distance, qk_norm=qk_norm))
    by_distance = torch.stack([weights.diagonal(-d, -2, -1)[..., 10 - d :].mean(dim=(0, 2)) for d in range(10)])
    assert by_distance.argmax(dim=0).tolist() == [distance] * SHAPE.heads


def test_without_it_chance_decides():
    weights = first_weights(SHAPE)
    assert abs(weights.diagonal(-1, -2, -1)[..., 10:].mean() / weights.diagonal(-5, -2, -1)[..., 10:].mean() - 1) < 0.3


def test_matrices_that_write_are_drawn_smaller():
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    assert model.get_parameter("blocks.0.feed_forward.down.weight").std().item() == pytest.approx(
        0.02 / 4**0.5, rel=0.1
    )
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.get_parameter("norm.weight").eq(1).all()


def test_a_distance_outside_the_context_is_refused():
    with pytest.raises(LabError, match="from 0 to below the context of 64, not 64"):
        dataclasses.replace(SHAPE, previous_token_init=64)


def test_weights_under_the_names_that_they_had_before_are_loaded():
    """In a model of each kind whose parts were renamed, at any depth."""
    encoder = dataclasses.replace(
        SHAPE, causal=False, classes=2, token_types=2, position=Learned(), previous_token_init=0
    )
    recurrent = dataclasses.replace(SHAPE, mixer=RWKV(), key_value_heads=2, position=NoPosition(), token_shift=True)
    older = {
        "classifier_head.": "row_head.",
        "token_type_embedding.": "types.",
        "logprob_weight": "likelihood",
        ".mu": ".share",
        ".xi": ".removal",
        ".alpha": ".replacement",
        ".rho": ".bonus",
    }
    for model in (Transformer(encoder), Transformer(recurrent), RewardModel(Transformer(SHAPE))):
        saved = model.state_dict()
        before = [functools.reduce(lambda key, pair: key.replace(*pair), older.items(), key) for key in saved]
        assert before != list(saved)
        model.load_state_dict({key: torch.zeros_like(saved[now]) for key, now in zip(before, saved, strict=True)})
        assert all(not weight.any() for weight in model.parameters())
