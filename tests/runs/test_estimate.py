"""Every stage of a recipe is estimated by its own code."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from labkit.decoding.generate import sample_by_inverse_cdf
from labkit.errors import LabError
from labkit.hub import save_pretrained
from labkit.hub.importing import import_checkpoint
from labkit.model.feedforward import Gated
from labkit.model.transformer import ModelConfig, Transformer
from labkit.paths import demo_folder
from labkit.runs.estimate import Devices, SamplingCost, count_sampling, estimate_stages, model_inside_fake_tensors
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage, parse_plan
from labkit.stages import SFT, Pretrain
from labkit.stages.registry import RolloutSchedule
from labkit.stages.rejectionsampling import RejectionSampling
from labkit.stages.rollouts import RolloutSource
from labkit.text.batch import Batch
from labkit.text.tokenizer import Tokenizer
from labkit.training.cost import CostCounter, fake_tensors
from labkit.training.processes import ParallelConfig
from labkit.training.speed import DeviceSpeed
from tests.tiny_recipe import TRAIN, tiny_recipe

SPEED = DeviceSpeed(1e9, 1e9, 1e-6)


def by_name(recipe=None, run=None, stages=None, **options):
    found = estimate_stages(recipe or tiny_recipe(), Devices(SPEED, **options), stages, run)
    return {one.stage: one for one in found}


@pytest.fixture(scope="module")
def alone():
    """The tiny recipe's stages on one device."""
    return by_name()


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """(A run that begins with a tiny Llama whose embedding has 30 rows more than its tokenizer has tokens, how many
    parameters that has). It reads instructions from a relative path.
    """
    folder = tmp_path_factory.mktemp("imported")
    tokenizer = Tokenizer.load(demo_folder())
    shape = ModelConfig(tokenizer.vocab_size + 30, 128, 16, 1, 1, feed_forward=Gated(24), qk_norm=False)
    save_pretrained(Transformer(shape), folder / "llama")
    tokenizer.save(folder / "llama")
    rows = [{"instruction": f"Where is Tom at {hour}?", "output": "Tom is in the park."} for hour in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        import_checkpoint("llama", "run", tiny_recipe(instructions="talk.jsonl"), say=lambda words: None)
    return Run.open(folder / "run"), Transformer(shape).parameter_count


def test_every_stage_is_estimated(alone):
    found = alone
    assert list(found) == ["pretrain", "sft", "reward", "ppo", "dpo"]
    for one in found.values():
        step = one.step
        parts = step.parameter_bytes + step.gradient_bytes + step.optimizer_state_bytes + step.activation_bytes
        assert step.activation_bytes > 0 and one.peak_bytes >= parts + one.frozen_model_bytes
        assert one.steps == 6 and one.seconds > 6 * one.step_seconds > 0
    assert found["pretrain"].data_seconds > 0 == found["pretrain"].sampling_seconds
    assert (
        found["reward"].parameter_count == found["sft"].parameter_count + 32 + 2
    )  # the head, and the weight of log-probability


def test_what_keeps_some_of_its_answers_is_estimated_without_drawing_them():
    recipe = tiny_recipe()
    stage = RejectionSampling(recipe.stages["ppo"].train, max_new_tokens=6)
    planned = (*recipe.plan, PlannedStage("rejectionsampling", stage))
    found = by_name(replace(recipe, plan=planned), stages=["rejectionsampling"])["rejectionsampling"]
    assert found.step.activation_bytes > 0 and found.seconds > found.sampling_seconds > 0


def test_ppo_reads_two_models_and_keeps_keys_and_values(alone):
    """Four rows of 112 tokens at most (128 less what prompts leave), a block, a key head of 32 numbers, of 4 bytes."""
    ppo, reward = alone["ppo"], alone["reward"]
    model, head = 4 * alone["sft"].parameter_count, 4 * (32 + 2)
    assert ppo.frozen_model_bytes == 2 * model + head and ppo.parameter_count == 2 * model // 4 + head // 4
    keys_and_values = 2 * 4 * 32 * 4
    assert ppo.kv_cache_bytes % 16 == 0 and 8 * keys_and_values < ppo.kv_cache_bytes < 2 * 128 * keys_and_values
    assert ppo.sampling_seconds > 0 and reward.kv_cache_bytes == 0


def test_ppo_is_estimated_from_several_rollouts(monkeypatch):
    """Two steps learn from each: batches 0, 2, 4 … are of others. The widest tells memory, their mean tells time."""
    asked, widths = [], itertools.cycle((16, 48))
    sampled = RolloutSource.next_batch

    def next_batch(source, model, step):
        asked.append(step)
        batch, width = sampled(source, model, step), next(widths)
        tensors = {name: one for name, one in batch._asdict().items() if isinstance(one, torch.Tensor)}
        rows: dict[str, Any] = {name: one[:, :1].expand(-1, width) for name, one in tensors.items() if one.ndim == 2}
        return batch._replace(**rows | {"mask": torch.ones_like(rows["mask"])})

    monkeypatch.setattr(RolloutSource, "next_batch", next_batch)
    recipe, devices = tiny_recipe(), Devices(SPEED)
    (both,) = estimate_stages(recipe, devices, ["ppo"], batches=4)
    (narrow,) = estimate_stages(recipe, devices, ["ppo"], batches=1)
    assert asked == [0, 2, 4, 6, 0]
    assert both.step.activation_bytes > 2 * narrow.step.activation_bytes
    assert 1.4 < both.step_seconds / narrow.step_seconds < 2.2


def test_generation_has_a_speed_of_its_own(alone):
    slow = DeviceSpeed(1e9, 1e9, 1e-3)
    usual, slower = alone["ppo"], by_name(stages=["ppo"], generation_speed=slow)["ppo"]
    assert slower.step_seconds == usual.step_seconds and slower.sampling_seconds > 5 * usual.sampling_seconds


def sampled(new: int, prompt: int = 16) -> SamplingCost:
    """Of four rows by a small model: so many tokens after prompts of so many."""
    with fake_tensors():
        rows = torch.zeros(4, prompt + new, dtype=torch.int64)
        batch, model = Batch(rows, rows, rows.bool()), model_inside_fake_tensors(ModelConfig(64, 256, 16, 2, 2))
        return count_sampling(model, [], batch, RolloutSchedule(new, 1), 0.0, bf16=False, mask_true_share=1.0)


def test_each_token_reads_the_keys_and_values_of_all_before_it():
    with fake_tensors(), torch.no_grad():
        model = model_inside_fake_tensors(ModelConfig(64, 256, 16, 2, 2))
        state, one_by_one = model.new_state(4, 16 + 33), CostCounter(moves_operands=True)
        model.hidden_states(torch.zeros(4, 16, dtype=torch.int64), None, None, state)
        for _ in range(33):
            with one_by_one:
                x = model.hidden_states(torch.zeros(4, 1, dtype=torch.int64), None, None, state)
                sample_by_inverse_cdf(model.logits(x).squeeze(1).float(), torch.zeros(4))
    found = sampled(33).generating
    assert found.moved_bytes == pytest.approx(one_by_one.work.moved_bytes, rel=1e-3)
    assert found.flops == pytest.approx(one_by_one.work.flops, rel=1e-3)
    assert sampled(64).generating.moved_bytes > 2.1 * sampled(32).generating.moved_bytes
    assert sampled(1).generating.moved_bytes > 0


@pytest.fixture(scope="module")
def fsdp():
    """The same, sharded over two CPUs."""
    return by_name(count=2, parallel=ParallelConfig("fsdp"))


def test_a_gpu_never_holds_the_whole_of_a_sharded_model(fsdp):
    """A CPU does, before it is sharded and after."""
    gpus = by_name(count=2, parallel=ParallelConfig("fsdp"), cpu=False)
    assert gpus.keys() == fsdp.keys()
    for name, one in fsdp.items():
        assert gpus[name].step == one.step and gpus[name].peak_bytes <= one.peak_bytes


def test_devices_share_rows_and_with_fsdp_models(alone, fsdp):
    ddp = by_name(count=2)
    for name, one in alone.items():
        assert ddp[name].step.activation_bytes < one.step.activation_bytes
        assert ddp[name].step.parameter_bytes == one.step.parameter_bytes
        assert fsdp[name].step.parameter_bytes == pytest.approx(one.step.parameter_bytes / 2, rel=0.02)
        assert fsdp[name].frozen_model_bytes == pytest.approx(one.frozen_model_bytes / 2, rel=0.02)
        assert fsdp[name].communication_seconds is None
    linked = by_name(stages=["sft"], count=2, link=1e6)["sft"]
    assert linked.communication_seconds == pytest.approx(linked.step.sent_bytes / 1e6)


def test_a_run_is_planned_with_its_own_tokenizer_and_models(imported, tmp_path, monkeypatch):
    """From any directory, though its instructions were named by a relative path."""
    monkeypatch.chdir(tmp_path)
    run, count = imported
    found = by_name(run.recipe, run)
    assert {name: one.parameter_count for name, one in found.items()} == {"pretrain": count, "sft": count}
    longer = run.recipe.with_stages(sft=SFT(replace(TRAIN, batch_size=8)))
    assert by_name(longer, run)["sft"].parameter_count == count


def test_the_model_of_another_run_keeps_its_vocabulary(imported):
    run, count = imported
    plan = parse_plan(f"sft@{run.path}/sft", tiny_recipe().plan)
    assert by_name(tiny_recipe(plan=plan))["sft"].parameter_count == count


class OtherBatch(NamedTuple):
    tokens: Tensor


class OtherBatches(Pretrain):
    def source(self, stage_inputs, model):
        return self

    def next_batch(self, model, step):
        return OtherBatch(torch.zeros(4, 8, dtype=torch.int64))


def test_batches_of_other_names_are_refused_in_words():
    recipe = tiny_recipe(plan=tiny_recipe().plan[:1]).with_stages(pretrain=OtherBatches(TRAIN))
    with pytest.raises(LabError, match=r"cannot estimate pretrain: .*\(OtherBatch\) have no tensors inputs and mask"):
        by_name(recipe)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(LabError, match="A batch of 4 rows cannot be split over 8 processes"):
        by_name(count=8)


def test_a_recipe_of_a_large_model_is_estimated():
    """More than this machine could hold: nothing is built."""
    recipe = tiny_recipe(replace(TRAIN, optimizer="adamw"))
    model = replace(recipe.model, width=16384, depth=9, heads=128, key_value_heads=8, feed_forward=Gated(114688))
    large = replace(recipe, model=model, plan=recipe.plan[:1])
    (one,) = estimate_stages(large, Devices(SPEED, 4, ParallelConfig("fsdp", activation_checkpointing=True)))
    assert one.parameter_count > 50e9 and one.step.parameter_bytes == pytest.approx(
        one.parameter_count
    )  # 4 bytes, a quarter each
