"""The loss of a process reward model, its scores put together, and what steps are credited with: by hand, and by
identities.
"""

import math
from typing import Any

import pytest
import torch

from labkit.losses import answer_log_probability, pairwise_loss, step_log_probabilities, step_loss
from labkit.losses.advantages import group_advantages, group_step_advantages

SCORES = torch.tensor([[0.0, 9.0, math.log(3)], [-math.log(4), 9.0, 9.0]])
ENDS = torch.tensor([[True, False, True], [True, False, False]])
CORRECT = torch.tensor([[False, False, True], [False, False, False]])


def test_the_loss_by_hand():
    """Steps at log-odds 0, log 3 and -log 4, that is 1/2, 3/4 and 1/5, the second of them correct:
    -log 1/2 - log 3/4 - log 4/5.
    """
    loss = step_loss(SCORES, CORRECT, ENDS)
    assert loss.loss_sum.item() == pytest.approx(-math.log(0.5 * 0.75 * 0.8), abs=1e-6)
    assert (loss.step_count.item(), loss.correct_count.item()) == (3, 3)
    turned = step_loss(SCORES, ~CORRECT, ENDS)
    assert turned.loss_sum.item() == pytest.approx(-math.log(0.5 * 0.25 * 0.2), abs=1e-6)
    assert turned.correct_count.item() == 0


def test_one_correct_step_is_a_pair_with_an_answer_that_scores_zero():
    scores = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(5, 1, dtype=torch.bool)
    expected = pairwise_loss(scores[:, 0], torch.zeros(5)).loss.sum()
    torch.testing.assert_close(step_loss(scores, everywhere, everywhere).loss_sum, expected)


def test_answers_by_hand():
    """The first answer: 1/2 and 3/4. The second: 1/5 alone."""
    logs = step_log_probabilities(SCORES, ENDS)
    assert logs[~ENDS].tolist() == [0, 0, 0]
    expected: dict[Any, list[float]] = {"product": [3 / 8, 1 / 5], "min": [1 / 2, 1 / 5], "last": [3 / 4, 1 / 5]}
    for aggregate, probabilities in expected.items():
        found = answer_log_probability(logs, ENDS, aggregate).exp().tolist()
        assert found == pytest.approx(probabilities, abs=1e-6), aggregate


def test_the_product_is_at_most_the_minimum_and_that_at_most_the_last():
    torch.manual_seed(1)
    ends = torch.rand(20, 9) < 0.4
    ends[:, -1] = True
    logs = step_log_probabilities(torch.randn(20, 9), ends)
    product, least, last = (answer_log_probability(logs, ends, name) for name in ("product", "min", "last"))
    assert (product <= least + 1e-6).all() and (least <= last).all()
    alone = ends.sum(-1) == 1
    torch.testing.assert_close(product[alone], last[alone])


def test_advantages_of_steps_by_hand():
    """Two answers with step rewards 1, 3 and 2: mean 2, so -1, 1 and 0; a token has those still to come. Their sample
    deviation is 1.
    """
    rewards = torch.tensor([[0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 2.0, 0.0]])
    ends = torch.tensor([[False, True, False, True], [False, False, True, False]])
    found = group_step_advantages(rewards, ends, 2, divide_by_deviation=False)
    assert found.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    divided = group_step_advantages(rewards, ends, 2, divide_by_deviation=True)
    torch.testing.assert_close(divided, found / (1 + 1e-4))


def test_what_a_step_costs_on_its_way_counts_with_it():
    rewards = torch.tensor([[-0.5, 1.5, 0.25, 2.75], [1.0, 1.0, 0.0, 0.0]])
    ends = torch.tensor([[False, True, False, True], [False, True, False, False]])
    plain = torch.tensor([[0.0, 1.0, 0.0, 3.0], [0.0, 2.0, 0.0, 0.0]])
    options = {"divide_by_deviation": True}
    torch.testing.assert_close(
        group_step_advantages(rewards, ends, 2, **options), group_step_advantages(plain, ends, 2, **options)
    )


@pytest.mark.parametrize("divide", [False, True])
def test_answers_of_one_step_have_the_advantages_of_whole_answers(divide):
    torch.manual_seed(2)
    scores, ends = torch.randn(6), torch.zeros(6, 4, dtype=torch.bool)
    ends[:, -1] = True
    found = group_step_advantages(ends * scores[:, None], ends, 3, divide_by_deviation=divide)
    expected = group_advantages(scores, 3, divide_by_deviation=divide)
    torch.testing.assert_close(found, expected[:, None].expand(6, 4))


def test_steps_that_are_rewarded_alike_teach_nothing():
    ends = torch.tensor([[True, False, True], [False, True, False]])
    assert not group_step_advantages(ends * 0.1, ends, 2, divide_by_deviation=True).any()
