"""GRPO, its loss types, GSPO and RLOO beside TRL's own statements, on the same tensors: see tests/trl_source.py."""

import ast
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from labkit.losses.advantages import group_advantages, leave_one_out_advantages
from labkit.losses.policy import (
    clipped_ratio_surrogate,
    clipped_weight_surrogate,
    importance_ratio,
    kl_estimate,
    token_weights,
    truncated_importance_weights,
)
from tests.trl_source import NEW, between, parsed, run

B, T, G = 6, 9, 3
close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


@pytest.fixture
def rollout() -> SimpleNamespace:
    torch.manual_seed(3)
    mask = torch.arange(T).repeat(B, 1) < torch.tensor([9, 2, 7, 4, 8, 1])[:, None]
    old, reference = (-torch.rand(B, T).mul(3) for _ in range(2))
    return SimpleNamespace(
        mask=mask, old=old, new=old + 0.5 * torch.randn(B, T), reference=reference, advantages=torch.randn(B)
    )


def whole_blocks(tree: ast.AST, first: str, last_test: str) -> ast.Module:
    """The statements from the one that assigns `first` to the `if` whose test begins with these words."""
    for node in ast.walk(tree):
        for block in (value for _, value in ast.iter_fields(node) if isinstance(value, list)):
            at = [
                i for i, one in enumerate(block) if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == first
            ]
            ends = [
                i
                for i, one in enumerate(block)
                if isinstance(one, ast.If) and ast.unparse(one.test).startswith(last_test)
            ]
            if at and ends and at[0] < ends[-1]:
                return ast.Module(block[at[0] : ends[-1] + 1], [])
    raise AssertionError(f"no block of TRL assigns {first} before it asks {last_test}")


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("loss_type", "mean"), [("grpo", "answer"), ("bnpo", "token"), ("dr_grpo", "constant")])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_grpos_losses_are_trls(rollout, level, loss_type, mean, beta):
    """With DAPO's two bounds; of whole sequences, GSPO's loss."""
    trainer = SimpleNamespace(
        importance_sampling_level=level,
        epsilon_low=0.2,
        epsilon_high=0.28,
        args=SimpleNamespace(delta=None),
        use_vllm=False,
        beta=beta,
        loss_type=loss_type,
        current_gradient_accumulation_steps=1,
        max_completion_length=12,
    )
    theirs = run(
        whole_blocks(parsed("trainer/grpo_trainer.py"), "log_ratio", "self.loss_type == "),
        self=trainer,
        per_token_logps=rollout.new,
        old_per_token_logps=rollout.old,
        completion_mask=rollout.mask.float(),
        advantages=rollout.advantages,
        entropy_mask=None,
        per_token_kl=kl_estimate(rollout.new, rollout.reference, "k3"),
    )["loss"]
    ratio = importance_ratio(rollout.new, rollout.old, rollout.mask, level)
    per_token = clipped_ratio_surrogate(ratio, rollout.advantages.unsqueeze(-1), low=0.2, high=0.28).loss
    per_token = per_token + beta * kl_estimate(rollout.new, rollout.reference, "k3")
    weights, divisor = token_weights(rollout.mask, mean, 12)
    close(theirs, (per_token * weights).sum() / divisor)


def test_k3_is_trls(rollout):
    code = between(parsed("trainer/grpo_trainer.py"), "per_token_kl", "per_token_kl")
    found = run(code, ref_per_token_logps=rollout.reference, per_token_logps=rollout.new)["per_token_kl"]
    close(found, kl_estimate(rollout.new, rollout.reference, "k3"))


@pytest.mark.parametrize(("scale", "divide"), [("group", True), ("none", False)])
def test_group_advantages_are_trls(scale, divide):
    torch.manual_seed(4)
    rewards = torch.randn(B)
    code = whole_blocks(parsed("trainer/grpo_trainer.py"), "mean_grouped_rewards", "self.scale_rewards != ")
    trainer = SimpleNamespace(num_generations=G, scale_rewards=scale)
    found = run(code, self=trainer, rewards=rewards)["advantages"]
    close(found, group_advantages(rewards, G, divide_by_deviation=divide))


def test_leave_one_out_advantages_are_trls():
    torch.manual_seed(5)
    rewards = torch.randn(B)
    code = between(parsed("trainer/rloo_trainer.py"), "grouped_sum", "baselines")
    trainer = SimpleNamespace(num_generations=G)
    baselines = run(code, self=trainer, rewards=rewards, grouped_rewards=rewards.view(-1, G))["baselines"]
    close(rewards - baselines, leave_one_out_advantages(rewards, G))


def test_cispos_loss_is_trls(rollout):
    """Of the new version, whose epsilon_high is the bound itself."""
    trainer = SimpleNamespace(loss_type="cispo", epsilon_high=1.3)
    (code,) = [
        node
        for node in ast.walk(parsed("trainer/grpo_trainer.py", NEW))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "self.loss_type == 'cispo'" and node.orelse
        if "clamped_ratios" in ast.unparse(node.body[0])
    ]
    ratio = importance_ratio(rollout.new, rollout.old, rollout.mask, "token")
    advantages = rollout.advantages.unsqueeze(-1)
    theirs = run(
        ast.Module([code], []), self=trainer, coef_1=ratio, advantages=advantages, per_token_logps=rollout.new
    )["per_token_loss"]
    found = clipped_weight_surrogate(ratio, rollout.new, advantages, max_weight=1.3)
    close(theirs, found.loss)
    assert found.clipped.any() and not found.clipped.all()


def test_truncated_importance_weights_are_trls(rollout):
    code = between(parsed("trainer/grpo_trainer.py"), "importance_sampling_ratio", "importance_sampling_ratio")
    trainer = SimpleNamespace(vllm_importance_sampling_cap=1.2)
    theirs = run(code, self=trainer, old_per_token_logps=rollout.new, sampling_per_token_logps=rollout.old)[
        "importance_sampling_ratio"
    ]
    found = truncated_importance_weights(rollout.new, rollout.old, rollout.mask, cap=1.2)
    close(theirs[rollout.mask], found[rollout.mask])
    assert (found[~rollout.mask] == 1).all() and (found == torch.tensor(1.2)).any()
