"""Rows whose prompts are computed once, beside the same rows as they are."""

import copy
from typing import Any

import pytest
import torch

from labkit.model import Gated, ModelConfig, Transformer
from labkit.model.gru import GRU
from labkit.model.positions import ALiBi, Learned, NoPosition, Rotary, T5Buckets
from labkit.model.prefix_sharing import pack_rows, row_hidden_states, supports_prefix_sharing
from labkit.model.reward_model import RewardModel

PAD = 0
ROWS = [([5, 6, 7], [8, 9]), ([3, 4], [5]), ([5, 6, 7], [9]), ([3, 4], [6, 7, 8, 9]), ([2], [3, 4, 5])]
"""(prompt, answer): two prompts with two answers each, and one with one."""


def batch(rows=ROWS, width=9):
    tokens, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.bool)
    for b, (prompt, answer) in enumerate(rows):
        tokens[b, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        mask[b, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
    return tokens, mask


def real(rows=ROWS, width=9):
    return torch.tensor([[t < len(prompt) + len(answer) for t in range(width)] for prompt, answer in rows])


def model(**changes):
    torch.manual_seed(0)
    shape: dict[str, Any] = {"width": 24, "depth": 2, "heads": 2, "feed_forward": Gated(32)}
    return Transformer(ModelConfig(10, 32, **(shape | changes)))


def test_one_prompt_with_two_answers_by_hand():
    """p q a b and p q c: three documents' worth of tokens in one row of 16, the answers at positions 2 and 3."""
    packed = pack_rows(*batch([([1, 2], [3, 4]), ([1, 2], [5])], 5))
    assert packed.tokens.tolist() == [[1, 2, 3, 4, 5] + [0] * 11]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2] + [0] * 11]
    assert packed.documents.tolist() == [[1] * 5 + [0] * 11]
    assert packed.branches.tolist() == [[0, 0, 1, 1, 2] + [0] * 11]
    assert packed.places.tolist() == [[0, 1, 2, 3, 3], [0, 1, 4, 4, 4]]


@pytest.mark.parametrize("position", [Rotary(), ALiBi(), Learned(), NoPosition(), T5Buckets()], ids=repr)
def test_hidden_states_and_gradients_are_those_of_rows_alone(position):
    alone, shared = model(position=position), model(position=position)
    tokens, mask = batch()
    x, y = (row_hidden_states(one, tokens, mask, on) for one, on in ((alone, False), (shared, True)))
    assert torch.allclose(x[real()], y[real()], atol=1e-5)
    torch.manual_seed(1)
    weights = torch.randn(x.shape)
    for found in (x, y):
        (found * weights)[real()].sum().backward()
    for p, q in zip(alone.parameters(), shared.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-4)


def test_fewer_tokens_are_computed():
    tokens, mask = batch()
    packed = pack_rows(tokens, mask)
    assert packed.tokens.numel() == 32 < tokens.numel()
    assert (packed.documents > 0).sum() == sum(
        map(len, ([5, 6, 7], [8, 9], [9], [3, 4], [5], [6, 7, 8, 9], [2, 3, 4, 5]))
    )


def test_a_prompt_with_many_answers_is_read_again_before_its_row_is_longer_than_two():
    packed = pack_rows(*batch([([1, 2, 3], [4, 5, 6, 7, 8])] * 6, 8))
    assert packed.tokens.shape[1] == 16
    assert (packed.documents > 0).sum() == 3 * (3 + 2 * 5)


def test_a_row_without_an_answer_stands_whole():
    tokens, mask = batch()
    mask[1] = False
    one = model()
    assert torch.allclose(row_hidden_states(one, tokens, mask, True)[1], one.hidden_states(tokens)[1], atol=1e-5)


def test_scores_of_a_reward_model_are_the_same():
    body = model()
    scorer = RewardModel(copy.deepcopy(body))
    torch.nn.init.normal_(scorer.head.weight)
    tokens, mask = batch()
    ends = real().sum(1) - 1
    alone, shared = (scorer.scores_at(tokens, mask, ends, sharing) for sharing in (False, True))
    assert torch.allclose(alone, shared, atol=1e-5)


def test_a_recurrent_model_computes_rows_as_they_are():
    one = model(mixer=GRU(), position=NoPosition())
    assert not supports_prefix_sharing(one)
    tokens, mask = batch()
    assert torch.equal(row_hidden_states(one, tokens, mask, True), one.hidden_states(tokens))
