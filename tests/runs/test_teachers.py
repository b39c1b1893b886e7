"""A stage that learns from another's model: of the plan or of another run, found, hashed, of the same tokenizer."""

from dataclasses import replace
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.model.feedforward import Gated
from labkit.runs.estimate import Devices, estimate_stages
from labkit.runs.extend import extend_run
from labkit.runs.folder import Run
from labkit.runs.pipeline import rerun_stage, run
from labkit.runs.plan import PlannedStage, parse_plan
from labkit.runs.presets import make_recipe
from labkit.runs.recipe import Recipe, TokenizerConfig
from labkit.runs.settings import override_recipe
from labkit.stages import Pretrain
from labkit.stages.distill import Distill
from labkit.training.speed import DeviceSpeed
from tests.tiny import weights_hash
from tests.tiny_recipe import TRAIN, tiny_recipe

SHORT = replace(TRAIN, steps=2, max_length=120)


def planned(text: str, recipe: Recipe | None = None, **distill: Any) -> Recipe:
    """The tiny recipe with this plan, and with a stage distill of these settings."""
    recipe = recipe or tiny_recipe(SHORT)
    stage = PlannedStage("distill", Distill(SHORT, max_new_tokens=8, **distill))
    return replace(recipe, plan=parse_plan(text, (*recipe.plan, stage)))


def wider(recipe: Recipe) -> Recipe:
    return replace(recipe, model=replace(recipe.model, width=48, feed_forward=Gated(96)))


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """The folder of a finished run of a wider model."""
    path = tmp_path_factory.mktemp("teachers") / "big"
    list(run(wider(planned("pretrain,sft")), path))
    return path


def test_what_it_needs_stands_before_it_and_decides_what_it_becomes():
    recipe = planned("pretrain,sft,distill", teacher="sft")
    assert recipe.predecessor("distill") == "pretrain" and recipe.dependencies("distill") == ["pretrain", "sft"]
    changed = recipe.with_stages(sft=replace(recipe.stages["sft"], train=replace(SHORT, steps=3)))
    assert changed.fingerprint("distill") != recipe.fingerprint("distill")
    assert changed.fingerprint("pretrain") == recipe.fingerprint("pretrain")
    other = planned("pretrain,sft,distill@sft", teacher="runs/big/sft")
    assert other.other_run_stages == ["runs/big/sft"] and other.dependencies("distill") == ["sft"]
    both = planned("sft@runs/a/pretrain,distill@sft", teacher="runs/big/sft")
    assert both.other_run_stages == ["runs/a/pretrain", "runs/big/sft"], "what it begins with gives the tokenizer"
    assert both.model_ancestors("distill") == ["runs/a/pretrain", "runs/big/sft"]
    assert other.model_ancestors("distill") == [None, "runs/big/sft"]


@pytest.mark.parametrize(
    ("plan", "teacher", "said"),
    [
        ("pretrain,sft,distill@sft", "", "distill needs a teacher: set distill.teacher to a stage before it"),
        ("pretrain,sft,distill@sft", "sft", "distill begins with sft, which is its teacher too"),
        ("pretrain,sft,distill@sft", "ppo", "distill cannot learn from ppo: no earlier stage of that name"),
        ("pretrain,sft,reward,distill@sft", "reward", "distill cannot learn from reward: no earlier stage"),
        ("pretrain,distill,sft", "sft", "distill cannot learn from sft: no earlier stage"),
    ],
)
def test_a_teacher_that_is_none_is_refused(plan, teacher, said):
    with pytest.raises(LabError, match=said):
        planned(plan, teacher=teacher)


def test_a_preset_suggests_how_to_train_it():
    given = ["--distill.teacher", "runs/big/sft", "--distill.seq-kd", "--distill.lmbda", "0"]
    for preset, length in (("smoke", 192), ("lab", 192), ("full", 448)):
        made = override_recipe(make_recipe(preset), given, "run", "pretrain,sft,distill@sft").stages
        assert (made["distill"].seq_kd, made["distill"].lmbda, made["distill"].teacher) == (True, 0.0, "runs/big/sft")
        assert made["distill"].train == replace(made["sft"].train, max_length=length, compile=False)


def test_a_student_learns_from_a_wider_model_of_another_run(big, tmp_path):
    """Its tokenizer is the teacher's; its weights are noted, and asked for when they change."""
    recipe = planned("pretrain,sft,distill@sft", teacher=f"{big}/sft")
    path = tmp_path / "small"
    results: list[Any] = [one.result for one in run(recipe, path) if one.phase == "finished"]
    made, teacher = Run.open(path), Run.open(big)
    assert made.inputs[f"{big}/sft"] == teacher.stage("sft").weights_hash
    assert (path / "tokenizer.json").read_bytes() == (big / "tokenizer.json").read_bytes()
    measured = results[-1]["metrics"]
    assert {"forward_kl", "forward_kl_before", "own_answers_kl", "teacher_right", "untrained_loss"} <= measured.keys()
    assert results[-1]["after"] == "sft" and list(run(recipe, path, resume=True))[-1].phase == "skipped"
    estimate = estimate_stages(recipe, Devices(DeviceSpeed(1e9, 1e9, 1e-6)), ["distill"], made)[0]
    assert estimate.frozen_model_bytes == 4 * teacher.model("sft").parameter_count
    assert estimate.sampling_seconds > 0


def test_what_the_teacher_takes_is_estimated(big):
    """Its weights beside the student's; the answers that it writes cost more than the student's."""

    def estimated(**changes):
        recipe = planned("pretrain,sft,distill@sft", teacher=f"{big}/sft", **changes)
        return estimate_stages(recipe, Devices(DeviceSpeed(1e9, 1e9, 1e-6)), ["distill"])[0]

    off, half, on = (estimated(lmbda=lmbda) for lmbda in (0.0, 0.5, 1.0))
    teachers = estimated(lmbda=0.0, seq_kd=True)
    assert 0 < off.sampling_seconds < half.sampling_seconds < on.sampling_seconds < teachers.sampling_seconds
    assert off.kv_cache_bytes == 0 < on.kv_cache_bytes < teachers.kv_cache_bytes
    assert off.frozen_model_bytes == on.frozen_model_bytes > off.step.parameter_bytes


def test_a_teacher_with_other_tokens_or_a_shorter_context_is_refused(big, tmp_path):
    """Before anything is trained, with the run's folder as it was."""
    small = tiny_recipe(SHORT, tokenizer=TokenizerConfig(documents=40))
    list(run(replace(small, plan=parse_plan("pretrain,sft", small.plan)), tmp_path / "other"))
    extended = planned("pretrain,sft,distill@sft", small, teacher=f"{big}/sft")
    extend_run(tmp_path / "other", extended)
    with pytest.raises(LabError, match=r"big has a different tokenizer from .*other: \d+ and \d+ tokens, so that"):
        list(run(extended, tmp_path / "other", ["distill"], resume=True))
    assert not (tmp_path / "other" / "distill").exists()
    long = planned("pretrain,sft,distill@sft", teacher=f"{big}/sft")
    stage: Any = long.stages["distill"]
    with pytest.raises(LabError, match="distill.train.max_length is 140 tokens, but the model's context is 128"):
        long.with_stages(distill=replace(stage, train=replace(SHORT, max_length=140)))
    wide = replace(tiny_recipe(SHORT), model=replace(tiny_recipe().model, context=160))
    own = planned("pretrain,sft,distill@sft", wide, teacher=f"{big}/sft")
    own = own.with_stages(distill=replace(stage, train=replace(SHORT, max_length=140)))
    with pytest.raises(LabError, match="distill.train.max_length is 140 tokens, but the context of .*big/sft is 128"):
        list(run(own, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_teacher_that_is_named_later_is_noted_and_one_that_changed_is_refused(big, tmp_path):
    """In a stage that is added to a run, and in one that is trained again."""
    path, first = tmp_path / "small", tmp_path / "first"
    list(run(wider(planned("pretrain,sft")), first))
    list(run(planned("pretrain,sft"), path))
    recipe = planned("pretrain,sft,distill@sft", teacher=f"{first}/sft")
    extend_run(path, recipe)
    list(run(recipe, path, resume=True))
    assert Run.open(path).inputs[f"{first}/sft"] == Run.open(first).stage("sft").weights_hash
    before = weights_hash(Run.open(path).model("distill"))
    stage: Any = recipe.stages["distill"]
    list(rerun_stage(path, "distill", replace(stage, teacher=f"{first}/pretrain")))
    made = Run.open(path)
    assert made.inputs[f"{first}/pretrain"] == Run.open(first).stage("pretrain").weights_hash
    assert weights_hash(made.model("distill")) != before
    list(rerun_stage(first, "pretrain", Pretrain(replace(SHORT, steps=1))))
    with pytest.raises(LabError, match="has changed since .* was started with it"):
        list(rerun_stage(path, "distill"))
