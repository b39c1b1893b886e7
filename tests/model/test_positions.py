"""Rotary: the turn by hand, and scores that know distances alone."""

import math

import torch

from labkit.model.positions import PositionEncoding, Rotary, Sizes


def test_a_turn_by_hand():
    """E = 4, base 100: the pair (x0, x2) turns by p, the pair (x1, x3) by p / 10. At p = 1, (1, 0) becomes
    (cos 1, sin 1) and (0, 1) becomes (-sin 0.1, cos 0.1)."""
    encoding = Rotary(base=100.0).build(Sizes(context=3, width=2 * 4, heads=2, head_width=4))
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 4)
    q, k = encoding.rotate(x, x, torch.tensor([1]))
    expected = torch.tensor([math.cos(1), -math.sin(0.1), math.sin(1), math.cos(0.1)])
    torch.testing.assert_close(q.flatten(), expected)
    torch.testing.assert_close(k, q)


def test_nothing_turns_at_position_zero_and_lengths_stay():
    encoding, x = Rotary().build(Sizes(context=9, width=2 * 8, heads=2, head_width=8)), torch.randn(2, 9, 3, 8)
    q, _ = encoding.rotate(x, x, torch.arange(9))
    torch.testing.assert_close(q[:, 0], x[:, 0])
    torch.testing.assert_close(q.norm(dim=-1), x.norm(dim=-1))


def test_scores_depend_on_distance_alone():
    encoding = Rotary(base=50.0).build(Sizes(context=40, width=2 * 8, heads=2, head_width=8))
    q, k = torch.randn(2, 1, 1, 8), torch.randn(2, 1, 1, 8)

    def score(query_position, key_position):
        turned = encoding.rotate(q, q, torch.tensor([query_position]))[0]
        return (turned * encoding.rotate(k, k, torch.tensor([key_position]))[0]).sum(-1)

    torch.testing.assert_close(score(9, 4), score(35, 30), atol=1e-5, rtol=1e-5)
    assert (score(9, 4) - score(9, 5)).abs().min() > 1e-4


def test_each_row_may_have_its_own_positions():
    encoding, x = Rotary().build(Sizes(context=9, width=2 * 8, heads=2, head_width=8)), torch.randn(2, 3, 1, 8)
    rows = torch.tensor([[0, 1, 2], [4, 5, 6]])
    together, _ = encoding.rotate(x, x, rows)
    for row in range(2):
        alone, _ = encoding.rotate(x[row : row + 1], x[row : row + 1], rows[row])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_the_hooks_do_nothing_by_default():
    encoding, x, positions = PositionEncoding(), torch.randn(1, 2, 1, 4), torch.arange(2)
    assert encoding.embed(x, positions) is x
    assert encoding.rotate(x, x, positions) == (x, x)
    assert encoding.bias(x, positions, positions) is None
    assert encoding.value_term(x, positions, positions) is None
