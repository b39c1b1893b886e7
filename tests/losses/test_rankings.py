"""Losses over ranked lists and rated answers: worked arithmetic, and identities."""

import math
from functools import partial
from itertools import permutations

import pytest
import torch

from labkit.losses import (
    all_pairs_loss,
    centering_loss,
    ordered_pair_accuracy,
    pairwise_loss,
    plackett_luce_loss,
    rating_loss,
)

close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
WHOLE = torch.ones(1, 3, dtype=torch.bool)


def lists() -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of 4, 3, 2 and 1 answers; what stands behind a list is there to be passed over."""
    torch.manual_seed(0)
    scores, mask = torch.randn(4, 4), torch.arange(4) < torch.tensor([4, 3, 2, 1])[:, None]
    return scores.masked_fill(~mask, 1e4).requires_grad_(), mask


def test_plackett_luce_by_hand():
    """Scores log 4, log 2, log 1: the best of three has 4 of 7 parts, the second 2 of 3."""
    found = plackett_luce_loss(torch.tensor([[4.0, 2.0, 1.0]]).log(), WHOLE)
    close(found.loss_sum, torch.tensor([-math.log(4 / 7) - math.log(2 / 3)]))
    assert found.term_count.tolist() == [2] and found.correct.tolist() == [1.0]


def test_plackett_luce_is_a_distribution_over_rankings():
    scores = torch.randn(4, generator=torch.Generator().manual_seed(1))
    orders = torch.tensor(list(permutations(range(4))))
    losses = plackett_luce_loss(scores[orders], torch.ones(24, 4, dtype=torch.bool)).loss_sum
    close(torch.exp(-losses).sum(), torch.tensor(1.0))


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def test_all_pairs_by_hand():
    """Scores 2, 1, 0: two margins of 1 and one of 2, in the mean; turned round, the same margins with a minus."""
    found = all_pairs_loss(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), WHOLE.expand(2, 3))
    close(found.loss_sum, torch.tensor([(2 * softplus(-1) + softplus(-2)) / 3, (2 * softplus(1) + softplus(2)) / 3]))
    assert found.term_count.tolist() == [1, 1] and found.correct.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("loss", [all_pairs_loss, plackett_luce_loss])
def test_of_two_answers_it_is_the_pairwise_loss(loss):
    scores = torch.randn(7, 2, generator=torch.Generator().manual_seed(2))
    found, pair = loss(scores, torch.ones(7, 2, dtype=torch.bool)), pairwise_loss(*scores.unbind(1))
    close(found.loss_sum, pair.loss)
    assert found.term_count.tolist() == [1] * 7 and found.correct.bool().equal(pair.correct)


@pytest.mark.parametrize(("loss", "alike"), [(all_pairs_loss, math.log(2)), (plackett_luce_loss, math.log(24))])
def test_only_differences_count_and_what_scores_alike_costs_chance(loss, alike):
    scores, mask = lists()
    close(loss(scores, mask).loss_sum, loss(scores + 3.7, mask).loss_sum)
    close(loss(torch.full((1, 4), 0.3), torch.ones(1, 4, dtype=torch.bool)).loss_sum, torch.tensor([alike]))


@pytest.mark.parametrize("loss", [all_pairs_loss, plackett_luce_loss])
def test_a_shorter_list_is_as_if_it_stood_alone(loss):
    """Its loss and its gradient; that behind it is 0, and so is all of a list of one."""
    scores, mask = lists()
    found = loss(scores, mask)
    found.loss_sum.sum().backward()
    gradients = scores.grad
    assert gradients is not None
    for row, size in enumerate((4, 3, 2, 1)):
        alone = scores[row, :size].detach().requires_grad_()
        one = loss(alone[None], torch.ones(1, size, dtype=torch.bool))
        one.loss_sum.sum().backward()
        close(found.loss_sum[row], one.loss_sum[0])
        assert found.term_count[row] == one.term_count[0] and found.correct[row] == one.correct[0]
        assert alone.grad is not None
        close(gradients[row], torch.cat((alone.grad, torch.zeros(4 - size))))
    assert found.loss_sum[3] == 0 and found.term_count[3] == 0


def test_accuracy_counts_pairs_and_a_tie_is_wrong():
    """3, 1, 2: one pair of three is the wrong way round. 1, 1: neither is better."""
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = ordered_pair_accuracy(torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]]), mask)
    close(found, torch.tensor([2 / 3, 0.0]))


def test_a_margin_is_a_distance_that_is_asked_for():
    chosen, rejected = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0])
    found = pairwise_loss(chosen, rejected, torch.tensor([1.0, 3.0]))
    close(found.loss, torch.tensor([math.log(2), math.log(1 + math.exp(3))]))  # 1 - 1 = 0, and 0 - 3
    assert found.correct.tolist() == [True, False]
    assert pairwise_loss(chosen, rejected, 0.0).loss.equal(pairwise_loss(chosen, rejected).loss)


def test_centering_by_hand():
    """Scores 1, 2, -1: sums of two are 3, 0 and 1, squared 9 + 0 + 1, in the mean 10 / 3."""
    close(centering_loss(torch.tensor([[1.0, 2.0, -1.0]]), WHOLE), torch.tensor([10 / 3]))
    scores, mask = lists()
    for row, size in enumerate((4, 3, 2)):
        alone = scores[row, :size]
        one, other = torch.triu_indices(size, size, 1)
        close(centering_loss(scores, mask)[row], (alone[one] + alone[other]).square().mean())
    assert centering_loss(scores, mask)[3] == 0


def test_a_rating_is_met_and_its_gradient_is_the_error():
    scores = torch.tensor([0.5, -1.0, 1.0], requires_grad=True)
    found = rating_loss(scores, torch.tensor([1.0, 1.0, 1.0]))
    close(found, torch.tensor([0.125, 2.0, 0.0]))
    found.sum().backward()
    close(scores.grad, torch.tensor([-0.5, -2.0, 0.0]))
