"""TRL's own statements of the direct losses, on the same tensors: see tests/trl_source.py."""

import ast
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from labkit.losses import dpo_loss, ipo_loss, kto_kl, kto_loss, odds_ratio_loss, robust_dpo_loss, simpo_loss
from tests.trl_source import method, run

close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
CPU = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x)


def trl(file: str, name: str, **known: Any) -> Any:
    """A method of one of TRL's trainers, as a function of a trainer."""
    return run(ast.Module([method(f"trainer/{file}.py", name)], []), **known)[name]


@pytest.fixture
def logprobs() -> torch.Tensor:
    """[4, 8]: of chosen and rejected answers to the policy, then to the reference."""
    torch.manual_seed(1)
    return -torch.rand(4, 8).mul(20)


LOSSES = [
    ("sigmoid", 0.0, dpo_loss),
    ("sigmoid", 0.2, partial(dpo_loss, label_smoothing=0.2)),
    ("robust", 0.2, partial(robust_dpo_loss, label_smoothing=0.2)),
    ("ipo", 0.0, ipo_loss),
]


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize(("loss_type", "label_smoothing", "ours"), LOSSES)
def test_losses_against_a_reference_are_trls(logprobs, loss_type, label_smoothing, ours, beta):
    divergences = SimpleNamespace(ALPHA_DIVERGENCE="alpha_divergence", JS_DIVERGENCE="js_divergence")
    trainer = SimpleNamespace(
        accelerator=CPU,
        reference_free=False,
        f_divergence_type="reverse_kl",
        f_divergence_params=None,
        beta=beta,
        label_smoothing=label_smoothing,
    )
    theirs = trl("dpo_trainer", "dpo_loss", FDivergenceType=divergences)(trainer, *logprobs, loss_type)
    for one, other in zip(theirs, ours(*logprobs, beta=beta), strict=True):
        close(one, other)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 0.5), (2.5, 1.4), (1.0, 0.0)])
def test_simpos_loss_is_trls(logprobs, beta, gamma):
    trainer = SimpleNamespace(
        accelerator=CPU, alpha=0.0, loss_type="simpo", simpo_gamma=gamma, beta=beta, label_smoothing=0.0
    )
    chosen, rejected = logprobs[:2] / 7  # TRL gives means over an answer's tokens to this method
    theirs = trl("cpo_trainer", "cpo_loss")(trainer, chosen, rejected)
    for one, other in zip(theirs, simpo_loss(chosen, rejected, beta=beta, gamma=gamma), strict=True):
        close(one, other)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpos_odds_ratio_is_trls(logprobs, beta):
    chosen, rejected = logprobs[:2] / 7
    theirs = trl("orpo_trainer", "odds_ratio_loss")(SimpleNamespace(accelerator=CPU, beta=beta), chosen, rejected)
    ours = odds_ratio_loss(chosen, rejected, beta=beta)
    close(-theirs[0], ours.loss)  # TRL subtracts it from the loss of the chosen answers
    close(theirs[1], ours.chosen_reward)
    close(theirs[2], ours.rejected_reward)


@pytest.mark.parametrize("mismatched", [0.5, -0.5])
def test_ktos_loss_is_trls(logprobs, mismatched):
    """With a reference point above zero, and with one that is negative before it is clamped."""
    (policy, reference), good = logprobs[:2], torch.tensor([True, False, False, True, True, True, False, True])
    other = reference + torch.randn(8) + mismatched
    trainer = SimpleNamespace(
        accelerator=CPU, calculate_KL=True, loss_type="kto", beta=0.2, desirable_weight=1.3, undesirable_weight=0.7
    )
    sides = [policy[good], policy[~good], other, reference[good], reference[~good], reference]
    losses, chosen, rejected, kl = trl("kto_trainer", "kto_loss")(trainer, *sides)
    point = kto_kl((other - reference).sum(), torch.tensor(8))
    ours = kto_loss(policy, reference, good, point, beta=0.2, desirable_weight=1.3, undesirable_weight=0.7)
    close(kl, point)
    close(losses, torch.cat([ours.loss[good], ours.loss[~good]]))
    close(chosen, ours.reward[good])
    close(rejected, ours.reward[~good])
    assert (point > 0) == (mismatched > 0)
