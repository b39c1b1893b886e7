"""Runs in processes of their own."""

import json
import os
import time

import psutil
import pytest

from labkit.errors import LabError
from labkit.files import read_json, write_json
from labkit.runs.folder import Run
from labkit.runs.jobs import Jobs, check_new_run_name
from labkit.runs.lock import process_identity
from tests.commands.test_main import SMALL


def wait_for(condition, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.05)


def test_a_run_is_made_and_is_there_afterwards(tmp_path):
    jobs = Jobs(tmp_path)
    assert not jobs.is_running("small") and jobs.log("small") == ""
    jobs.start("small", ["run", "--out", str(tmp_path / "small"), *SMALL, "--stages", "pretrain"])
    with pytest.raises(LabError, match="small is running already"):
        jobs.start("small", ["run"])
    assert Jobs(tmp_path).is_running("small")  # whoever looks, another process too
    wait_for(lambda: not jobs.is_running("small"))
    assert Run.open(tmp_path / "small").stage("pretrain").finished
    assert "The whole report" in jobs.log("small")


def test_a_stopped_run_can_be_gone_on_with(tmp_path):
    jobs, folder = Jobs(tmp_path), tmp_path / "small"
    steps = ["--pretrain.train.steps", "4000", "--stages", "pretrain"]
    jobs.start("small", ["run", "--out", str(folder), *SMALL, *steps])
    wait_for(lambda: (folder / "pretrain").is_dir() and len(Run.open(folder).stage("pretrain").step_records) > 2)
    assert not jobs.stop_requested("small")
    jobs.stop("small")
    assert jobs.stop_requested("small")
    wait_for(lambda: not jobs.is_running("small"))
    assert "To resume: labkit run" in jobs.log("small")
    assert 0 < Run.open(folder).stage("pretrain").step_records[-1]["step"] < 4000
    jobs.stop("small")  # nothing is there to stop


def test_what_went_wrong_is_in_the_log(tmp_path):
    jobs = Jobs(tmp_path)
    jobs.start("bad", ["run", "--out", str(tmp_path / "bad"), "--text", "missing.txt"])
    wait_for(lambda: not jobs.is_running("bad"))
    assert "There is no file or folder missing.txt" in jobs.log("bad")


def test_another_process_with_the_same_number_is_not_ours(tmp_path):
    jobs = Jobs(tmp_path)
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "old.json").write_text(json.dumps({"pid": os.getpid(), "created": 0.0, "arguments": []}))
    assert not jobs.is_running("old")
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


@pytest.mark.parametrize(
    "name", ["../../etc/x", "/etc/x", ".hidden", "", "a\\b", "a\x00b", "\ud83d", "x" * 200, None, 7, ["a"], {"a": 1}]
)
def test_a_name_that_is_a_path_is_refused_before_it_is_looked_for(tmp_path, name):
    """A log outside of the runs is there, and no name leads to it."""
    (tmp_path / "runs" / ".jobs").mkdir(parents=True)
    (tmp_path / "x.log").write_text("secret")
    jobs = Jobs(tmp_path / "runs")
    for ask in (jobs.log, jobs.is_running, jobs.stop, jobs.stop_requested, jobs.arguments, jobs.forget):
        with pytest.raises(LabError, match="is not the name of a run"):
            ask(name)
    with pytest.raises(LabError, match="is not the name of a run"):
        jobs.start(name, ["--version"])
    with pytest.raises(LabError, match="is not the name of a run"):
        jobs.move_records("mine", name)
    with pytest.raises(LabError, match="is not the name of a run"):
        jobs.log("../../x")


def test_names_for_new_runs():
    assert check_new_run_name(" my-run_2.汤 ") == "my-run_2.汤"
    for name in ("", "..", "a b", "a/b", "-a", "x" * 62, 3, None):
        with pytest.raises(LabError, match="is not a valid name for a run"):
            check_new_run_name(name)


def test_only_so_many_at_once(tmp_path, monkeypatch):
    jobs = Jobs(tmp_path)
    monkeypatch.setattr(jobs, "names", lambda: ["a", "b", "c", "d"])
    monkeypatch.setattr(jobs, "is_running", lambda name: name != "new")
    with pytest.raises(LabError, match="4 runs are running: a, b, c, d. Stop one"):
        jobs.start("new", ["--version"])
    assert not (tmp_path / ".jobs").exists()


def test_what_is_known_of_a_process_is_kept_renamed_and_dropped(tmp_path):
    jobs = Jobs(tmp_path)
    jobs.start("one", ["--version"])
    wait_for(lambda: not jobs.is_running("one"))
    assert jobs.arguments("one") == ["--version"] and not jobs.stop_requested("one") and "labkit 0" in jobs.log("one")
    jobs.move_records("one", "two")
    assert jobs.arguments("one") == [] and jobs.log("one") == "" and "labkit 0" in jobs.log("two")
    jobs.forget("two")
    assert jobs.names() == [] and jobs.log("two") == ""


@pytest.mark.parametrize("text", ["", "[", "[]", '{"pid": "x"}', '{"pid": 1, "created": "y"}'])
def test_a_damaged_note_of_a_process_is_none(tmp_path, text):
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "mine.json").write_text(text)
    assert not Jobs(tmp_path).is_running("mine")


def test_a_pipe_in_place_of_a_note_is_none(tmp_path):
    (tmp_path / ".jobs").mkdir()
    os.mkfifo(tmp_path / ".jobs" / "mine.json")
    assert Jobs(tmp_path).names() == ["mine"] and not Jobs(tmp_path).is_running("mine")


def test_stopping_keeps_what_another_labkit_has_noted(tmp_path, monkeypatch):
    jobs, signals = Jobs(tmp_path), []
    monkeypatch.setattr("labkit.runs.jobs.os.kill", lambda *sent: signals.append(sent))
    note = tmp_path / ".jobs" / "mine.json"
    write_json(note, process_identity(psutil.Process()) | {"arguments": [], "stopped": False, "queue": "night"})
    jobs.stop("mine")
    assert read_json(note)["queue"] == "night" and jobs.stop_requested("mine") and len(signals) == 1


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LabError, match="could not be written"):
        Jobs(tmp_path / "file").start("mine", ["--version"])


def test_a_process_is_known_again_when_the_clock_is_set(tmp_path, monkeypatch):
    jobs = Jobs(tmp_path)
    (tmp_path / ".jobs").mkdir()
    about = {**process_identity(psutil.Process()), "arguments": [], "stopped": False}
    (tmp_path / ".jobs" / "mine.json").write_text(json.dumps(about))
    created = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + 7200)
    assert jobs.is_running("mine")
