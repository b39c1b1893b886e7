"""TRL's statements of a reward model's loss, with margin and centering, on the same tensors: tests/trl_source.py."""

import ast
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from labkit.losses import centering_loss, pairwise_loss
from tests.trl_source import method, run

close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


def trl_loss(scores: torch.Tensor, inputs: dict[str, torch.Tensor], coefficient: float | None) -> torch.Tensor:
    """TRL's mean over the pairs whose chosen scores are the first half."""
    known = run(ast.Module([method("trainer/reward_trainer.py", "compute_loss")], []))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=coefficient),
        accelerator=SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x),
        _metrics={"eval": {name: [] for name in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}},
        _total_train_tokens=0,
    )
    return known["compute_loss"](trainer, lambda **given: SimpleNamespace(logits=scores[:, None]), inputs)


@pytest.mark.parametrize("coefficient", [None, 0.01, 0.5])
@pytest.mark.parametrize("with_margin", [False, True])
def test_margin_and_centering_are_trls(coefficient, with_margin):
    torch.manual_seed(3)
    scores, margin = torch.randn(12), torch.rand(6) * 3
    inputs = {"margin": margin} if with_margin else {}
    chosen, rejected = scores.chunk(2)
    ours = pairwise_loss(chosen, rejected, margin if with_margin else 0.0).loss
    ours = ours + (coefficient or 0) * centering_loss(torch.stack((chosen, rejected), 1), torch.ones(6, 2).bool())
    close(trl_loss(scores, inputs, coefficient), ours.mean())
