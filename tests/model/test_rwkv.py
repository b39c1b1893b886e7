"""RWKV-7's two forms beside each other and its equation, and the GRU beside torch's."""

import pytest
import torch
import torch.nn.functional as F

from labkit.model.context import ForwardContext, token_shift
from labkit.model.gru import GRU
from labkit.model.mixers import AttentionConfig
from labkit.model.positions import AttentionPositions, PositionEncoding
from labkit.model.rwkv import CHUNK, WKVInputs, default_ranks, wkv7, wkv7_chunked, wkv7_recurrent

B, H, N = 2, 3, 8


def moves(length: int, seed: int = 0) -> tuple[WKVInputs, torch.Tensor]:
    """Moves as the mixer makes them: decays between exp(-1/√e) and 1, removals along unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    r, k, v, key, rate, w = (torch.randn(B, length, H, N, generator=generator) for _ in range(6))
    key = F.normalize(key, dim=-1)
    state = torch.randn(B, H, N, N, generator=generator)
    return WKVInputs(r, -(0.5**0.5) * w.sigmoid() * 0.85, k, v, -key, key * rate.sigmoid()), state


def nothing(token_mask: torch.Tensor | None = None, fresh: torch.Tensor | None = None) -> ForwardContext:
    places = torch.arange(1)
    return ForwardContext(AttentionPositions(PositionEncoding(), places, places), torch.zeros(1, 1), token_mask, fresh)


def test_one_step_by_hand():
    """One head of two numbers, S = [[1, 2], [3, 4]] (rows: values, columns: keys), all decays 1/2. What is stored along
    the key (1, 0) is taken out: S a = -(1, 3), times b = (1, 0). Then the value (5, 6) is stored under the key (0, 1):

        [[1, 2], [3, 4]] / 2 - [[1, 0], [3, 0]] + [[0, 5], [0, 6]] = [[-0.5, 6], [-1.5, 8]]

    and r = (2, 1) reads (-1 + 6, -3 + 8) = (5, 5).
    """
    r, k, v, a, b = (torch.tensor(x).view(1, 1, 1, 2) for x in ([2.0, 1], [0.0, 1], [5.0, 6], [-1.0, 0], [1.0, 0]))
    log_w = torch.full((1, 1, 1, 2), 0.5).log()
    read, state = wkv7_recurrent(WKVInputs(r, log_w, k, v, a, b), torch.tensor([[[[1.0, 2], [3, 4]]]]), None)
    torch.testing.assert_close(read.flatten(), torch.tensor([5.0, 5.0]))
    torch.testing.assert_close(state[0, 0], torch.tensor([[-0.5, 6.0], [-1.5, 8.0]]))


@pytest.mark.parametrize("length", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("packed", [False, True])
def test_chunks_are_steps(length, packed):
    given, state = moves(length)
    fresh = torch.rand(B, length, generator=torch.Generator().manual_seed(1)) < 0.1 if packed else None
    for one, other in zip(wkv7_recurrent(given, state, fresh), wkv7_chunked(given, state, fresh), strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=1e-4)


def test_chunks_hold_at_the_fastest_decay():
    """All decays at their lowest: the products of a chunk span e^±19 and stay exact."""
    given, state = moves(2 * CHUNK)
    given = given._replace(log_w=torch.full_like(given.log_w, -(0.36788**0.5)))
    for one, other in zip(wkv7_recurrent(given, state, None), wkv7_chunked(given, state, None), strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=1e-4)


def test_both_forms_give_the_same_gradients():
    given, state = moves(CHUNK + 7)
    found = []
    for form in (wkv7_recurrent, wkv7_chunked):
        leaves = [t.clone().requires_grad_() for t in (*given, state)]
        read, after = form(WKVInputs(*leaves[:-1]), leaves[-1], None)
        (read.square().sum() + after.sum()).backward()
        found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-3, rtol=1e-3)


def test_padding_leaves_the_state_alone():
    given, state = moves(5)
    token_mask = torch.tensor([[False, True, False, True, False]]).expand(B, 5)
    read, after = wkv7(given, state, token_mask)
    alone, expected = wkv7(WKVInputs(*(t[:, [1, 3]] for t in given)), state)
    torch.testing.assert_close(read[:, [1, 3]], alone, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(after, expected, atol=2e-5, rtol=1e-4)


def test_the_token_before():
    x, last = torch.arange(1.0, 6).view(1, 5, 1), torch.tensor([[9.0]])
    before, after = token_shift(x, last, nothing())
    assert before.flatten().tolist() == [9, 1, 2, 3, 4] and after.item() == 5
    token_mask = torch.tensor([[False, True, True, False, False]])
    before, after = token_shift(x, last, nothing(token_mask=token_mask))
    assert before[token_mask].tolist() == [[9], [2]] and after.item() == 3
    before, _ = token_shift(x, last, nothing(fresh=torch.tensor([[False, False, True, False, False]])))
    assert before.flatten().tolist() == [9, 1, 0, 3, 4]


def test_ranks_are_the_authors():
    """The published 0.1B model has width 768 and ranks of 64, 64, 32 and 128."""
    assert default_ranks(768) == (64, 64, 32, 128)


def test_the_gru_is_torchs():
    torch.manual_seed(0)
    mixer, theirs = GRU().build(8, AttentionConfig(2, 2, 4), 0, ""), torch.nn.GRU(8, 8, batch_first=True)
    names = {"input.weight": "weight_ih_l0", "input.bias": "bias_ih_l0"}
    names |= {"hidden.weight": "weight_hh_l0", "hidden.bias": "bias_hh_l0"}
    mixer.load_state_dict({ours: getattr(theirs, name) for ours, name in names.items()} | {"out.weight": torch.eye(8)})
    x = torch.randn(3, 11, 8)
    y, state = mixer(x, mixer.new_state(3, 11), nothing())
    expected, last = theirs(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state.hidden, last[0])
