"""The tables of a run in the terminal."""

import json
import signal
from collections.abc import Generator
from types import SimpleNamespace

import pytest

from labkit.reporting import terminal
from labkit.reporting.terminal import StopRequest, format_run_metrics, metric_table_rows, run_with_progress
from labkit.runs.folder import Run
from labkit.runs.pipeline import Progress
from labkit.training import processes
from tests.tiny_recipe import tiny_recipe

SFT = {
    "accuracy": 0.9,
    "accuracy/where": 0.9,
    "question_only/where": 0.25,
    "untrained_loss": 1.5,
    "validation_loss": 0.4,
}
DPO = {"untrained_loss": 0.693, "validation_loss": 0.64}


def lines(folder) -> list[str]:
    return [" ".join(line.split()) for line in format_run_metrics(folder).splitlines()]


def test_the_question_alone_is_there_although_the_last_stage_does_not_measure_it(tmp_path):
    Run.create(tmp_path / "run", tiny_recipe())
    stages = [{"stage": "sft", "seconds": 1.0, "metrics": SFT}, {"stage": "dpo", "seconds": 1.0, "metrics": DPO}]
    (tmp_path / "run" / "report.json").write_text(json.dumps({"stages": stages}))
    assert "where 90 % 25 %" in lines(tmp_path / "run")


def test_nats_of_tokens_and_of_pairs_stand_in_rows_of_their_own():
    stages = [{"stage": "sft", "metrics": SFT}, {"stage": "dpo", "metrics": DPO}]
    assert metric_table_rows("untrained_loss", stages) == [
        ["validation loss before this stage (nats per token)", "1.500", ""],
        ["loss on held-out pairs before this stage (nats per pair)", "", "0.693"],
    ]


def test_a_run_that_is_terminated_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)  # which the advice would name

    def events() -> Generator[Progress, None, None]:
        yield Progress("sft", "train", 1, 9)
        signal.raise_signal(signal.SIGTERM)
        yield Progress("sft", "train", 2, 9)
        raise AssertionError("it goes on")

    assert run_with_progress(events(), tmp_path, lambda: ["run", "--resume"]) == 143
    said = capsys.readouterr().err
    assert "Stopping after this step; press again to stop at once." in said
    assert said.endswith("Stopped. To resume: labkit run --resume\n")


def test_what_a_launcher_passes_on_again_does_not_stop_at_once(monkeypatch):
    """A batch system signals every process of a job, torchrun among them, which signals its own."""
    now = [10.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("WORLD_SIZE", "2")
    stop = StopRequest()
    stop.stepping = True
    stop(signal.SIGTERM, None)
    stop(signal.SIGTERM, None)
    assert stop.asked
    now[0] += 6
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGTERM, None)


def test_on_two_machines_the_advice_names_the_processes_of_one(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)
    monkeypatch.setattr(processes, "accelerator", lambda: SimpleNamespace(num_processes=16))
    monkeypatch.setattr(processes, "parallel_config", processes.ParallelConfig)
    advice = terminal._command(["run", "--resume"])
    assert advice == "torchrun --nnodes 2 … --nproc-per-node 8 -m labkit run --resume"
