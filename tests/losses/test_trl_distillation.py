"""TRL's own statements of GKD's loss, on the same tensors: see tests/trl_source.py."""

import ast
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from labkit.losses import generalized_jsd_loss
from tests.trl_source import NEW, OLD, parsed

FILES = {OLD: "trainer/gkd_trainer.py", NEW: "experimental/gkd/gkd_trainer.py"}


def trls_loss(version: str) -> Any:
    """`GKDTrainer.generalized_jsd_loss` of a version, a static method, as a function."""
    nodes = [one for one in ast.walk(parsed(FILES[version], version)) if isinstance(one, ast.FunctionDef)]
    (found,) = [one for one in nodes if one.name == "generalized_jsd_loss"]
    known: dict[str, Any] = {"torch": torch, "F": F}
    found.decorator_list = []
    exec(compile(ast.Module([found], []), "trl", "exec"), known)
    return known["generalized_jsd_loss"]


@pytest.mark.parametrize("version", FILES)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_loss_and_its_gradient_are_trls(version, beta, temperature):
    """Over the tokens of answers alone: TRL's labels are -100 elsewhere."""
    torch.manual_seed(0)
    ours, theirs = (torch.randn(4, 6, 30).mul(2) for _ in range(2))
    mask = torch.rand(4, 6) < 0.6
    labels = torch.randint(30, (4, 6)).masked_fill(~mask, -100)
    student, other = ours.clone().requires_grad_(), ours.clone().requires_grad_()
    found = generalized_jsd_loss(student[mask], theirs[mask], beta=beta, temperature=temperature).loss.sum()
    found = found / mask.sum()
    expected = trls_loss(version)(other, theirs, labels=labels, beta=beta, temperature=temperature)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.backward()
    expected.backward()
    torch.testing.assert_close(student.grad, other.grad, atol=1e-5, rtol=1e-5)
