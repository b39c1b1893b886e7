"""Whatever valid config is drawn: shapes, nothing from the future, padding that changes nothing, cached = uncached,
packed = one by one.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.model.feedforward import Gated, MoE, Plain
from labkit.model.gru import GRU
from labkit.model.positions import ALiBi, Learned, NoPosition, Rotary, Shaw, Sinusoidal, T5Buckets
from labkit.model.rotary_scaling import LinearScaling, Llama3Scaling, YaRN
from labkit.model.rwkv import RWKV
from labkit.model.transformer import ModelConfig, Transformer

V, CONTEXT, T = 17, 16, 7
POSITIONS = [
    Rotary(100.0),
    Rotary(100.0, LinearScaling(4.0)),
    Rotary(100.0, Llama3Scaling(original_max_position_embeddings=8)),
    Rotary(100.0, YaRN(4.0, original_max_position_embeddings=8)),
    NoPosition(),
    Learned(),
    Sinusoidal(),
    ALiBi(),
    T5Buckets(8, 12),
    Shaw(3),
]
LAYERS: list[Gated | Plain] = [Gated(12), Gated(12, "gelu"), Plain(12), Plain(12, "relu")]
UNKNOWN: Any = "swish"
MIXED = [MoE(LAYERS[0], 3, 2), MoE(LAYERS[3], 4, 1, norm_topk_prob=False), MoE(LAYERS[0], 3, 1, sparse_step=2)]


@st.composite
def configs(draw: st.DrawFn, **fixed: object) -> ModelConfig:
    heads, shared = draw(st.sampled_from([(2, 2), (4, 2), (4, 1), (3, 3)]))
    recurrent = not fixed and draw(st.sampled_from([None, None, None, RWKV((3, 3, 2, 4)), GRU()]))
    drawn: dict = {
        "vocabulary": V,
        "context": CONTEXT,
        "width": 12 * draw(st.sampled_from([1, 2])),
        "depth": draw(st.integers(1, 2)),
        "heads": heads,
        "key_value_heads": shared,
        "head_dim": draw(st.sampled_from([4, 8])),
        "feed_forward": draw(st.sampled_from([*LAYERS, *MIXED])),
        "position": draw(st.sampled_from(POSITIONS)),
        "qk_norm": draw(st.booleans()),
        "tied": draw(st.booleans()),
        "norm": draw(st.sampled_from(["rms", "layer"])),
        "norm_placement": draw(st.sampled_from(["pre", "post"])),
        "bias": draw(st.booleans()),
        "encoder_depth": draw(st.sampled_from([0, 0, 1])),
        "token_shift": draw(st.booleans()),
        "token_types": draw(st.sampled_from([0, 2])),
        "embedding_norm": draw(st.booleans()),
        "attention_scale": draw(st.sampled_from([None, 1.0])),
        "head": draw(st.sampled_from(["token", "masked"])),
    }
    if recurrent:
        sizes = {"heads": 3, "key_value_heads": 3, "head_dim": drawn["width"] // 3, "encoder_depth": 0}
        drawn |= {"mixer": recurrent, **sizes}
        drawn["position"] = draw(st.sampled_from([NoPosition(), Learned(), Sinusoidal()]))
    if drawn["feed_forward"] == MIXED[2]:
        drawn["depth"] = 2
    return ModelConfig(**drawn | fixed)


def build(config: ModelConfig) -> Transformer:
    """The model with every weight away from where it rests, so that each part does something."""
    torch.manual_seed(0)
    model = Transformer(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def tokens(rows: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (rows, T), generator=torch.Generator().manual_seed(seed))


def memory_of(model: Transformer, rows: int = 2):
    return None if model.encoder is None else model.encode(tokens(rows, seed=9))


quick = settings(max_examples=60, deadline=None, derandomize=True)


@quick
@given(configs())
def test_shapes_and_a_config_that_comes_back(config):
    model = build(config)
    logits = model(tokens(), memory=memory_of(model))
    assert logits.shape == (2, T, V) and logits.isfinite().all()
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert model.training_flops_per_token(T) > 0


@quick
@given(configs())
@torch.no_grad()
def test_nothing_is_seen_of_the_future(config):
    model, given_tokens = build(config), tokens()
    changed = given_tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % V
    before, after = (model(one, memory=memory_of(model)) for one in (given_tokens, changed))
    torch.testing.assert_close(before[:, :4], after[:, :4], atol=1e-5, rtol=0)
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-4)


@quick
@given(configs(causal=False, encoder_depth=0))
@torch.no_grad()
def test_without_a_mask_every_token_sees_all(config):
    model, given_tokens = build(config), tokens()
    changed = given_tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % V
    assert not torch.allclose(model(given_tokens)[:, 0], model(changed)[:, 0], atol=1e-6)
    with pytest.raises(LabError, match="has no state"):
        model.new_state(2, T)


@quick
@given(configs(), st.booleans())
@torch.no_grad()
def test_padding_changes_nothing(config, causal):
    """On the left with positions that count from the first real token, as generation pads; where tokens see later ones
    on the right too. An encoder's padding, likewise.
    """
    causal = causal or isinstance(config.mixer, RWKV | GRU)
    if not causal:
        config = replace(config, causal=False, encoder_depth=0)
    model, real = build(config), tokens(1)
    pad = torch.zeros(1, 3, dtype=torch.int64)
    mask = torch.tensor([[False] * 3 + [True] * T])
    positions = torch.cat((pad, torch.arange(T).unsqueeze(0)), 1)
    alone, memory = model(real, memory=memory_of(model, 1)), memory_of(model, 1)
    left = model(torch.cat((pad, real), 1), positions=positions, mask=mask, memory=memory)[:, 3:]
    torch.testing.assert_close(left, alone, atol=1e-4, rtol=1e-4)
    if not causal:
        right = model(torch.cat((real, pad), 1), mask=mask.flip(1))[:, :T]
        torch.testing.assert_close(right, alone, atol=1e-4, rtol=1e-4)
    if model.encoder is not None:
        padded = model.encode(torch.cat((tokens(1, seed=9), pad), 1), mask.flip(1))
        torch.testing.assert_close(model(real, memory=padded), alone, atol=1e-4, rtol=1e-4)


@quick
@given(configs(), st.integers(1, T - 1), st.integers(1, T - 1))
@torch.no_grad()
def test_cached_is_uncached(config, first, second):
    model, given_tokens = build(config), tokens()
    memory = memory_of(model)
    whole, state = model(given_tokens, memory=memory), model.new_state(2, T)
    cuts = sorted({0, first, second, T})
    pieces = [model(given_tokens[:, a:b], state=state, memory=memory) for a, b in zip(cuts, cuts[1:], strict=False)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=1e-4)


@quick
@given(configs(), st.lists(st.integers(1, T), min_size=2, max_size=4))
@torch.no_grad()
def test_packed_documents_do_not_see_each_other(config, lengths):
    lengths = [length for i, length in enumerate(lengths) if sum(lengths[: i + 1]) <= CONTEXT]
    model = build(config)
    rows = [tokens(1, seed=i)[:, :length] for i, length in enumerate(lengths)]
    numbers = torch.cat([torch.full((1, length), i % 2) for i, length in enumerate(lengths)], 1)
    memory = memory_of(model, 1)
    packed = model(torch.cat(rows, 1), memory=memory, documents=numbers)
    alone = torch.cat([model(row, memory=memory) for row in rows], 1)
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)


def test_packed_documents_are_read_in_one_go():
    model = build(ModelConfig(V, CONTEXT))
    with pytest.raises(LabError, match="need a single forward pass"):
        model(tokens(), state=model.new_state(2, T), documents=torch.zeros(2, T))


@pytest.mark.parametrize("position", [p for p in POSITIONS if not isinstance(p, NoPosition)], ids=str)
@torch.no_grad()
def test_each_encoding_tells_an_order_and_only_distance_where_it_is_relative(position):
    config = ModelConfig(V, CONTEXT, 24, 1, 2, 2, position=position, causal=False, qk_norm=False)
    model, row = build(config), torch.tensor([[3, 5, 8]])
    assert not torch.allclose(model(row)[0, 0], model(row[:, [0, 2, 1]])[0, 0], atol=1e-4)
    moved = model(row, positions=torch.arange(4, 7))
    absolute = isinstance(position, (Learned, Sinusoidal))
    assert torch.allclose(moved, model(row), atol=1e-4) != absolute


def test_token_types_tell_tokens_apart():
    model = build(ModelConfig(V, CONTEXT, 24, 1, 2, 2, token_types=2))
    types = torch.zeros(2, T, dtype=torch.int64)
    assert torch.equal(model(tokens(), token_type_ids=types), model(tokens()))
    assert not torch.allclose(model(tokens(), token_type_ids=types + 1), model(tokens()))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"causal": False, "encoder_depth": 1}, "set causal=True"),
        ({"encoder_depth": -1}, "encoder_depth must be at least 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"heads": 2.0}, "heads must be a whole number, not 2"),
        ({"mixer": RWKV()}, "Rotary works inside attention, which RWKV does not have"),
        ({"mixer": GRU(), "position": NoPosition(), "causal": False}, "GRU is causal"),
        ({"mixer": RWKV(), "position": NoPosition(), "encoder_depth": 1}, "RWKV is causal"),
        ({"feed_forward": MoE(Gated(4), sparse_step=5)}, "sparse_step must be from 1 to the 4 blocks, not 5"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(LabError, match=message):
        ModelConfig(V, **changes)


@pytest.mark.parametrize(
    "part,message",
    [
        (lambda: {"position": Rotary(1.0)}, "base must be above 1"),
        (lambda: {"position": Rotary(scaling=LinearScaling(0.5))}, "factor must be at least 1"),
        (lambda: {"position": T5Buckets(6)}, "multiple of 4"),
        (lambda: {"position": T5Buckets(32, 16)}, "max_distance must be above 16, not 16"),
        (lambda: {"position": T5Buckets(32, 8), "causal": False}, "max_distance must be above 8, not 8"),
        (lambda: {"width": 2**20, "depth": 4096, "heads": 2**10}, "A model of .* parameters takes .* GB of memory"),
        (lambda: {"position": Shaw(0)}, "max_distance must be at least 1"),
        (lambda: {"feed_forward": MoE(Gated(4), 2, 3)}, "top_k must be from 1 to the 2 experts"),
        (lambda: {"feed_forward": MoE(Gated(4), capacity_factor=0.0)}, "capacity_factor must be above 0"),
        (lambda: {"feed_forward": Plain(4, UNKNOWN)}, "activation must be one of silu, .* not 'swish'"),
        (lambda: {"feed_forward": Gated(0)}, "intermediate_size must be at least 1"),
        (lambda: {"mixer": RWKV(), "position": NoPosition(), "key_value_heads": 1}, "with a key for each head"),
        (
            lambda: {"mixer": RWKV((0, 1, 1, 1)), "position": NoPosition()},
            "ranks must be .* each at least 1",
        ),
    ],
)
def test_a_part_that_cannot_be_built_is_refused(part, message):
    with pytest.raises(LabError, match=message):
        Transformer(ModelConfig(V, **part()))


def test_a_memory_is_given_to_those_that_have_an_encoder():
    plain, with_encoder = build(ModelConfig(V)), build(ModelConfig(V, encoder_depth=1))
    with pytest.raises(LabError, match="needs the memory of its encoder"):
        with_encoder(tokens())
    with pytest.raises(LabError, match="takes no memory"):
        plain(tokens(), memory=with_encoder.encode(tokens()))
    with pytest.raises(LabError, match="has no encoder"):
        plain.encode(tokens())
