"""Runs in processes of their own."""

import json
import os
import time

import pytest

from labkit.errors import LabError
from labkit.jobs import Jobs
from labkit.runs import Run
from tests.test_cli import SMALL


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.05)


def test_a_run_is_made_and_is_there_afterwards(tmp_path):
    jobs = Jobs(tmp_path)
    assert not jobs.running("small") and jobs.log("small") == ""
    jobs.start("small", ["run", "--out", str(tmp_path / "small"), *SMALL, "--stages", "pretrain"])
    with pytest.raises(LabError, match="small is being made already"):
        jobs.start("small", ["run"])
    assert Jobs(tmp_path).running("small")  # whoever looks, another process too
    wait_for(lambda: not jobs.running("small"))
    assert Run.open(tmp_path / "small").stage("pretrain").finished
    assert "The whole report" in jobs.log("small")


def test_a_stopped_run_can_be_gone_on_with(tmp_path):
    jobs, folder = Jobs(tmp_path), tmp_path / "small"
    steps = ["--pretrain.train.steps", "4000", "--stages", "pretrain"]
    jobs.start("small", ["run", "--out", str(folder), *SMALL, *steps])
    wait_for(lambda: (folder / "pretrain").is_dir() and len(Run.open(folder).stage("pretrain").records) > 2)
    jobs.stop("small")
    wait_for(lambda: not jobs.running("small"))
    assert "To go on: labkit run" in jobs.log("small")
    assert 0 < Run.open(folder).stage("pretrain").records[-1]["step"] < 4000
    jobs.stop("small")  # nothing is there to stop


def test_what_went_wrong_is_in_the_log(tmp_path):
    jobs = Jobs(tmp_path)
    jobs.start("bad", ["run", "--out", str(tmp_path / "bad"), "--text", "missing.txt"])
    wait_for(lambda: not jobs.running("bad"))
    assert "There is no file or folder missing.txt" in jobs.log("bad")


def test_another_process_with_the_same_number_is_not_ours(tmp_path):
    jobs = Jobs(tmp_path)
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "old.json").write_text(json.dumps({"pid": os.getpid(), "created": 0.0, "arguments": []}))
    assert not jobs.running("old")
    jobs.stop("old")


def test_the_newest_state_of_a_long_bar_is_there_and_no_half_character(tmp_path):
    jobs = Jobs(tmp_path)
    (tmp_path / ".jobs").mkdir()
    bar = "".join(f"\rstep {step} ▏" for step in range(3000))
    (tmp_path / ".jobs" / "mine.log").write_text(f"begun\n{bar}", encoding="utf-8")
    assert jobs.log("mine") == "step 2999 ▏"
    for skipped in range(3):  # wherever in a character the last bytes begin
        (tmp_path / ".jobs" / "mine.log").write_bytes(("▏" * 3000).encode() + b"x" * skipped)
        assert "\ufffd" not in jobs.log("mine") and "▏" in jobs.log("mine")
