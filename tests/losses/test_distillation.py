"""The divergences of knowledge distillation by hand, and what they must be equal to."""

import math

import pytest
import torch

from labkit.losses import generalized_jsd_loss, next_token_loss

TEACHER, STUDENT = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.8, 0.2]).log()


def random_logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Of student and teacher: [3, 5, 11] each, far apart."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 11).mul(3)
    return student, teacher


def test_both_kls_by_hand():
    forward = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)  # teacher || student
    reverse = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    for beta, expected in ((0.0, forward), (1.0, reverse)):
        found = generalized_jsd_loss(STUDENT, TEACHER, beta=beta)
        assert found.loss.item() == pytest.approx(expected, abs=1e-6)
        assert found.forward_kl.item() == pytest.approx(forward, abs=1e-6)
        assert found.reverse_kl.item() == pytest.approx(reverse, abs=1e-6)


def test_the_divergence_between_them_by_hand():
    """At beta 0.25 the mixture is a quarter teacher: 0.725 and 0.275."""
    teacher = 0.5 * math.log(0.5 / 0.725) + 0.5 * math.log(0.5 / 0.275)
    student = 0.8 * math.log(0.8 / 0.725) + 0.2 * math.log(0.2 / 0.275)
    loss = generalized_jsd_loss(STUDENT, TEACHER, beta=0.25).loss
    assert loss.item() == pytest.approx(0.25 * teacher + 0.75 * student, abs=1e-6)


def test_temperature_divides_the_logits_of_both():
    """At temperature 2 odds of 4 to 1 are odds of 2 to 1."""
    found = generalized_jsd_loss(STUDENT, TEACHER, beta=0.0, temperature=2.0).loss
    assert found.item() == pytest.approx(0.5 * math.log(0.5 * 3 / 2) + 0.5 * math.log(0.5 * 3), abs=1e-6)
    student, teacher = random_logits()
    cold = generalized_jsd_loss(student, teacher, beta=0.4, temperature=0.5)
    torch.testing.assert_close(cold, generalized_jsd_loss(2 * student, 2 * teacher, beta=0.4))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(beta):
    """Zero, and no gradient; whatever is added to all logits of a token changes nothing."""
    logits, _ = random_logits()
    student, teacher = logits.clone().requires_grad_(), (logits + 7).requires_grad_()
    found = generalized_jsd_loss(student, teacher, beta=beta)
    assert all(one.abs().max() < 1e-5 for one in found)
    found.loss.sum().backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-6 and teacher.grad is None


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 1.0])
def test_its_gradient_goes_to_the_student_alone(beta):
    student, teacher = (one.double().requires_grad_() for one in random_logits())
    loss = generalized_jsd_loss(student, teacher, beta=beta).loss
    assert (loss > 0).all() and loss.shape == (3, 5)
    loss.sum().backward()
    assert student.grad is not None and student.grad.abs().max() > 1e-3 and teacher.grad is None
    torch.testing.assert_close(student.grad.sum(-1), torch.zeros(3, 5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_in_the_middle_it_is_symmetric_and_at_most_log_2():
    student, teacher = random_logits()
    there, back = (generalized_jsd_loss(a, b, beta=0.5).loss for a, b in ((student, teacher), (teacher, student)))
    torch.testing.assert_close(there, back)
    apart = generalized_jsd_loss(torch.tensor([40.0, -40.0]), torch.tensor([-40.0, 40.0]), beta=0.5).loss
    assert (there <= math.log(2)).all() and apart.item() == pytest.approx(math.log(2), abs=1e-6)
    other = generalized_jsd_loss(teacher, student, beta=0.3).loss
    torch.testing.assert_close(generalized_jsd_loss(student, teacher, beta=0.7).loss, other)


def test_divided_by_beta_it_goes_to_the_kl_and_so_jumps_at_the_ends():
    student, teacher = (one.double() / 4 for one in random_logits())
    near, kl = 1e-4, generalized_jsd_loss(student, teacher, beta=0.0).loss
    close = generalized_jsd_loss(student, teacher, beta=near).loss
    assert close.max() < 0.01 < kl.max()
    torch.testing.assert_close((close / near).float(), kl.float(), rtol=0.02, atol=1e-3)
    other, kl = (generalized_jsd_loss(student, teacher, beta=beta).loss for beta in (1 - near, 1.0))
    torch.testing.assert_close((other / near).float(), kl.float(), rtol=0.02, atol=1e-3)


def test_the_forward_kl_to_a_sure_teacher_is_the_cross_entropy():
    student, _ = random_logits()
    labels = torch.randint(11, (3, 5))
    sure = torch.full_like(student, -torch.inf).scatter(-1, labels.unsqueeze(-1), 0.0)
    found = generalized_jsd_loss(student, sure, beta=0.0).loss.sum()
    torch.testing.assert_close(found, next_token_loss(student, labels, torch.ones(3, 5, dtype=torch.bool)).loss_sum)
