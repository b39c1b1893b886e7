"""Runs whose finished stages have lost their weights: what is trained now may need them, or not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import LabError
from labkit.runs import pipeline
from labkit.runs.folder import Run
from labkit.runs.needed_stages import check_needed_stages
from labkit.runs.pipeline import rerun_stage, run
from labkit.training import weights
from labkit.training.weights import INDEX, WEIGHTS, weight_files
from tests.faults import tree
from tests.tiny_run import OTHER, RECIPE, STAGES, make, stub

GONE = r"pretrain is finished, but its weights \(model.safetensors\) are gone"


@pytest.fixture(scope="module")
def stubbed():
    with pytest.MonkeyPatch.context() as patched:
        stub(patched)
        yield patched


@pytest.fixture(scope="module")
def finished(stubbed, tmp_path_factory) -> Path:
    """A run whose pretraining is in shards, and finished with its fine-tuning."""
    path = tmp_path_factory.mktemp("runs") / "made"
    with pytest.MonkeyPatch.context() as small:
        small.setattr(weights, "MAX_SHARD_BYTES", 10_000)
        make(RECIPE, path, ["pretrain"])
    make(RECIPE, path, resume=True)
    return path


@pytest.fixture
def made(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def remove_weights(stage: Path) -> None:
    for file in stage.glob("model*"):
        file.unlink()


def test_what_nothing_reads_may_be_gone(made):
    remove_weights(made / "pretrain")
    before = tree(made)
    with pytest.warns(UserWarning, match=rf"{GONE}.* No stage that is trained now reads them"):
        events = list(run(RECIPE, made, STAGES, resume=True))
    assert [event.phase for event in events[1:]] == ["skipped", "skipped"] and tree(made) == before


@pytest.mark.parametrize("command", ["resume", "again"])
def test_what_a_stage_begins_with_is_checked_before_anything_is_read(made, monkeypatch, command):
    remove_weights(made / "pretrain")
    (made / "tokenizer.json").unlink()
    if command == "resume":
        shutil.rmtree(made / "sft")
    before = tree(made)
    monkeypatch.setattr(pipeline, "prepare_inputs", lambda run: pytest.fail("the sources were read"))
    with pytest.raises(LabError, match=GONE):
        list(run(RECIPE, made, STAGES, resume=True) if command == "resume" else rerun_stage(made, "sft", OTHER))
    assert tree(made) == before


def test_all_shards_are_counted(made):
    files = weight_files(made / "pretrain")
    files[1].unlink()
    with pytest.raises(LabError, match=rf"pretrain lacks 1 of the {len(files)} files .* first is {files[1].name}"):
        list(rerun_stage(made, "sft", OTHER))
    with pytest.warns(UserWarning, match="pretrain lacks 1 of the .* No stage that is trained now reads them"):
        list(run(RECIPE, made, STAGES, resume=True))
    list(rerun_stage(made, "pretrain"))  # which is made anew


@pytest.mark.parametrize("command", ["resume", "again"])
def test_a_stage_that_is_refused_once_all_is_read_leaves_no_tokenizer(made, monkeypatch, command):
    (made / "tokenizer.json").unlink()
    if command == "resume":
        shutil.rmtree(made / "sft")

    def refuse(*given):
        raise LabError("None of the conversations fits")

    monkeypatch.setattr(type(RECIPE.stages["sft"]), "check", refuse)
    before = tree(made)
    with pytest.raises(LabError, match="None of the conversations fits"):
        list(run(RECIPE, made, STAGES, resume=True) if command == "resume" else rerun_stage(made, "sft"))
    assert tree(made) == before


@pytest.fixture
def second_dpo(tmp_path) -> Run:
    """A run whose stages are all finished but dpo-2, which comes after dpo."""
    second = replace(RECIPE.plan[-1], name="dpo-2", after="dpo")
    opened = Run.create(tmp_path / "run", replace(RECIPE, plan=(*RECIPE.plan, second)))
    for stage in opened.stages[:-1]:
        stage.path.mkdir()
        (stage.path / "result.json").write_text("{}")
        (stage.path / WEIGHTS).touch()
    return opened


def test_the_model_whose_answers_were_compared_is_needed_until_they_are_there(second_dpo):
    check_needed_stages(second_dpo, ["dpo-2"])
    (second_dpo.path / "sft" / WEIGHTS).unlink()
    with pytest.raises(LabError, match="sft is finished, but its weights"):
        check_needed_stages(second_dpo, ["dpo-2"])
    (second_dpo.path / "preferences").mkdir()
    for split in ("train", "validation"):
        (second_dpo.path / "preferences" / f"{split}.jsonl").touch()
    check_needed_stages(second_dpo, ["dpo-2"])
    with pytest.raises(LabError, match="sft is finished, but its weights"):
        check_needed_stages(second_dpo, ["dpo"])  # it begins with them


def test_a_reward_model_that_only_measures_may_be_gone_but_not_be_half_there(second_dpo):
    reward = second_dpo.path / "reward"
    (reward / WEIGHTS).unlink()
    check_needed_stages(second_dpo, ["dpo-2"])
    with pytest.raises(LabError, match="reward is finished, but its weights"):
        check_needed_stages(second_dpo, ["ppo"])
    (reward / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(LabError, match="reward lacks 1 of the 1 files"):
        check_needed_stages(second_dpo, ["dpo-2"])
