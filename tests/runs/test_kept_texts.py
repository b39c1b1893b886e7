"""Runs whose file is cleaned otherwise than when a stage of them was begun."""

import json
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.runs.folder import Run
from labkit.runs.inputs import KEPT_TEXTS, kept_texts_key
from labkit.runs.kept_texts import check_kept_texts, hash_texts
from labkit.runs.pipeline import rerun_stage, run, undo_unfinished_rerun
from labkit.runs.plan import PlannedStage, make_plan
from labkit.stages import SFT, Pretrain, Stage, StageInputs
from labkit.text.clean import DuplicateTexts
from labkit.text.reading import Texts
from labkit.text.reading.report import ReadReport
from labkit.training.config import BatchSource, TrainConfig
from tests.faults import tree
from tests.tiny_recipe import TRAIN, tiny_recipe

STEPS = replace(TRAIN, steps=2)
PRETRAIN = kept_texts_key("pretrain")


@dataclass(frozen=True)
class ContinuedPretraining(Stage):
    """A stage that reads text and begins with a language model; it is never trained."""

    train: TrainConfig

    kind = "pretrain"
    reads = "text"
    objective = staticmethod(Pretrain.objective)

    def source(self, stage_inputs: StageInputs, model: Any) -> BatchSource:
        raise NotImplementedError


OLD, NEW = (Texts([text], ["held out"], ReadReport("books")) for text in ("one text", "another text"))


@pytest.fixture
def deduplicated(tmp_path, corpora, monkeypatch):
    """(A recipe that reads a table of texts, a function that makes another of its rows the near duplicate.)"""
    text = (corpora / "tinyshakespeare.txt").read_text()
    rows = [{"text": text[start : start + 400]} for start in range(0, 40_000, 400)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def drop(*dropped: int) -> None:
        found = DuplicateTexts({}, {row: 0 if row else 1 for row in dropped})
        monkeypatch.setattr("labkit.text.reading.texts.find_duplicates", lambda texts, order: found)

    drop(7)
    texts, conversations = str(tmp_path / "text.jsonl"), str(corpora / "instructions.json")
    plan = make_plan(pretrain=Pretrain(STEPS), sft=SFT(STEPS))
    return tiny_recipe(STEPS, text=texts, instructions=conversations, plan=plan), drop


@pytest.fixture
def begun(tmp_path):
    """A run of a data set of the hub, whose stages have taken a step each; without a note of their texts."""
    plan = (
        PlannedStage("pretrain", Pretrain(STEPS)),
        PlannedStage("pretrain-2", Pretrain(STEPS)),
        PlannedStage("pretrain-3", ContinuedPretraining(STEPS), after="pretrain"),
    )
    made = Run.create(tmp_path / "run", tiny_recipe(STEPS, text="owner/books", plan=plan))
    for stage in made.stages:
        stage.path.mkdir()
        (stage.path / "metrics.jsonl").write_text("")
    return made


def test_a_stage_is_not_resumed_with_texts_that_are_cleaned_otherwise(tmp_path, deduplicated):
    recipe, drop = deduplicated
    path = tmp_path / "run"
    next(event for event in run(recipe, path) if event.record)
    drop(8)
    before = tree(path)
    with pytest.raises(LabError, match=r"kept from .*text.jsonl differ from .*pretrain .* as labkit's cleaning has .*"):
        list(run(recipe, path, resume=True))
    assert tree(path) == before
    with pytest.raises(LabError, match=r"Train it again from its start \(labkit pretrain .*run --again\)"):
        list(run(recipe, path, resume=True))
    drop(7)
    assert [event.phase for event in run(recipe, path, ["pretrain"], resume=True)][-1] == "finished"


def test_a_finished_pretraining_serves_once_texts_are_cleaned_otherwise(tmp_path, deduplicated):
    recipe, drop = deduplicated
    path = tmp_path / "run"
    list(run(recipe, path, ["pretrain"]))
    noted, read = Run.open(path).inputs, Run.open(path).report()["reading"]["text"]
    drop(8, 9)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*labkit noted which texts")
        assert list(run(recipe, path, resume=True))[-1].phase == "finished"
    assert Run.open(path).inputs == noted, "nothing that was trained now has read the texts"
    assert Run.open(path).report()["reading"]["text"] == read, "the report is of what pretraining has read"
    branched = Run.open(path).branch(tmp_path / "branch", recipe, ["pretrain"])
    assert branched.inputs == Run.open(tmp_path / "branch").inputs == noted


def test_pretraining_from_its_start_notes_its_own_texts(tmp_path, deduplicated):
    recipe, drop = deduplicated
    path = tmp_path / "run"
    list(run(recipe, path, ["pretrain"]))
    noted = Run.open(path).inputs[PRETRAIN]
    drop(8)
    next(event for event in rerun_stage(path, "pretrain") if event.record)
    again = Run.open(path).inputs[PRETRAIN]
    assert again != noted
    drop(7)
    with pytest.raises(LabError, match="differ from those that .*pretrain was begun with"):
        list(run(recipe, path, ["pretrain"], resume=True))
    undo_unfinished_rerun(path, "pretrain")
    assert Run.open(path).inputs[PRETRAIN] == noted
    drop(8)
    list(rerun_stage(path, "pretrain"))
    assert Run.open(path).inputs[PRETRAIN] == again


def test_a_run_begun_before_its_texts_were_noted_is_warned_of_once(tmp_path, deduplicated):
    recipe, drop = deduplicated
    path = tmp_path / "run"
    next(event for event in run(recipe, path) if event.record)
    saved = json.loads((path / "recipe.json").read_text())
    noted = saved["inputs"].pop(PRETRAIN)
    (path / "recipe.json").write_text(json.dumps(saved))
    with pytest.warns(UserWarning, match="pretrain was begun before labkit noted which texts it kept"):
        next(event for event in run(recipe, path, resume=True) if event.record)
    assert Run.open(path).inputs[PRETRAIN] == noted
    drop(8)
    with pytest.raises(LabError, match="differ from those"):
        list(run(recipe, path, resume=True))


def test_a_note_for_all_stages_of_a_run_is_one_for_each(begun):
    begun.inputs[KEPT_TEXTS] = hash_texts(OLD)
    check_kept_texts(begun, OLD, ["pretrain"])
    with pytest.raises(LabError, match="pretrain was begun with"):
        check_kept_texts(begun, NEW, ["pretrain"])


def test_a_data_set_of_the_hub_may_have_changed_itself(begun):
    begun.inputs[PRETRAIN] = hash_texts(OLD)
    with pytest.raises(LabError, match="kept from books differ .*, as the data set or labkit's cleaning has changed"):
        check_kept_texts(begun, NEW, ["pretrain"])


def test_each_stage_that_reads_text_has_a_note_of_its_own(begun):
    check_kept_texts(begun, OLD, ["pretrain", "pretrain-2"], from_start=["pretrain", "pretrain-2"])
    check_kept_texts(begun, NEW, ["pretrain-2"], from_start=["pretrain-2"])
    check_kept_texts(begun, NEW, ["pretrain-2"])
    with pytest.raises(LabError, match="pretrain was begun with"):
        check_kept_texts(begun, NEW, ["pretrain"])


def test_a_stage_does_not_go_on_with_texts_that_its_forerunner_may_have_held_out(begun):
    check_kept_texts(begun, OLD, ["pretrain"], from_start=["pretrain"])
    with pytest.raises(LabError, match="pretrain was begun with"):
        check_kept_texts(begun, NEW, ["pretrain-3"], from_start=["pretrain-3"])
    check_kept_texts(begun, NEW, ["pretrain", "pretrain-3"], from_start=["pretrain", "pretrain-3"])
