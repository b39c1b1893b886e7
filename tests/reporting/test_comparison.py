"""Two runs side by side."""

import json
from dataclasses import replace

import pytest

from labkit.errors import LabError
from labkit.reporting.comparison import compare_runs, comparison_rows, format_run_comparison
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
    assert "accuracy 50.0 % 75.0 % +25.0 percentage points" in lines  # nor better: it has no standard error here
    assert "accuracy: where 50.0 % 75.0 % +25.0 percentage points" in lines
    assert "validation loss 1.500 1.250 -0.250" in lines
    assert not [line for line in lines if "without the story" in line]


def measured(path, seed=0, **metrics):
    """A run whose stage ppo has these metrics."""
    made = a_run(path, seed=seed, stages=["ppo"])
    report = json.loads((made / "report.json").read_text())
    report["stages"][0]["metrics"] = metrics
    (made / "report.json").write_text(json.dumps(report))
    return made


def test_better_is_withheld_within_two_standard_errors(tmp_path):
    """Of gains 0.20 and 0.25: √(0.012² + 0.016²) = 0.02, two of which are less than 0.05 and more than 0.03. Of 90 %
    and 96 % of 300 answers: √(0.9 · 0.1 / 300 + 0.96 · 0.04 / 300) = 0.0207, two of which are less than 0.06.
    """
    first = {"gold_gain": 0.2, "gold_gain_standard_error": 0.012, "right": 0.9, "unsupported": 0.96, "prompts": 300}
    second = first | {"gold_gain": 0.25, "gold_gain_standard_error": 0.016, "right": 0.96, "unsupported": 0.9}
    near = second | {"gold_gain": 0.23}
    runs = [measured(tmp_path / name, at, **one) for at, (name, one) in enumerate(
        {"a": first, "b": second, "c": near}.items())]  # fmt: skip
    verdicts = compare_runs(runs[0], runs[1])["verdicts"]["ppo"]
    assert {name: one["word"] for name, one in verdicts.items()} == {
        "gold_gain": "better", "right": "better", "unsupported": "better",
    }  # fmt: skip
    assert verdicts["gold_gain"]["standard_error"] == pytest.approx(0.02)
    assert verdicts["right"]["standard_error"] == pytest.approx(0.0207, abs=1e-4)
    back = compare_runs(runs[1], runs[0])["verdicts"]["ppo"]
    assert {one["word"] for one in back.values()} == {"worse"}
    result = compare_runs(runs[0], runs[2])
    assert result["verdicts"]["ppo"]["gold_gain"]["word"] == "within chance"
    lines = [" ".join(line.split()) for line in format_run_comparison(result).splitlines()]
    assert "gain in gold score 0.20 0.23 +0.03 0.04 within chance" in lines
    assert "right answers 90.0 % 96.0 % +6.0 percentage points 4.1 percentage points better" in lines
    assert "prompts evaluated 300 300 +0" in lines and "labkit study" in lines[-1]
    assert ["ppo", "gain in gold score", "0.20", "0.23", "+0.03", "within chance"] in comparison_rows(result)


def test_the_win_rates_error_is_that_of_its_interval(tmp_path):
    """0.6 ± 0.0392 is 1.96 standard errors of 0.02; two such: 0.0283, of which 0.07 is more than two."""
    first = {"win_rate": 0.6, "win_low": 0.5608, "win_high": 0.6392}
    second = {"win_rate": 0.67, "win_low": 0.6308, "win_high": 0.7092}
    made = compare_runs(measured(tmp_path / "a", **first), measured(tmp_path / "b", **second))
    (verdict,) = made["verdicts"]["ppo"].values()
    assert verdict["standard_error"] == pytest.approx(0.02 * 2**0.5) and verdict["word"] == "better"


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
