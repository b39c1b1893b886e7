"""TRL's own statements, on the same tensors: see tests/trl_source.py."""

import ast
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from labkit.losses import clipped_policy_loss, clipped_value_loss, dpo_loss, gae, pairwise_loss, shaped_rewards, whiten
from labkit.losses.policy import kl_estimate
from tests.trl_source import NEW, OLD, between, method, parsed, run

B, T = 6, 9
LENGTHS = [9, 9, 7, 4, 8, 1]
close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


@pytest.fixture
def rollout() -> SimpleNamespace:
    """Answers of several lengths: TRL's score stands one place behind the last token, where there is one, in a state
    with a value and without a log-probability; `whole` is the mask with that place.
    """
    torch.manual_seed(0)
    lengths = torch.tensor(LENGTHS)
    place = torch.arange(T).repeat(B, 1)
    mask, whole = place < lengths[:, None], place < lengths[:, None] + 1
    logprobs, reference = (-torch.rand(B, T).mul(3).masked_fill(~mask, -1.0) for _ in range(2))
    return SimpleNamespace(
        mask=mask,
        whole=whole,
        lengths=lengths,
        logprobs=logprobs.masked_fill(~mask, 1.0),
        reference=reference.masked_fill(~mask, 1.0),
        values=torch.randn(B, T).masked_fill(~whole, 0.0),
        scores=torch.randn(B),
    )


class PPOSource(NamedTuple):
    """The file of PPO in a version of TRL, and the one with the functions that it calls."""

    trainer: ast.Module
    library: ast.Module


@pytest.fixture(params=[OLD, NEW])
def source(request) -> PPOSource:
    if request.param == OLD:
        return PPOSource(parsed("trainer/ppo_trainer.py"), parsed("core.py"))
    file = parsed("experimental/ppo/ppo_trainer.py", NEW)
    return PPOSource(file, file)


def trl_advantages(source: PPOSource, rollout: SimpleNamespace, kl_estimator: str = "k1") -> dict[str, Any]:
    args = SimpleNamespace(kl_estimator=kl_estimator, kl_coef=0.15, whiten_rewards=False, gamma=0.97, lam=0.9)
    code = between(source.trainer, "logr", "advantages")
    return run(
        code,
        source.library,
        args=args,
        logprobs=rollout.logprobs,
        ref_logprobs=rollout.reference,
        scores=rollout.scores,
        values=rollout.values,
        responses=torch.zeros(B, T),
        sequence_lengths=rollout.lengths - 1,
        sequence_lengths_p1=rollout.lengths,
        padding_mask=~rollout.mask,
        padding_mask_p1=~rollout.whole,
        empty_cache=lambda: None,
    )


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_rewards_advantages_and_returns_are_trls(source, rollout, estimator):
    theirs = trl_advantages(source, rollout, estimator)
    close(theirs["kl"] * rollout.mask, kl_estimate(rollout.logprobs, rollout.reference, estimator) * rollout.mask)
    rewards = shaped_rewards(
        rollout.scores, rollout.logprobs, rollout.reference, rollout.whole, kl_coef=0.15, estimator=estimator
    )
    close(theirs["rewards"], rewards)
    ours = gae(rewards, rollout.values, rollout.whole, gamma=0.97, lam=0.9)
    close(theirs["returns"] * rollout.whole, ours.returns)
    # TRL divides by the deviation with N - 1, we by that with N
    count = rollout.mask.sum()
    white = whiten(ours.advantages, rollout.mask) * torch.sqrt((count - 1) / count)
    close(theirs["advantages"], white)


def test_ppos_losses_are_trls(source, rollout):
    theirs = trl_advantages(source, rollout)
    moved, values = rollout.logprobs + 0.4 * torch.randn(B, T), rollout.values + 0.7 * torch.randn(B, T)
    found = run(
        between(source.trainer, "vpredclipped", "loss"),
        source.library,
        args=SimpleNamespace(cliprange=0.2, cliprange_value=0.3, vf_coef=0.1),
        vpred=values.masked_fill(~rollout.whole, 0),
        mb_values=rollout.values,
        mb_return=theirs["returns"],
        new_logprobs=moved.masked_fill(~rollout.mask, 1.0),
        mb_logprobs=rollout.logprobs,
        mb_advantage=theirs["advantages"],
        padding_mask=~rollout.mask,
        padding_mask_p1=~rollout.whole,
        micro_batch_inds=slice(None),
    )
    policy, clipped = clipped_policy_loss(moved, rollout.logprobs, theirs["advantages"], rollout.mask, cliprange=0.2)
    value, held = clipped_value_loss(values, rollout.values, theirs["returns"], rollout.whole, cliprange_value=0.3)
    count, states = rollout.mask.sum(), rollout.whole.sum()
    close(found["pg_loss"], policy / count)
    close(found["vf_loss"], value / states)
    close(found["vf_clipfrac"], held / states)
    close(found["loss"], policy / count + 0.1 * value / states)
    assert 0 < clipped < count and 0 < held < states


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpos_loss_is_trls(beta):
    torch.manual_seed(1)
    chosen, rejected, chosen_before, rejected_before = (-torch.rand(8).mul(20) for _ in range(4))
    known = run(
        ast.Module([method("trainer/dpo_trainer.py", "dpo_loss")], []),
        FDivergenceType=SimpleNamespace(ALPHA_DIVERGENCE="alpha_divergence", JS_DIVERGENCE="js_divergence"),
    )
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        reference_free=False,
        f_divergence_type="reverse_kl",
        f_divergence_params=None,
        beta=beta,
        label_smoothing=0.0,
    )
    losses, better, worse = known["dpo_loss"](trainer, chosen, rejected, chosen_before, rejected_before)
    ours = dpo_loss(chosen, rejected, chosen_before, rejected_before, beta=beta)
    close(losses, ours[0])
    close(better, ours[1])
    close(worse, ours[2])


def test_the_reward_models_loss_is_trls():
    torch.manual_seed(2)
    scores = torch.randn(10, 1)
    known = run(ast.Module([method("trainer/reward_trainer.py", "compute_loss")], []))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=None),
        accelerator=SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x),
        _metrics={"eval": {name: [] for name in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}},
        _total_train_tokens=0,
    )
    loss = known["compute_loss"](trainer, lambda **inputs: SimpleNamespace(logits=scores), {})
    ours, right = pairwise_loss(scores[:5, 0], scores[5:, 0])
    close(loss, ours.mean())
    assert trainer._metrics["eval"]["accuracy"] == [pytest.approx(float(right.float().mean()))]
