"""Two runs side by side."""

import json
from dataclasses import replace

import pytest

from labkit.errors import LabError
from labkit.reporting.comparison import compare_runs, format_run_comparison
from labkit.runs.folder import Run
from tests.tiny_recipe import tiny_recipe


def a_run(path, *, seed=0, stages=("pretrain", "sft"), right=0.5):
    """A folder as a finished run leaves it, without weights."""
    run = Run.create(path, replace(tiny_recipe(), seed=seed))
    metrics = {"accuracy": right, "accuracy/where": right, "question_only/where": 0.2, "validation_loss": 2 - right}
    results = [{"stage": name, "seconds": 10.0, "mfu": 0.25, "metrics": metrics} for name in stages]
    (path / "report.json").write_text(json.dumps({"recipe": run.recipe.to_dict(), "stages": results}))
    return path


def test_two_runs_are_compared_stage_by_stage(tmp_path):
    found = compare_runs(a_run(tmp_path / "a"), a_run(tmp_path / "b", seed=1, stages=["pretrain"], right=0.75))
    assert found["recipe"] == {"seed": [0, 1]}
    assert list(found["stages"]) == ["pretrain", "sft"]
    assert found["stages"]["pretrain"]["accuracy"] == [0.5, 0.75]
    assert found["stages"]["sft"]["accuracy"] == [0.5, None]
    assert found["stages"]["pretrain"]["seconds"] == [10.0, 10.0]


def test_the_table_says_what_changed_by_how_much(tmp_path):
    text = format_run_comparison(compare_runs(a_run(tmp_path / "a"), a_run(tmp_path / "b", seed=1, right=0.75)))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "recipe a b" in lines and "seed 0 1" in lines
    assert "accuracy 50.0 % 75.0 % +25.0 percentage points" in lines
    assert "accuracy: where 50.0 % 75.0 % +25.0 percentage points" in lines
    assert "validation loss 1.500 1.250 -0.250" in lines
    assert not [line for line in lines if "without the story" in line]


def test_runs_of_one_name_are_told_apart_and_equal_recipes_said(tmp_path):
    a_run(tmp_path / "one" / "lab")
    a_run(tmp_path / "two" / "lab")
    text = format_run_comparison(compare_runs(tmp_path / "one" / "lab", tmp_path / "two" / "lab"))
    assert str(tmp_path / "one" / "lab") in text and "The two recipes are the same." in text


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(LabError, match="nowhere contains no run"):
        compare_runs(a_run(tmp_path / "a"), tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["[]", "{}", '{"stages": [1]}'])
def test_a_report_that_is_none_is_named(tmp_path, text):
    (a_run(tmp_path / "a") / "report.json").write_text(text)
    with pytest.raises(LabError, match="a/report.json is not a report of labkit"):
        compare_runs(tmp_path / "a", a_run(tmp_path / "b"))
