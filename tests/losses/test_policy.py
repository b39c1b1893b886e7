"""The parts of a policy gradient: worked arithmetic and identities."""

import math

import pytest
import torch

from labkit.losses.advantages import group_advantages, leave_one_out_advantages
from labkit.losses.policy import (
    KLEstimator,
    clipped_policy_loss,
    clipped_ratio_surrogate,
    clipped_weight_surrogate,
    importance_ratio,
    kl_estimate,
    token_weights,
    unclipped_surrogate,
)

MASK = torch.tensor([[False, True, True, False], [True, True, True, True]])


def some(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities now and before, and advantages, of MASK's shape."""
    generator = torch.Generator().manual_seed(seed)
    new, old = -3 * torch.rand(2, 2, 4, generator=generator)
    return new, old, torch.randn(2, 4, generator=generator)


def test_kl_estimates_by_hand():
    # the policy gives a token twice the reference's probability: d = log 2
    new, reference = torch.tensor([[math.log(0.5)]]), torch.tensor([[math.log(0.25)]])
    estimates = [kl_estimate(new, reference, name).item() for name in ("k1", "k2", "k3")]
    assert estimates == pytest.approx([math.log(2), math.log(2) ** 2 / 2, 0.5 - 1 + math.log(2)])


def test_k1_and_k3_mean_the_divergence_and_k2_nearly():
    """The mean over all tokens, each weighed by the policy, is exact: no draws are needed."""
    generator = torch.Generator().manual_seed(1)
    policy, reference = torch.randn(2, 6, generator=generator).double().mul(0.3).log_softmax(-1)
    divergence = (policy.exp() * (policy - reference)).sum()
    k1, k2, k3 = ((policy.exp() * kl_estimate(policy, reference, name)).sum() for name in ("k1", "k2", "k3"))
    assert k1 == pytest.approx(divergence.item()) and k3 == pytest.approx(divergence.item())
    assert k2 == pytest.approx(divergence.item(), rel=0.2) and k2 != pytest.approx(divergence.item(), rel=1e-3)
    assert (kl_estimate(policy, reference, "k3") >= 0).all() and (kl_estimate(policy, reference, "k1") < 0).any()


def test_gradients_of_the_kl_estimates_as_losses():
    """Over draws of the policy k1's has mean 0, and k2's is the divergence's own (Tang and Munos 2025,
    https://arxiv.org/abs/2506.09477); k3's is that of KL(reference || policy).
    """
    logits = torch.tensor([0.3, -0.5, 0.9], requires_grad=True)
    reference = torch.tensor([0.1, 0.4, -0.2]).log_softmax(-1)

    def gradient(value: torch.Tensor) -> list[float]:
        return torch.autograd.grad(value, logits)[0].tolist()

    def mean_of_gradients(name: KLEstimator) -> list[float]:
        policy = logits.log_softmax(-1)
        return gradient((policy.exp().detach() * kl_estimate(policy, reference, name)).sum())

    policy = logits.log_softmax(-1)
    assert mean_of_gradients("k1") == pytest.approx([0, 0, 0], abs=1e-6)
    assert mean_of_gradients("k2") == pytest.approx(gradient((policy.exp() * (policy - reference)).sum()), abs=1e-6)
    policy = logits.log_softmax(-1)
    backwards = (reference.exp() * (reference - policy)).sum()
    assert mean_of_gradients("k3") == pytest.approx(gradient(backwards), abs=1e-6)


def test_ratios_by_token_and_by_sequence_by_hand():
    # the second row's tokens became 2, 1, 1 and 8 times as likely: their geometric mean is 16 ** (1 / 4) = 2
    old = torch.full((2, 4), math.log(0.1))
    new = old + torch.tensor([[9.0, 0.0, math.log(4), 9.0], [math.log(2), 0.0, 0.0, math.log(8)]])
    token, sequence = (importance_ratio(new, old, MASK, level) for level in ("token", "sequence"))
    assert token.flatten().tolist() == pytest.approx([1, 1, 4, 1, 2, 1, 1, 8])
    assert sequence.flatten().tolist() == pytest.approx([1, 2, 2, 1, 2, 2, 2, 2])


def test_of_one_token_a_sequence_is_a_token():
    new, old, _ = some()
    mask = torch.tensor([[False, True, False, False], [True, False, False, False]])
    assert torch.equal(importance_ratio(new, old, mask, "token"), importance_ratio(new, old, mask, "sequence"))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [(1.5, 1.0, -1.3, True), (0.5, 1.0, -0.5, False), (0.5, -1.0, 0.8, True), (1.5, -1.0, 1.5, False)],
)
def test_clip_higher_by_hand(ratio, advantage, loss, clipped):
    """Between 0.8 and 1.3: the gradient goes where the ratio has moved as the advantage asks, and only there."""
    moved = torch.tensor(ratio, requires_grad=True)
    found = clipped_ratio_surrogate(moved, torch.tensor(advantage), low=0.2, high=0.3)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(loss) and bool(found.clipped) is clipped
    assert (moved.grad == 0) == clipped


def test_wide_bounds_clip_nothing():
    new, old, advantages = some()
    ratio = importance_ratio(new, old, MASK, "token")
    wide = clipped_ratio_surrogate(ratio, advantages, low=1e6, high=1e6)
    assert torch.equal(wide.loss, unclipped_surrogate(ratio, advantages).loss) and not wide.clipped.any()


def test_ppos_loss_is_the_clipped_surrogate_summed():
    new, old, advantages = some()
    ratio = importance_ratio(new, old, MASK, "token")
    parts = clipped_ratio_surrogate(ratio, advantages, low=0.2, high=0.2)
    loss, clipped = clipped_policy_loss(new, old, advantages, MASK, cliprange=0.2)
    assert loss == (parts.loss * MASK).sum() and clipped == (parts.clipped & MASK).sum()


def test_a_clipped_weight_silences_no_token():
    # ratios 6 and 2, bounded at 5: gradients of the log-probabilities are -5 A and -2 A
    new = torch.log(torch.tensor([0.6, 0.2])).requires_grad_()
    ratio = torch.exp(new - math.log(0.1))
    found = clipped_weight_surrogate(ratio, new, torch.tensor([0.5, 0.5]), max_weight=5.0)
    found.loss.sum().backward()
    assert (
        new.grad is not None
        and new.grad.tolist() == pytest.approx([-2.5, -1.0])
        and found.clipped.tolist() == [True, False]
    )


def test_on_the_first_step_all_surrogates_have_reinforces_gradient():
    new, _, advantages = some()
    wanted = torch.where(MASK, -advantages, 0.0)
    for surrogate in (
        lambda ratio, logprobs: unclipped_surrogate(ratio, advantages),
        lambda ratio, logprobs: clipped_ratio_surrogate(ratio, advantages, low=0.2, high=0.2),
        lambda ratio, logprobs: clipped_weight_surrogate(ratio, logprobs, advantages, max_weight=5.0),
    ):
        logprobs = new.clone().requires_grad_()
        ratio = importance_ratio(logprobs, new, MASK, "token")
        (surrogate(ratio, logprobs).loss * MASK).sum().backward()
        torch.testing.assert_close(logprobs.grad, wanted)


def test_weights_by_hand():
    # answers of 2 and 4 tokens
    token, answer, constant = (token_weights(MASK, mean, 8) for mean in ("token", "answer", "constant"))
    assert token.weights.sum() == 6 == token.divisor
    assert answer.weights.flatten().tolist() == [0, 0.5, 0.5, 0, 0.25, 0.25, 0.25, 0.25] and answer.divisor == 2
    assert constant.weights.flatten().tolist() == [0, 0.125, 0.125, 0, 0.125, 0.125, 0.125, 0.125]
    assert constant.divisor == 2


def test_of_answers_of_one_length_all_means_are_one_up_to_the_constant():
    mask, loss = torch.ones(3, 5, dtype=torch.bool), torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    means = [
        (loss * part.weights).sum() / part.divisor
        for part in (token_weights(mask, m, 5) for m in ("token", "answer", "constant"))
    ]
    assert means[1].item() == pytest.approx(means[0].item()) == pytest.approx(means[2].item())


def test_group_advantages_by_hand():
    # scores 1 and 3: mean 2, sample deviation sqrt(2); scores 5 and 5 teach nothing
    scores = torch.tensor([1.0, 3.0, 5.0, 5.0])
    assert group_advantages(scores, 2, divide_by_deviation=False).tolist() == [-1, 1, 0, 0]
    scaled = group_advantages(scores, 2, divide_by_deviation=True)
    assert scaled.tolist() == pytest.approx([-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4), 0, 0])


def test_equal_scores_teach_nothing_however_they_are_rounded():
    for score, count in ((1000.1, 6), (300.7, 6)):
        scores = torch.full((count,), score)
        assert group_advantages(scores, count, divide_by_deviation=True).abs().max() == 0


def test_leave_one_out_by_hand_and_beside_the_group_mean():
    scores = torch.tensor([1.0, 2.0, 6.0])  # the others' means: 4, 3.5, 1.5
    assert leave_one_out_advantages(scores, 3).tolist() == pytest.approx([-3, -1.5, 4.5])
    centred = group_advantages(scores, 3, divide_by_deviation=False)
    torch.testing.assert_close(leave_one_out_advantages(scores, 3), centred * 3 / 2)
