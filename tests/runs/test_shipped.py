"""The run that comes with labkit: how one is made of a run, and that the one in data/demo is what it says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from labkit.errors import LabError
from labkit.evaluation.policies import policy_metrics
from labkit.paths import demo_folder
from labkit.runs.folder import Run
from labkit.runs.pipeline import bind_stage, evaluate_finished_stage, run
from labkit.runs.prepare import prepare_inputs
from labkit.runs.presets import make_recipe
from labkit.runs.shipped import make_demo_run
from labkit.stages import DPO, PPO
from tests.tiny_recipe import tiny_recipe

STAGES = ["pretrain", "sft", "reward", "ppo", "dpo"]


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "source"
    for _ in run(tiny_recipe(), path):
        pass
    return path


@pytest.fixture(scope="module")
def shipped(source) -> Run:
    return make_demo_run(source, source.with_name("shipped"))


def test_weights_are_rounded_and_nothing_else_changes(source, shipped):
    before = Run.open(source)
    assert shipped.recipe == before.recipe
    for stage in shipped.stages:
        small = load_file(stage.path / "model.safetensors")
        large = load_file(source / stage.name / "model.safetensors")
        assert small.keys() == large.keys() and {x.dtype for x in small.values()} == {torch.bfloat16}
        assert all(torch.equal(small[name], large[name].bfloat16()) for name in small)
        assert len(stage.step_records) == len(before.stage(stage.name).step_records)
    assert not (shipped.path / "preferences").exists() and size(shipped.path) < 0.6 * size(source)


def test_the_report_is_of_the_rounded_weights(source, shipped):
    made, before = shipped.report()["stages"], Run.open(source).report()["stages"]
    assert [stage["stage"] for stage in made] == STAGES
    assert [stage["seconds"] for stage in made] == [stage["seconds"] for stage in before]
    assert made[0]["metrics"]["untrained_loss"] == before[0]["metrics"]["untrained_loss"]
    stage_inputs = prepare_inputs(shipped)
    for name in ("pretrain", "sft", "dpo"):
        assert (
            shipped.stage(name).result | evaluate_finished_stage(shipped, name, stage_inputs)
            == shipped.stage(name).result
        )
    assert made[0]["metrics"]["validation_loss"] != before[0]["metrics"]["validation_loss"]


def test_again_in_the_same_place_and_nowhere_else(source, shipped, tmp_path):
    assert make_demo_run(source, shipped.path).recipe == shipped.recipe
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(LabError, match="contains something other than a run"):
        make_demo_run(source, tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"
    begun = Run.create(tmp_path / "begun", tiny_recipe())
    with pytest.raises(LabError, match="has not finished pretrain, sft, reward, ppo, dpo"):
        make_demo_run(begun.path, tmp_path / "other")


def test_data_demo_is_of_the_default_recipe_as_it_is_now():
    demo = Run.open(demo_folder())
    demo.check_same_recipe(make_recipe("lab"))  # the same settings, and the same files of the world
    assert [stage["stage"] for stage in demo.report()["stages"]] == STAGES
    assert size(demo.path) < 10_000_000 and not (demo.path / "preferences").exists()
    assert not list(demo.path.rglob("*partial*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "sft", "ppo", "dpo"])
def test_the_measures_of_data_demo_come_out_again(name):
    """Another processor rounds otherwise and may draw another word: a point of 200 stories, 500 answers. PPO's and
    DPO's reward is the reward model's.
    """
    demo = Run.open(demo_folder())
    said, stage_inputs, stage = (
        demo.stage(name).result,
        bind_stage(demo, name, prepare_inputs(demo)).inputs,
        demo.recipe.stages[name],
    )
    if isinstance(stage, PPO | DPO):
        tokens = stage.max_new_tokens if isinstance(stage, PPO) else demo.recipe.evaluation.answer_max_new_tokens
        asked = demo.recipe.evaluation.policy_prompts, stage.train.max_length, tokens
        found = policy_metrics(demo.model(name), stage_inputs, *asked)
    else:
        found = evaluate_finished_stage(demo, name, stage_inputs)["metrics"]
    known = {
        "validation_loss",
        "grammatical",
        "consistent",
        "accuracy",
        "gold",
        "gold_gain",
        "right",
        "win_rate",
        "reward",
    }
    assert len(known & found.keys()) >= 2
    assert said is not None
    for measure in known & found.keys():
        assert found[measure] == pytest.approx(said["metrics"][measure], abs=0.015), measure
