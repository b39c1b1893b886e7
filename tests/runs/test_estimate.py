"""Every stage of a recipe is estimated by its own code."""

from dataclasses import replace

import pytest

from labkit.errors import LabError
from labkit.model.feedforward import Gated
from labkit.runs.estimate import Devices, estimate_stages
from labkit.training.processes import ParallelConfig
from labkit.training.speed import DeviceSpeed
from tests.tiny_recipe import TRAIN, tiny_recipe

SPEED = DeviceSpeed(1e9, 1e9, 1e-6)


def by_name(recipe=None, **options):
    found = estimate_stages(recipe or tiny_recipe(), Devices(SPEED, **options))
    return {one.stage: one for one in found}


def test_every_stage_is_estimated():
    found = by_name()
    assert list(found) == ["pretrain", "sft", "reward", "ppo", "dpo"]
    for one in found.values():
        parts = one.step.parameters + one.step.gradients + one.step.optimizer_state + one.step.activations
        assert one.step.activations > 0 and one.peak_bytes >= parts + one.frozen
        assert one.steps == 6 and one.seconds > 6 * one.step_seconds > 0
    assert found["pretrain"].data_seconds > 0 == found["pretrain"].sampling_seconds
    assert (
        found["reward"].parameter_count == found["sft"].parameter_count + 32 + 2
    )  # the head, and the weight of log-probability


def test_ppo_reads_two_models_and_keeps_keys_and_values():
    """Four rows of 112 tokens at most (128 less what prompts leave), a block, a key head of 32 numbers, of 4 bytes."""
    ppo, reward = by_name()["ppo"], by_name()["reward"]
    model, head = 4 * by_name()["sft"].parameter_count, 4 * (32 + 2)
    assert ppo.frozen == 2 * model + head and ppo.parameter_count == 2 * model // 4 + head // 4
    keys_and_values = 2 * 4 * 32 * 4
    assert ppo.cache % 16 == 0 and 8 * keys_and_values < ppo.cache < 2 * 128 * keys_and_values
    assert ppo.sampling_seconds > 0 and reward.cache == 0


def test_devices_share_rows_and_with_fsdp_models():
    alone = by_name()
    ddp, fsdp = by_name(count=2), by_name(count=2, parallel=ParallelConfig("fsdp"))
    for name, one in alone.items():
        assert ddp[name].step.activations < one.step.activations
        assert ddp[name].step.parameters == one.step.parameters
        assert fsdp[name].step.parameters == pytest.approx(one.step.parameters / 2, rel=0.02)
        assert fsdp[name].frozen == pytest.approx(one.frozen / 2, rel=0.02)
        assert fsdp[name].communication_seconds is None
    linked = by_name(count=2, link=1e6)["sft"]
    assert linked.communication_seconds == pytest.approx(linked.step.sent_bytes / 1e6)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(LabError, match="A batch of 4 rows cannot be shared by 8 processes"):
        by_name(count=8)


def test_a_recipe_of_a_large_model_is_estimated():
    """More than this machine could hold: nothing is built."""
    recipe = tiny_recipe(replace(TRAIN, optimizer="adamw"))
    model = replace(recipe.model, width=8192, depth=64, heads=64, key_value_heads=8, feed_forward=Gated(28672))
    large = replace(recipe, model=model, plan=recipe.plan[:1])
    (one,) = estimate_stages(large, Devices(SPEED, 4, ParallelConfig("fsdp", activation_checkpointing=True)))
    assert one.parameter_count > 50e9 and one.step.parameters == pytest.approx(
        one.parameter_count
    )  # 4 bytes, a quarter each
