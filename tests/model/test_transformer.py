"""The Transformer against transformers' models, against itself with a cache, and its config."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from labkit.bench.llama import as_transformers
from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Rotary, Transformer
from labkit.model.mixers import KVCache

SMALL = ModelConfig(
    vocabulary=61,
    context=48,
    width=48,
    depth=2,
    heads=4,
    key_value_heads=2,
    feed_forward=Gated(intermediate_size=40),
    qk_norm=True,
)


def build(config: ModelConfig = SMALL, seed: int = 0) -> Transformer:
    """A model with weights large enough that every part matters."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    return model.eval()


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("key_value_heads,tied,head_dim", [(2, True, None), (4, False, None), (1, True, 16)])
def test_equals_transformers(qk_norm, key_value_heads, tied, head_dim):
    config = ModelConfig(
        vocabulary=61,
        context=48,
        width=48,
        depth=2,
        heads=4,
        key_value_heads=key_value_heads,
        head_dim=head_dim,
        feed_forward=Gated(intermediate_size=40),
        position=Rotary(base=500.0),
        qk_norm=qk_norm,
        tied=tied,
    )
    model = build(config)
    tokens = torch.randint(0, 61, (3, 20))
    with torch.no_grad():
        theirs = as_transformers(model).eval()(tokens).logits
        torch.testing.assert_close(model(tokens), theirs, atol=1e-4, rtol=1e-4)


def test_no_token_sees_a_later_one():
    model, tokens = build(), torch.randint(0, 61, (2, 12))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 61
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 4, 2]])
def test_cached_equals_uncached(pieces):
    model, tokens = build(), torch.randint(0, 61, (2, 12))
    state = model.new_state(2, 12)
    cached = torch.cat([model(piece, state=state) for piece in tokens.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(cached, model(tokens), atol=1e-5, rtol=1e-5)


def test_left_padding_changes_nothing():
    model, tokens = build(), torch.randint(0, 61, (1, 9))
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), tokens], dim=1)
    mask = torch.arange(13)[None] >= 4
    positions = (torch.arange(13)[None] - 4).clamp(min=0)
    torch.testing.assert_close(model(padded, positions, mask)[:, 4:], model(tokens), atol=1e-5, rtol=1e-5)


def test_a_full_state_is_refused():
    model = build()
    state = model.new_state(1, 3)
    with pytest.raises(LabError, match="room for 3 tokens and cannot take 4"):
        model(torch.zeros(1, 4, dtype=torch.int64), state=state)


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(LabError, match="49 tokens do not fit in the model's context of 48"):
        build()(torch.zeros(1, 49, dtype=torch.int64))


def test_a_tap_sees_and_changes_what_it_names():
    model, tokens, seen = build(), torch.randint(0, 61, (2, 6)), {}

    def record(name, x):
        assert name not in seen
        seen[name] = x
        return x

    logits = model(tokens, tap=record)
    torch.testing.assert_close(logits, model(tokens))
    weights = seen["blocks.1.attention.weights"]
    assert weights.shape == (2, 4, 6, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 6))
    assert weights[:, :, 2, 3:].abs().max() == 0
    torch.testing.assert_close(model.logits(seen["hidden"]), logits)

    ablated = model(tokens, tap=lambda name, x: x * 0 if name == "blocks.0.attention.output" else x)
    assert (ablated - logits).abs().max() > 1e-3


def test_flops_by_hand():
    """V=10, D=4, one block, one head of 4, 6 gated units. Weights: qkv 4·12 = 48, out 16, gate and up 4·12 =
    48, down 24, head 40: 176. 6·176 = 1056 and attention 12·1·1·4·T = 48 T: at T = 8, 1056 + 384.
    """
    model = Transformer(
        ModelConfig(
            10, context=8, width=4, depth=1, heads=1, key_value_heads=1, feed_forward=Gated(intermediate_size=6)
        )
    )
    assert model.training_flops_per_token(8) == 1056 + 384
    assert model.parameter_count == 176 + 3 * 4 + 2 * 4  # and three norms of 4, two of a head


def test_heads_are_plain_unless_key_heads_are_said():
    assert ModelConfig(9, heads=4).attention_config.key_value_heads == 4
    assert ModelConfig(9, heads=4, key_value_heads=2).attention_config.key_value_heads == 2
    assert replace(ModelConfig(9, heads=2), heads=4).attention_config.key_value_heads == 4
    old = to_dict(ModelConfig(9, heads=4)) | {"key_value_heads": 2}  # as a folder has it that was written before
    assert from_dict(ModelConfig, old).attention_config.key_value_heads == 2


def test_config_round_trip():
    config = ModelConfig(
        vocabulary=61, position=Rotary(base=123.0), feed_forward=Gated(intermediate_size=7), tied=False
    )
    written = json.loads(json.dumps(to_dict(config)))
    assert written["feed_forward"] == {"kind": "Gated", "intermediate_size": 7, "activation": "silu"}
    assert from_dict(ModelConfig, written) == config


@pytest.mark.parametrize(
    "changes,message",
    [
        (lambda: {"depth": 0}, "depth must be at least 1.*, not 0"),
        (lambda: {"heads": 4, "key_value_heads": 3}, "4 query heads cannot share 3 key heads"),
        (lambda: {"width": 50, "heads": 4, "key_value_heads": 4}, "width of 50 cannot be split into 4 heads"),
        (lambda: {"width": 6, "heads": 2}, r"must be even, not 3 \(width 6 and 2 heads"),
        (lambda: {"position": Rotary(base=0.5)}, "base must be above 1.*, not 0.5"),
        (lambda: {"feed_forward": Gated(intermediate_size=0)}, "intermediate_size must be at least 1.*, not 0"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(LabError, match=message):
        Transformer(ModelConfig(**{"vocabulary": 10, **changes()}))


def test_half_precision_is_close_and_caches_in_its_own_type():
    model, tokens = build(), torch.randint(0, 61, (2, 12))
    full = model(tokens)
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        state = model.new_state(2, 12)
        half = torch.cat([model(piece, state=state) for piece in tokens.split([8, 4], dim=1)], dim=1)
    cache = state.blocks[0].mixer
    assert isinstance(cache, KVCache) and cache.keys.dtype == half.dtype == torch.bfloat16
    assert (half.float() - full).abs().max() < 0.05 * full.abs().max()


def test_gradients_reach_every_weight_through_every_row():
    model, tokens = build(), torch.randint(0, 61, (2, 12))
    model(tokens).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
