"""Rotary: the turn by hand, and scores that know distances alone."""

import math

import torch

from labkit.model.positions import (
    ALiBi,
    ModelSizes,
    PositionEncoding,
    Rotary,
    Shaw,
    ShawEncoding,
    Sinusoidal,
    T5Buckets,
    T5BucketsEncoding,
)


def test_a_turn_by_hand():
    """E = 4, base 100: the pair (x0, x2) turns by p, the pair (x1, x3) by p / 10. At p = 1, (1, 0) becomes
    (cos 1, sin 1) and (0, 1) becomes (-sin 0.1, cos 0.1)."""
    encoding = Rotary(base=100.0).build(ModelSizes(context=3, width=2 * 4, heads=2, head_dim=4))
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 4)
    q, k = encoding.rotate_before_transpose(x, x, torch.tensor([1]))
    expected = torch.tensor([math.cos(1), -math.sin(0.1), math.sin(1), math.cos(0.1)])
    torch.testing.assert_close(q.flatten(), expected)
    torch.testing.assert_close(k, q)


def test_nothing_turns_at_position_zero_and_lengths_stay():
    encoding, x = Rotary().build(ModelSizes(context=9, width=2 * 8, heads=2, head_dim=8)), torch.randn(2, 9, 3, 8)
    q, _ = encoding.rotate_before_transpose(x, x, torch.arange(9))
    torch.testing.assert_close(q[:, 0], x[:, 0])
    torch.testing.assert_close(q.norm(dim=-1), x.norm(dim=-1))


def test_scores_depend_on_distance_alone():
    encoding = Rotary(base=50.0).build(ModelSizes(context=40, width=2 * 8, heads=2, head_dim=8))
    q, k = torch.randn(2, 1, 1, 8), torch.randn(2, 1, 1, 8)

    def score(query_position, key_position):
        turned = encoding.rotate_before_transpose(q, q, torch.tensor([query_position]))[0]
        return (turned * encoding.rotate_before_transpose(k, k, torch.tensor([key_position]))[0]).sum(-1)

    torch.testing.assert_close(score(9, 4), score(35, 30), atol=1e-5, rtol=1e-5)
    assert (score(9, 4) - score(9, 5)).abs().min() > 1e-4


def test_each_row_may_have_its_own_positions():
    encoding, x = Rotary().build(ModelSizes(context=9, width=2 * 8, heads=2, head_dim=8)), torch.randn(2, 3, 1, 8)
    rows = torch.tensor([[0, 1, 2], [4, 5, 6]])
    together, _ = encoding.rotate_before_transpose(x, x, rows)
    for row in range(2):
        alone, _ = encoding.rotate_before_transpose(x[row : row + 1], x[row : row + 1], rows[row])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_the_hooks_do_nothing_by_default():
    encoding, x, positions = PositionEncoding(), torch.randn(1, 2, 1, 4), torch.arange(2)
    assert encoding.embed(x, positions) is x
    assert encoding.rotate_before_transpose(x, x, positions) == (x, x)
    assert encoding.bias(x, positions, positions) is None
    assert encoding.value_term(x, positions, positions) is None


def test_waves_by_hand():
    """D = 4: the first pair turns by p, the second by p / 100. At p = 1: sin 1, cos 1, sin 0.01, cos 0.01."""
    encoding = Sinusoidal().build(ModelSizes(context=2, width=4, heads=1, head_dim=4))
    moved = encoding.embed(torch.zeros(1, 1, 4), torch.tensor([1]))
    expected = torch.tensor([math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)])
    torch.testing.assert_close(moved.flatten(), expected)


def test_alibi_by_hand():
    """Two heads: rates 2^-4 and 2^-8. From place 3 to places 1, 2, 3: distances 2, 1, 0."""
    encoding = ALiBi().build(ModelSizes(context=4, width=8, heads=2, head_dim=4))
    bias = encoding.bias(torch.zeros(1, 2, 1, 4), torch.tensor([3]), torch.tensor([1, 2, 3]))
    rates = torch.tensor([1 / 16, 1 / 256]).view(1, 2, 1, 1)
    torch.testing.assert_close(bias.expand(1, 2, 1, 3), -rates * torch.tensor([2.0, 1.0, 0.0]))


def test_six_heads_take_rates_of_the_powers_below_and_above():
    """Four heads have 2^-2 … 2^-8; of eight heads' 2^-1 … 2^-8 come every other one: 2^-1 and 2^-3."""
    encoding = ALiBi().build(ModelSizes(context=4, width=24, heads=6, head_dim=4))
    expected = torch.tensor([2.0**-n for n in (2, 4, 6, 8, 1, 3)])
    torch.testing.assert_close(encoding.get_buffer("slopes").flatten(), expected)


def test_buckets_by_hand():
    """Eight buckets, causal: distances 0 to 3 have their own, 4 up to 16 share four by their logarithm (4-5, 6-7,
    8-11, 12 and more), what comes after the query is like distance 0.
    """
    encoding = T5Buckets(8, 16).build(ModelSizes(context=64, width=8, heads=2, head_dim=4))
    assert isinstance(encoding, T5BucketsEncoding)
    distance = -torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 60, -5])
    assert encoding.relative_position_bucket(distance).tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7, 0]


def test_relative_vectors_by_hand():
    """E = 1, vectors of distances -1, 0, 1. A query of 2 at place 5, keys at 2, 5 and 9: distances -3, 0, 4 are cut to
    -1, 0, 1. Weights .5, .3, .2 of values 10, 20, 30: 5 + 6 + 6 = 17.
    """
    encoding = Shaw(1).build(ModelSizes(context=16, width=1, heads=1, head_dim=1))
    assert isinstance(encoding, ShawEncoding)
    encoding.keys.weight.data = torch.tensor([[1.0], [2.0], [3.0]])
    encoding.values.weight.data = torch.tensor([[10.0], [20.0], [30.0]])
    here, there = torch.tensor([5]), torch.tensor([2, 5, 9])
    assert encoding.bias(torch.full((1, 1, 1, 1), 2.0), here, there).flatten().tolist() == [2.0, 4.0, 6.0]
    term = encoding.value_term(torch.tensor([0.5, 0.3, 0.2]).view(1, 1, 1, 3), here, there)
    torch.testing.assert_close(term.flatten(), torch.tensor([17.0]))
