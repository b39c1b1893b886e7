"""Losses of direct alignment by hand, and what they must be equal to."""

import math

import pytest
import torch

from labkit.losses import (
    dpo_loss,
    ipo_loss,
    kto_kl,
    kto_loss,
    odds_ratio_loss,
    pairwise_loss,
    robust_dpo_loss,
    simpo_loss,
)


def pair(*values: float) -> list[torch.Tensor]:
    """policy_chosen, policy_rejected, reference_chosen, reference_rejected of one pair."""
    return [torch.tensor([value]) for value in values]


def test_conservative_dpo_by_hand():
    # rewards 0.5 and -0.5 differ by 1: 0.9 log(1 + 1/e) + 0.1 log(1 + e)
    loss = dpo_loss(*pair(-1, -3, -2, -2), beta=0.5, label_smoothing=0.1).loss
    assert loss.item() == pytest.approx(0.9 * math.log1p(math.exp(-1)) + 0.1 * math.log1p(math.e), abs=1e-6)


def test_conservative_dpo_without_smoothing_is_dpo_bit_for_bit():
    a, b, c, d = torch.randn(4, 50)
    smooth, plain = dpo_loss(a, b, c, d, beta=0.3, label_smoothing=0.0), dpo_loss(a, b, c, d, beta=0.3)
    assert all(one.equal(other) for one, other in zip(smooth, plain, strict=True))


def test_conservative_dpo_asks_for_a_finite_margin():
    """Of log(0.9 / 0.1), where its gradient is zero; DPO's never is."""
    margin = torch.tensor([math.log(9)], requires_grad=True)
    zero = torch.zeros(1)
    dpo_loss(margin, zero, zero, zero, beta=1.0, label_smoothing=0.1).loss.sum().backward()
    assert margin.grad is not None and margin.grad.item() == pytest.approx(0, abs=1e-6)


def test_robust_dpo_by_hand():
    # the same pair: (0.9 log(1 + 1/e) - 0.1 log(1 + e)) / 0.8
    loss = robust_dpo_loss(*pair(-1, -3, -2, -2), beta=0.5, label_smoothing=0.1)
    expected = (0.9 * math.log1p(math.exp(-1)) - 0.1 * math.log1p(math.e)) / 0.8
    assert loss.loss.item() == pytest.approx(expected, abs=1e-6)
    assert (loss.chosen_reward.item(), loss.rejected_reward.item()) == (0.5, -0.5)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.45])
def test_robust_dpo_is_in_the_mean_over_flips_the_loss_without_them(rate):
    chosen, rejected, chosen_before, rejected_before = torch.randn(4, 50, dtype=torch.float64).mul(3)
    options = {"beta": 0.7, "label_smoothing": rate}
    kept = robust_dpo_loss(chosen, rejected, chosen_before, rejected_before, **options).loss
    flipped = robust_dpo_loss(rejected, chosen, rejected_before, chosen_before, **options).loss
    clean = dpo_loss(chosen, rejected, chosen_before, rejected_before, beta=0.7).loss
    torch.testing.assert_close((1 - rate) * kept + rate * flipped, clean)


def test_ipo_by_hand():
    # log-ratios 1 and -1 differ by 2; with beta 0.5 the margin asked for is 1: (2 - 1)^2
    loss = ipo_loss(*pair(-1, -3, -2, -2), beta=0.5)
    assert loss.loss.item() == 1.0 and (loss.chosen_reward.item(), loss.rejected_reward.item()) == (0.5, -0.5)


def test_ipo_of_the_reference_itself_is_the_margin_squared():
    chosen, rejected = torch.randn(2, 6)
    loss = ipo_loss(chosen, rejected, chosen, rejected, beta=0.2).loss
    assert loss.tolist() == pytest.approx([1 / (4 * 0.2**2)] * 6)


def test_ipo_costs_nothing_at_its_margin_and_something_beyond():
    margins, zero = torch.tensor([2.4, 2.5, 2.6]), torch.zeros(3)
    assert ipo_loss(margins, zero, zero, zero, beta=0.2).loss.tolist() == pytest.approx([0.01, 0, 0.01], abs=1e-6)


def test_simpo_by_hand():
    # rewards 2 (-0.5) and 2 (-1) differ by 1, of which gamma takes 0.4: log(1 + e^-0.6)
    loss = simpo_loss(torch.tensor([-0.5]), torch.tensor([-1.0]), beta=2.0, gamma=0.4)
    assert loss.loss.item() == pytest.approx(math.log1p(math.exp(-0.6)), abs=1e-6)
    assert (loss.chosen_reward.item(), loss.rejected_reward.item()) == (-1.0, -2.0)


def test_simpo_without_a_margin_is_the_loss_of_a_choice_between_mean_log_probabilities():
    chosen, rejected = -torch.rand(2, 20)
    found = simpo_loss(chosen, rejected, beta=2.5, gamma=0.0).loss
    torch.testing.assert_close(found, pairwise_loss(2.5 * chosen, 2.5 * rejected).loss)


def test_simpo_with_a_uniform_reference_is_dpo_on_answers_of_one_length():
    """A reference that gives every token 1/V takes the same off both answers."""
    (chosen, rejected), length = -10 * torch.rand(2, 20), 5
    uniform = torch.full((20,), -length * math.log(100))
    found = simpo_loss(chosen / length, rejected / length, beta=2.0, gamma=0.0).loss
    torch.testing.assert_close(found, dpo_loss(chosen, rejected, uniform, uniform, beta=2.0 / length).loss)


def test_odds_ratio_by_hand():
    # p = 3/4 and 1/2 have the odds 3 and 1, and sigmoid(log 3) = 3/4: 0.2 log 4/3
    loss = odds_ratio_loss(torch.tensor([0.75]).log(), torch.tensor([0.5]).log(), beta=0.2)
    assert loss.loss.item() == pytest.approx(0.2 * math.log(4 / 3), abs=1e-6)


def test_odds_ratio_of_equally_likely_answers_is_log_2():
    same = -torch.rand(6)
    assert odds_ratio_loss(same, same, beta=0.1).loss.tolist() == pytest.approx([0.1 * math.log(2)] * 6)


def test_odds_ratio_of_a_certain_answer_has_a_gradient_that_is_a_number():
    chosen, rejected = torch.tensor([0.0, -1e-9, -3.0], requires_grad=True), torch.tensor([-1.0, -1.0, 0.0])
    loss = odds_ratio_loss(chosen, rejected, beta=0.1).loss
    loss.sum().backward()
    assert loss.isfinite().all() and chosen.grad is not None and chosen.grad.isfinite().all()


def test_kto_by_hand():
    # rewards 0.5 (2) = 1 and 0.5 (-2) = -1, expected 0.5 (1): sigmoid(-0.5) of the good one, 2 sigmoid(-1.5) of the bad
    policy, reference, good = torch.tensor([-1.0, -3.0]), torch.tensor([-3.0, -1.0]), torch.tensor([True, False])
    loss = kto_loss(policy, reference, good, torch.tensor(1.0), beta=0.5, undesirable_weight=2.0)
    expected = [1 / (1 + math.exp(0.5)), 2 / (1 + math.exp(1.5))]
    assert loss.loss.tolist() == pytest.approx(expected) and loss.reward.tolist() == [1.0, -1.0]


def test_kto_of_the_reference_itself_is_half_the_weight():
    logprobs, good = torch.randn(4), torch.tensor([True, False, True, False])
    loss = kto_loss(logprobs, logprobs, good, torch.zeros(()), beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    assert loss.loss.tolist() == pytest.approx([0.75, 0.25] * 2)


def test_kto_without_kl_is_the_same_on_both_sides():
    """With equal weights an answer that is so much likelier costs, if desirable, what one that is so much less likely
    costs if not; and the two labels of one answer cost 1 together.
    """
    ratio, zero, good = torch.randn(20), torch.zeros(20), torch.ones(20, dtype=torch.bool)
    desirable, mirrored, other_label = (
        kto_loss(ratios, zero, labels, torch.zeros(()), beta=0.4).loss
        for ratios, labels in ((ratio, good), (-ratio, ~good), (ratio, ~good))
    )
    torch.testing.assert_close(desirable, mirrored)
    torch.testing.assert_close(desirable + other_label, torch.ones(20))


def test_kto_kl_is_a_mean_that_is_never_negative_and_has_no_gradient():
    ratios = torch.tensor([1.0, -0.5, 1.0], requires_grad=True)
    assert kto_kl(ratios.sum(), torch.tensor(3)).item() == 0.5
    assert (
        kto_kl(-ratios.sum(), torch.tensor(3)).item() == 0 and not kto_kl(ratios.sum(), torch.tensor(3)).requires_grad
    )
