"""Which runs are made, with what, and how their claims are counted."""

import json
import sys

import pytest

from labkit import cli, machine
from labkit.bench import claims as bench
from labkit.errors import LabError

RUN = """
import json, os, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(flags["--out"])
folder.mkdir(parents=True)
(folder / "recipe.json").write_text("{}")
(folder / "called.json").write_text(json.dumps(flags | {"threads": os.environ["OMP_NUM_THREADS"]}))
loss = 0.7 if flags["--seed"] == "1" else 0.6
metrics = {"validation_loss": loss, "gold_gain": 0.1, "gold_gain_standard_error": 0.01}
(folder / "report.json").write_text(json.dumps({"stages": [{"stage": "dpo", "metrics": metrics}]}))
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """`python -m labkit run` as a script that writes a report at once."""
    (tmp_path / "labkit.py").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "has_bf16", lambda: True)
    real = bench.subprocess.run

    def call(command, **options):
        assert command[:4] == [sys.executable, "-m", "labkit", "run"]
        return real([sys.executable, "labkit.py", *command[4:]], **options)

    monkeypatch.setattr(bench.subprocess, "run", call)
    return tmp_path / "runs"


def test_a_run_for_each_seed_precision_and_number_of_threads(runs):
    result = bench.run(bench.ClaimsBench(seeds=(0, 1), out=runs))
    assert len(result["runs"]) == 2 * 2 * 2
    called = json.loads((runs / "smoke-1-fp32-2" / "called.json").read_text())
    assert called["--seed"] == "1" and called["threads"] == "2"
    stages = ("pretrain", "sft", "reward", "ppo", "dpo")
    assert {called[f"--{stage}.train.precision"] for stage in stages} == {called["--annotation.precision"]} == {"fp32"}


def test_claims_are_counted_with_their_smallest_margin(runs):
    """Two seeds: log 2 - 0.6 = 0.093, and log 2 - 0.7 = -0.007, which does not hold."""
    result = bench.run(bench.ClaimsBench(seeds=(0, 1), precisions=("fp32",), threads=(1,), out=runs))
    table = bench.table(result)
    assert "| dpo | loss on held-out pairs, below log 2 | 1 of 2 | -0.007 | 0.043 |" in table
    assert "seed 0, fp32, 1 thread: dpo gold rose by 0.100 (± 0.010)" in table and result["processor"] in table
    assert bench.failed(result) == ["seed 1, fp32, 1 thread: dpo"]


def test_the_command_fails_where_a_claim_does(runs, capsys):
    flags = ["bench", "claims", "--preset", "smoke", "--precisions", "fp32", "--threads", "1", "--out", str(runs)]
    assert cli.main([*flags, "--seeds", "0"]) == 0
    assert cli.main([*flags, "--seeds", "1"]) == 1
    said = capsys.readouterr().out
    assert "| dpo |" in said and f"Measured on {machine.describe()['processor']}" in said


def test_a_precision_that_the_processor_has_not_is_left_out_and_said(runs, monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda: False)
    result = bench.run(bench.ClaimsBench(seeds=(0,), threads=(1,), out=runs))
    assert [each["precision"] for each in result["runs"]] == ["fp32"]
    assert "Left out: bf16: this processor has no bf16 arithmetic." in bench.table(result)
    with pytest.raises(LabError, match="nothing to run"):
        bench.run(bench.ClaimsBench(seeds=(0,), precisions=("bf16",), out=runs))


def test_a_run_that_fails_is_named(runs):
    (runs / "smoke-0-fp32-1").mkdir(parents=True)  # the script cannot make its folder
    with pytest.raises(LabError, match="smoke-0-fp32-1 ended with exit code 1(?s:.*)FileExistsError"):
        bench.run(bench.ClaimsBench(seeds=(0,), precisions=("fp32",), threads=(1,), out=runs))
