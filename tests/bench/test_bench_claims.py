"""Which runs are made, with what, and how their claims are counted."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit import machine
from labkit.bench import claims as bench
from labkit.commands import main as cli
from labkit.errors import LabError
from labkit.runs.folder import Run
from labkit.runs.presets import make_recipe


def made(command, env, **options):
    """What `python -m labkit run …` leaves behind, at once: a recipe and a report."""
    assert command[:4] == [sys.executable, "-m", "labkit", "run"]
    flags = dict(zip(command[4::2], command[5::2], strict=True))
    folder, seed = Path(flags["--out"]), int(flags["--seed"])
    if folder.exists():
        return subprocess.CompletedProcess(command, 1, "", "FileExistsError")
    recipe, precision = make_recipe(flags["--preset"], seed=seed), flags["--annotation.precision"]
    parts: dict[str, Any] = {
        name: replace(stage, train=replace(stage.train, precision=flags[f"--{name}.train.precision"]))
        for name, stage in recipe.stages.items()
    }
    parts["annotation"] = replace(recipe.annotation, precision=precision)
    Run.new_unsaved(folder, recipe.with_parts(parts)).save_recipe()
    metrics = {"validation_loss": 0.7 if seed == 1 else 0.6, "gold_gain": 0.1, "gold_gain_standard_error": 0.01}
    report = {"stages": [{"stage": "dpo", "metrics": metrics}], "machine": machine.describe_machine()}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "threads.json").write_text(env["OMP_NUM_THREADS"])
    return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda: True)
    monkeypatch.setattr(bench.subprocess, "run", made)
    return tmp_path / "runs"


def test_a_run_for_each_seed_precision_and_number_of_threads(runs):
    result = bench.run(bench.ClaimsBench(seeds=(0, 1), out=runs))
    assert len(result["runs"]) == 2 * 2 * 2
    assert (runs / "smoke-1-fp32-2" / "threads.json").read_text() == "2"
    recipe = Run.open(runs / "smoke-1-fp32-2").recipe
    trained = {stage.train.precision for stage in recipe.stages.values()}
    assert recipe.seed == 1 and trained == {recipe.annotation.precision} == {"fp32"}


def test_claims_are_counted_with_their_smallest_margin(runs):
    """Two seeds: log 2 - 0.6 = 0.093, and log 2 - 0.7 = -0.007, which does not hold."""
    result = bench.run(bench.ClaimsBench(seeds=(0, 1), precisions=("fp32",), threads=(1,), out=runs))
    table = bench.markdown_table(result)
    assert "| dpo | loss on held-out pairs, below chance: log 2 | 1 of 2 | -0.007 | 0.043 |" in table
    assert "seed 0, fp32, 1 thread: dpo gold score rose by 0.100 (± 0.010)" in table
    assert result["machine"]["processor"] in table
    assert bench.failed_claims(result) == ["seed 1, fp32, 1 thread: dpo"]


def test_the_command_fails_where_a_claim_does(runs, capsys):
    flags = ["bench", "claims", "--preset", "smoke", "--precisions", "fp32", "--threads", "1", "--out", str(runs)]
    assert cli.main([*flags, "--seeds", "0"]) == 0
    assert cli.main([*flags, "--seeds", "1"]) == 1
    said = capsys.readouterr().out
    assert "| dpo |" in said and f"Measured on {machine.describe_machine()['processor']}" in said


def test_a_precision_that_the_processor_has_not_is_left_out_and_said(runs, monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda: False)
    result = bench.run(bench.ClaimsBench(seeds=(0,), threads=(1,), out=runs))
    assert [each["precision"] for each in result["runs"]] == ["fp32"]
    assert "Left out: bf16: this processor has no bf16 arithmetic." in bench.markdown_table(result)
    with pytest.raises(LabError, match="nothing to run"):
        bench.run(bench.ClaimsBench(seeds=(0,), precisions=("bf16",), out=runs))


def test_finished_runs_are_counted_as_what_they_are(runs, monkeypatch):
    config = bench.ClaimsBench(seeds=(0,), precisions=("fp32",), threads=(1,), out=runs)
    bench.run(config)
    report = runs / "smoke-0-fp32-1" / "report.json"
    report.write_text(report.read_text().replace(str(machine.describe_machine()["processor"]), "Another (AVX512)"))
    monkeypatch.setattr(bench, "_report", lambda *asked: json.loads(report.read_text()))
    assert "on Another (AVX512)." in bench.markdown_table(bench.run(config))
    recipe = json.loads((runs / "smoke-0-fp32-1" / "recipe.json").read_text())
    recipe["recipe"]["plan"][-1]["stage"]["beta"] = 0.55
    (runs / "smoke-0-fp32-1" / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(
        LabError, match=r"smoke-0-fp32-1 contains a run with a different recipe \(dpo.beta: 0.55, not 0.3\)"
    ):
        bench.run(config)


def test_a_run_that_fails_is_named(runs):
    (runs / "smoke-0-fp32-1").mkdir(parents=True)
    with pytest.raises(LabError, match="smoke-0-fp32-1 ended with exit code 1(?s:.*)FileExistsError"):
        bench.run(bench.ClaimsBench(seeds=(0,), precisions=("fp32",), threads=(1,), out=runs))
