"""Knowledge distillation: how far a student's next-token distribution is from its teacher's."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class DistillationLoss(NamedTuple):
    """Of each token, in nats: [...] each. loss: what is minimised. forward_kl: KL(teacher || student); reverse_kl:
    KL(student || teacher); both without a gradient.
    """

    loss: Tensor
    forward_kl: Tensor
    reverse_kl: Tensor


def generalized_jsd_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float, temperature: float = 1.0
) -> DistillationLoss:
    """The generalized Jensen-Shannon divergence of generalized knowledge distillation (GKD; Agarwal et al. 2023,
    https://arxiv.org/abs/2306.13649, section 2), a token at a time. With P the teacher, Q the student:

        M = beta P + (1 - beta) Q
        loss = beta KL(P || M) + (1 - beta) KL(Q || M)        0 < beta < 1
        loss = KL(P || Q)                                     beta = 0, the forward KL
        loss = KL(Q || P)                                     beta = 1, the reverse KL

    The formula of the first line goes to 0 with beta, and with 1 - beta; it is the loss divided by beta that goes to
    the forward KL (Huszár 2015, https://arxiv.org/abs/1511.05101). So the loss jumps at both ends, as it does in TRL's
    `GKDTrainer`, and the learning rate that suits beta = 0 is small for beta = 0.1. At beta = 0.5 it is symmetric and
    at most log 2.

    student_logits, teacher_logits: [..., V], any precision (everything is computed in fp32); no gradient goes to the
    teacher's. temperature: of both distributions; above 1 it shows more of what the teacher thinks of unlikely tokens
    (Hinton et al. 2015, https://arxiv.org/abs/1503.02531), and no factor temperature^2 is put before the loss. Not
    reduced: sum over the tokens that count.
    """
    student = (student_logits.float() / temperature).log_softmax(-1)
    teacher = (teacher_logits.detach().float() / temperature).log_softmax(-1)
    with torch.no_grad():
        forward_kl, reverse_kl = _kl(teacher, student), _kl(student, teacher)
    if beta == 0:
        return DistillationLoss(_kl(teacher, student), forward_kl, reverse_kl)
    if beta == 1:
        return DistillationLoss(_kl(student, teacher), forward_kl, reverse_kl)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    loss = beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)
    return DistillationLoss(loss, forward_kl, reverse_kl)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [..., V] -> [...] nats; a token that p forbids adds nothing."""
    return (p.exp() * (p - q).masked_fill(p == -torch.inf, 0.0)).sum(-1)
