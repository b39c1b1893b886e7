"""Medians over seeds, and the table made of them, by numbers a reader can check."""

import json

import pytest

from labkit.bench import run as bench
from labkit.bench.control import time_matched_sft_metrics
from labkit.errors import LabError
from labkit.runs import pipeline
from labkit.runs.folder import Run
from tests.tiny_recipe import tiny_recipe


def report(accuracy: float, seconds: float) -> list[dict]:
    metrics = {"accuracy": accuracy, "accuracy/where": accuracy, "question_only/where": 0.2, "gold/warm": 0.4}
    return [{"stage": "sft", "seconds": seconds, "tokens": 1000, "metrics": metrics, "samples": []}]


def saved(folder, seconds: float, stages: list[dict], control: dict | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"stages": stages, "machine": {"cores": 2}, "recipe": {}}))
    (folder / "wall_seconds.json").write_text(json.dumps(seconds))
    (folder / "control.json").write_text(json.dumps(control or {}))


def test_stages_are_medians_with_their_range():
    """Of 0.5, 0.9 and 0.7 the median is 0.7."""
    spread = bench.summarize_stages([report(0.5, 10), report(0.9, 30), report(0.7, 20)])["sft"]
    assert spread["accuracy"] == {"median": 0.7, "lowest": 0.5, "highest": 0.9}
    assert spread["seconds"] == {"median": 20, "lowest": 10, "highest": 30}


def test_finished_runs_are_gathered_and_the_table_written(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.9, 0.7)):
        saved(tmp_path / f"lab-{seed}", 300.0 + 30 * seed, report(accuracy, 10))
    result = bench.run(bench.RunBench(out=tmp_path))
    assert result["wall_seconds"]["median"] == 330 and result["machine"] == {"cores": 2}
    assert json.loads((tmp_path / "lab.json").read_text()) == result
    table = (tmp_path / "lab.md").read_text()
    assert "| accuracy | 70.0 % (50.0 %–90.0 %) |" in table
    assert "where +50 percentage points" in table  # 0.7 - 0.2
    assert "| where | 70.0 % (50.0 %–90.0 %) | 20.0 % |" in table
    assert "| gold score: warm | 0.40 |" in table
    assert "over seeds 0, 1, 2" in table
    assert "5.5 min (5.0–6.0)" in table


def test_costs_are_shown_in_their_units(tmp_path):
    stage = report(0.5, 10)[0] | {"flops": 2.5e12, "mfu": 0.25, "peak_memory_mb": 900.0, "tokens": 1_500_000}
    saved(tmp_path / "lab-0", 60.0, [stage])
    table = bench.markdown_tables(bench.run(bench.RunBench(seeds=(0,), out=tmp_path)))
    assert "| seconds | 10 |" in table and "| tokens | 1.5M |" in table and "| FLOPs | 2.5T |" in table
    assert "| MFU | 25.0 % |" in table and "| peak memory | 900 MB |" in table


def test_the_control_stands_beside_its_stage(tmp_path):
    stages = [report(0.5, 10)[0] | {"stage": "ppo", "metrics": {"gold_gain": 0.25, "right": 0.9}}]
    saved(tmp_path / "lab-0", 60.0, stages, {"ppo": {"gold_gain": 0.01, "right": 0.92, "steps": 7}})
    table = bench.markdown_tables(bench.run(bench.RunBench(seeds=(0,), out=tmp_path)))
    assert "| gain in gold score | 0.25 |" in table and "| gain of more fine-tuning instead | 0.01 |" in table
    assert "| right answers of more fine-tuning instead | 92.0 % |" in table


def test_the_control_is_fine_tuned_for_as_long_and_compared_with_the_same_model(tmp_path):
    for _ in pipeline.run(tiny_recipe(), tmp_path / "run"):
        pass
    found = time_matched_sft_metrics(tmp_path / "run")
    assert list(found) == ["ppo", "dpo"]
    measured = {stage["stage"]: stage["metrics"] for stage in Run.open(tmp_path / "run").report()["stages"]}
    for name, metrics in found.items():
        assert metrics["steps"] >= 1 and metrics["prompts"] == 8
        assert metrics["gold_before"] == measured[name]["gold_before"]


def test_a_run_that_fails_is_said_in_words(tmp_path):
    (tmp_path / "smoke-0").mkdir()
    (tmp_path / "smoke-0" / "in_the_way").touch()
    with pytest.raises(LabError, match="smoke-0 ended with exit code 2"):
        bench.run(bench.RunBench(seeds=(0,), preset="smoke", out=tmp_path))


def test_no_seed_is_no_bench(tmp_path):
    with pytest.raises(LabError, match="at least one seed"):
        bench.run(bench.RunBench(seeds=(), out=tmp_path))
