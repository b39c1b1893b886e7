"""What may be done to runs from a page, and where they are, without a browser."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from labkit.errors import LabError
from labkit.runs.folder import Run
from labkit.runs.jobs import Jobs
from labkit.runs.lock import exclusive_lock
from labkit.runs.plan import PlannedStage
from labkit.ui import manage, preferences, runs, states
from labkit.ui.lab import Lab
from tests.tiny_recipe import tiny_recipe

STAGES = ["pretrain", "sft", "reward", "ppo", "dpo"]


class Idle(Jobs):
    """Starts nothing, and remembers what it was asked to. at_work: the runs that have a process."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.asked: list[list[str]] = []
        self.at_work: set[str] = set()

    def start(self, name, arguments):
        self.asked.append(list(arguments))

    def is_running(self, name):
        super().is_running(name)
        return name in self.at_work


def finished(run: Run, *stages: str) -> None:
    """Let stages of a run look as if they had been trained and measured."""
    for name in stages:
        run.stage(name).path.mkdir(exist_ok=True)
        (run.stage(name).path / "metrics.jsonl").write_text('{"step": 6, "loss": 1.0, "seconds": 1.0}\n')
        (run.stage(name).path / "result.json").write_text(json.dumps({"stage": name, "metrics": {}, "seconds": 1.0}))


def ended(folder: Path, name: str, arguments: list[str], log: str, stopped: bool = False) -> None:
    """What a process leaves that is gone."""
    (folder / ".jobs").mkdir(exist_ok=True)
    about = {"pid": 2**30, "created": 0.0, "arguments": arguments, "stopped": stopped}
    (folder / ".jobs" / f"{name}.json").write_text(json.dumps(about))
    (folder / ".jobs" / f"{name}.log").write_text(log)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab with a run `mine`, and one that comes with labkit."""
    shipped = Run.create(tmp_path / "shipped", tiny_recipe())
    Run.create(tmp_path / "runs" / "mine", tiny_recipe(preset="smoke"))
    return Lab(tmp_path / "runs", demo=shipped.path)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_was_asked_for_is_what_is_resumed(lab):
    """A run that trained on votes was asked for DPO alone: no reward model is trained that nobody wants."""
    jobs, run = Idle(lab.folder), lab.open("mine")
    finished(run, "pretrain", "sft")
    ended(lab.folder, "mine", ["run", "--out", "x", "--resume", "--stages", "dpo"], "", stopped=True)
    at = runs.run_status(jobs, run)
    assert (at.requested, at.unfinished, at.failed) == (["dpo"], ["dpo"], False)
    assert [row[1] for row in runs.stage_progress_rows(run, at)] == [
        "Finished",
        "Finished",
        "Not requested",
        "Not requested",
        "",
    ]
    assert manage.resume_run(lab, jobs, "mine") == "mine" and jobs.asked[0][-2:] == ["--stages", "dpo"]
    finished(run, "dpo")
    assert not runs.can_resume(lab, run, runs.run_status(jobs, run))
    with pytest.raises(LabError, match="mine is finished"):
        manage.resume_run(lab, jobs, "mine")


def test_all_stages_are_resumed_where_all_were_asked_for(lab):
    jobs = Idle(lab.folder)
    manage.resume_run(lab, jobs, "mine")
    assert "--stages" not in jobs.asked[0] and manage.requested_stages(jobs, lab.open("mine")) == STAGES
    with pytest.raises(LabError, match="demo comes with labkit"):
        manage.resume_run(lab, jobs, "demo")


def test_a_run_that_fails_says_so_and_why(lab):
    jobs, run = Idle(lab.folder), lab.open("mine")
    ended(lab.folder, "mine", ["run"], "pretrain  6 steps\nlabkit: width 257 cannot be split\n")
    at = runs.run_status(jobs, run)
    assert at.failed and runs.stage_progress_rows(run, at)[0][1] == "Failed"
    assert runs.failure_message(jobs, "mine") == "width 257 cannot be split"
    assert not runs.can_resume(lab, run, at)  # it would fail again
    (run.path / "pretrain").mkdir()
    (run.path / "pretrain" / "metrics.jsonl").write_text('{"step": 3, "loss": 1.0, "seconds": 1.0}\n')
    assert runs.can_resume(lab, run, runs.run_status(jobs, run))  # killed, say: what it has is worth going on with
    shown = dict(
        zip(("why", "stages"), runs.RunTabUpdates(lab, jobs).component_updates("mine", None, None, None), strict=False)
    )
    assert "width 257 cannot be split" in shown["why"]["value"] and shown["why"]["visible"]
    assert runs.RunTabUpdates(lab, jobs).component_updates("mine", None, None, None)[-1]["open"]  # the log is in sight


def test_a_click_on_stop_or_resume_is_answered(lab):
    """Before anything else can be seen of it."""
    jobs = Idle(lab.folder)
    assert runs._stop(jobs, "mine")["value"].startswith("mine was asked to stop. It ends after its current step")
    assert runs._resume(lab, jobs, "mine") == ("mine", "mine is being resumed. Its first step takes a moment.")


def test_a_run_that_was_stopped_did_not_fail(lab):
    jobs, run = Idle(lab.folder), lab.open("mine")
    ended(lab.folder, "mine", ["run"], "Stopped.", stopped=True)
    (run.path / "pretrain").mkdir()
    at = runs.run_status(jobs, run)
    assert not at.failed and runs.stage_progress_rows(run, at)[0][1] == "Stopped" and runs.can_resume(lab, run, at)


def test_a_run_that_never_got_a_folder(lab):
    jobs = Idle(lab.folder)
    ended(lab.folder, "gone", ["run"], "labkit: There is no file or folder missing.txt\n")
    why, stages, *_ = runs.RunTabUpdates(lab, jobs).component_updates("gone", None, None, None)
    assert stages["data"][0][1] == "Failed to start, see log" and "missing.txt" in why["value"]
    jobs.at_work.add("gone")
    assert runs.RunTabUpdates(lab, jobs).component_updates("gone", None, None, None)[1]["data"][0][1] == "Starting"


BOX = """╭─ Value error ──────────────────────────╮
│ Error parsing --model.width: abc       │
╰────────────────────────────────────────╯
"""


def test_what_a_process_said_last_is_no_frame(lab):
    jobs = Idle(lab.folder)
    ended(lab.folder, "mine", ["run"], BOX)
    assert runs.failure_message(jobs, "mine") == "Error parsing --model.width: abc"


def test_a_run_that_failed_to_start_is_listed_with_its_log_renamed_and_deleted(lab):
    """Also by a page that was opened after it."""
    jobs = Idle(lab.folder)
    ended(lab.folder, "odd", ["run"], "labkit: --model.width must be even, not 257.\n")
    assert runs.run_menu_choices(lab, jobs)[0] == ("odd (failed to start)", "odd")
    assert states.runs_table(lab, jobs)[0][:3] == ["odd", "Failed to start", ""] and states.runs_table(lab, jobs)[0][3]
    with pytest.raises(LabError, match="a run odd already"):
        manage.rename_run(lab, jobs, "mine", "odd")
    with pytest.raises(LabError, match="a run mine already"):
        manage.rename_run(lab, jobs, "odd", "mine")
    assert manage.rename_run(lab, jobs, "odd", "even") == "even" and jobs.log("even").startswith(
        "labkit: --model.width"
    )
    jobs.at_work.add("even")
    for act in (manage.delete_run, manage.rename_run):
        with pytest.raises(LabError, match="even is running. Stop it first"):
            act(lab, jobs, "even", "even" if act is manage.delete_run else "new")
    assert states.runs_table(lab, jobs)[0][1] == "Starting" and runs.run_menu_choices(lab, jobs)[0][0] == "even"
    jobs.at_work.clear()
    with pytest.raises(LabError, match="type its name"):
        manage.delete_run(lab, jobs, "even", "")
    manage.delete_run(lab, jobs, "even", "even")
    assert jobs.names() == [] and lab.all_run_names() == ["mine", "demo"]


def test_a_run_that_is_trained_in_a_terminal_is_running_and_stays_as_it_is(lab):
    jobs, run = Idle(lab.folder), lab.open("mine")
    (run.path / "pretrain").mkdir()
    with exclusive_lock(run.path):
        at = runs.run_status(jobs, run)
        assert (at.running, at.started_here) == (True, False) and runs.stage_progress_rows(run, at)[0][1] == "Running"
        assert states.runs_table(lab, jobs)[0][1] == "Running" and not runs.can_resume(lab, run, at)
        stop, resume = runs.RunTabUpdates(lab, jobs).component_updates("mine", None, None, None)[8:10]
        assert not stop["interactive"] and not resume["interactive"]  # its own process is not this app's to stop
        assert runs._seen(lab, jobs, "mine")[0]
        before = everything(lab.folder)
        for act in (
            lambda: manage.rename_run(lab, jobs, "mine", "new"),
            lambda: manage.delete_run(lab, jobs, "mine", "mine"),
            lambda: manage.resume_run(lab, jobs, "mine"),
        ):
            with pytest.raises(LabError, match="mine is in use"):
                act()
        assert everything(lab.folder) == before and jobs.asked == []
    assert not runs.run_status(jobs, run).running and not runs._seen(lab, jobs, "mine")[0]


def test_another_window_sees_that_a_run_is_gone(lab):
    jobs = Idle(lab.folder)
    before = runs._seen(lab, jobs, "mine")
    assert runs._seen(lab, jobs, "mine") == before
    manage.rename_run(lab, jobs, "mine", "yours")
    assert runs._seen(lab, jobs, "mine") != before
    assert runs._seen(lab, jobs, "demo") != runs._seen(lab, jobs, "mine")  # what came late for another run is mended
    why, *_, stop, resume, report, _, _ = runs.RunTabUpdates(lab, jobs).component_updates("mine", None, None, None)
    assert "There is no run 'mine'" in why["value"]
    assert not stop["interactive"] and not resume["interactive"] and not report["interactive"]


def test_a_fresh_page_opens_on_the_newest_run_that_has_something_to_show(lab):
    jobs = Idle(lab.folder)
    assert states.default_run(lab, jobs) == "mine"  # none has
    finished(Run.create(lab.folder / "old", tiny_recipe()), "pretrain")
    os.utime(lab.folder / "old", (1, 1))
    assert lab.all_run_names() == ["mine", "old", "demo"] and states.default_run(lab, jobs) == "old"
    jobs.at_work.add("mine")
    assert states.default_run(lab, jobs) == "mine"
    assert states.default_run(Lab(lab.folder / "nowhere"), jobs) is None


def test_tabs_open_on_a_run_that_did_not_fail(lab):
    """Of one that failed the models that it has can still be chosen, and are what is shown where there is no other."""
    for number, (name, stages) in enumerate({"old": ["pretrain", "sft"], "half": ["pretrain"], "none": []}.items()):
        run = Run.create(lab.folder / name, tiny_recipe())
        for stage in stages:
            finished(run, stage)
            (run.stage(stage).path / "model.safetensors").touch()
        os.utime(lab.folder / name, (number + 1, number + 1))
    for name in ("half", "none"):
        ended(lab.folder, name, ["run"], "labkit: no\n")
    ended(lab.folder, "old", ["run"], "Stopped.", stopped=True)
    assert lab.runs_with_model() == ["half", "old"] and lab.runs_with_model_failed_last() == ["old", "half"]
    assert preferences.default_model_pair(lab) == [("old", "sft"), ("old", "pretrain")]
    shutil.rmtree(lab.folder / "old")
    assert lab.runs_with_model_failed_last() == ["half"]


def test_all_runs_stand_in_a_table(lab):
    jobs = Idle(lab.folder)
    finished(lab.open("mine"), *STAGES)
    ended(lab.folder, "other", ["run"], "labkit: no\n")
    finished(Run.create(lab.folder / "other", tiny_recipe()), "pretrain")
    rows = {name: (state, stages) for name, state, stages, _ in states.runs_table(lab, jobs)}
    changed = {name: when for name, *_, when in states.runs_table(lab, jobs)}
    assert changed["demo"] == "comes with labkit" and re.fullmatch(r"\d\d:\d\d", changed["mine"])
    assert runs._listed(lab, jobs)[0]["headers"] == ["run", "state", "stages finished", "last change"]
    assert rows == {"mine": ("Finished", "5 / 5"), "other": ("Failed", "1 / 5"), "demo": ("Stopped", "0 / 5")}
    (lab.folder / "other" / "recipe.json").write_text("{")
    assert dict(row[:2] for row in states.runs_table(lab, jobs))["other"] == "Unreadable"


def test_the_log_of_a_run_that_was_made_elsewhere_says_so(lab):
    assert (
        "was not started in this app"
        in runs.RunTabUpdates(lab, Idle(lab.folder)).component_updates("mine", None, None, None)[11]
    )


def test_a_page_trains_on_files_of_the_folder_of_the_app_alone(lab, tmp_path, monkeypatch):
    jobs, home = Idle(lab.folder), tmp_path / "home"
    (home / "texts").mkdir(parents=True)
    (home / "away").symlink_to(tmp_path)
    (home / "texts" / "a.txt").write_text("One day.")
    monkeypatch.chdir(home)
    for flags in ("--text /etc/passwd", "--text=/etc/passwd", "--instructions ../secret.json", "--preferences away/x",
                  "--text ~/notes.txt", "--text .env", "--text texts/../.git/config"):  # fmt: skip
        with pytest.raises(LabError, match="outside of the folder that the app was started in, or hidden there"):
            manage.start_run(lab, jobs, "new", "smoke", extra_flags=flags)
    assert jobs.asked == []
    for flags in ("--text texts/a.txt", f"--text {home}/texts", "--instructions some/data-set"):
        manage.start_run(lab, jobs, "new", "smoke", extra_flags=flags)
    lab.inputs = None
    manage.start_run(lab, jobs, "new", "smoke", extra_flags="--text /etc/hostname")
    assert len(jobs.asked) == 4


def test_a_run_gets_another_name(lab):
    jobs = Idle(lab.folder)
    ended(lab.folder, "mine", ["run", "--stages", "sft"], "said")
    before = everything(lab.folder / "mine")
    assert manage.rename_run(lab, jobs, "mine", " yours ") == "yours"
    assert everything(lab.folder / "yours") == before and lab.all_run_names() == ["yours", "demo"]
    assert jobs.log("yours") == "said" and manage.requested_stages(jobs, lab.open("yours")) == ["sft"]


def test_a_run_is_deleted_once_its_name_is_typed(lab):
    jobs = Idle(lab.folder)
    ended(lab.folder, "mine", ["run"], "said")
    manage.delete_run(lab, jobs, "mine", " mine ")
    assert lab.all_run_names() == ["demo"] and everything(lab.folder) == {}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda lab, jobs: manage.delete_run(lab, jobs, "mine", "min"), "type its name. Nothing was deleted"),
        (lambda lab, jobs: manage.delete_run(lab, jobs, "mine", None), "type its name"),
        (lambda lab, jobs: manage.delete_run(lab, jobs, "busy", "busy"), "busy is running"),
        (lambda lab, jobs: manage.delete_run(lab, jobs, "demo", "demo"), "comes with labkit"),
        (lambda lab, jobs: manage.delete_run(lab, jobs, "../shipped", "../shipped"), "There is no run"),
        (lambda lab, jobs: manage.delete_run(lab, jobs, cast(str, ["mine"]), "mine"), "There is no run"),
        (lambda lab, jobs: manage.rename_run(lab, jobs, "busy", "new"), "busy is running"),
        (lambda lab, jobs: manage.rename_run(lab, jobs, "demo", "new"), "comes with labkit"),
        (lambda lab, jobs: manage.rename_run(lab, jobs, "mine", "busy"), "a run busy already"),
        (lambda lab, jobs: manage.rename_run(lab, jobs, "mine", "../new"), "is not a valid name for a run"),
        (lambda lab, jobs: manage.rename_run(lab, jobs, "mine", "demo"), "a run demo already"),
        (lambda lab, jobs: manage.rename_run(lab, jobs, "gone", "new"), "There is no run"),
    ],
)
def test_what_is_refused_changes_nothing(lab, act, message):
    Run.create(lab.folder / "busy", tiny_recipe())
    jobs = Idle(lab.folder)
    jobs.at_work.add("busy")
    before = everything(lab.folder.parent)
    with pytest.raises(LabError, match=message):
        act(lab, jobs)
    assert everything(lab.folder.parent) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_flags": "--out /tmp/x"}, "--out is set by the fields above"),
        ({"extra_flags": "--build_on=/tmp/x --stages dpo"}, "--build_on=/tmp/x, --stages is set by the fields above"),
        ({"extra_flags": "--pretrain.train.steps 100001"}, "--pretrain.train.steps 100001 is above this page's limit"),
        ({"extra_flags": "--model.width=1e9"}, "--model.width 1e9 is above this page"),
        ({"extra_flags": "--annotation.prompts 99999999"}, "above this page's limit, 1,000,000"),
        ({"extra_flags": "--model.width 257"}, r"must be even, not 257"),
        ({"extra_flags": "--model.wdith 64"}, "There is no option --model.wdith. Did you mean"),
        ({"extra_flags": "--model.width wide"}, "--model.width must be a whole number, not 'wide'"),
        ({"extra_flags": "--dpo.beta -1"}, "--dpo.beta must be"),
        (
            {"extra_flags": "--sft.train.max-length 4096"},
            "sft.train.max_length is 4096 tokens, but the model's context is 192",
        ),
        ({"extra_flags": "64"}, "No option takes 64"),
        ({"extra_flags": "--text nowhere.txt"}, "There is no file or folder nowhere.txt"),
        (
            {"extra_flags": "--model.width 4096 --model.depth 64 --tokenizer.vocabulary 1000000"},
            "parameters is above this page",
        ),
        (
            {"extra_flags": "--model.width 2048 --model.depth 12 --model.feed-forward.intermediate-size 2048"},
            "A model of 3.* parameters",
        ),
        (
            {"extra_flags": "--pretrain.train.batch-size 1024 --pretrain.train.max-length 192"},
            "pretrain: 1,024 rows of 192 tokens are",
        ),
        (
            {"extra_flags": "--model.feed-forward MoE --model.feed-forward.num-experts 4096"},
            "above this page's limit, 256",
        ),
        ({"extra_flags": "--help"}, "--help is not a setting"),
        ({"extra_flags": "--import /tmp/x.py"}, "--import runs the code of a file, so only the command line takes it"),
        ({"extra_flags": "--model.width 64 '--import=/tmp/x.py'"}, "only the command line takes it"),
        ({"extra_flags": "--tyro-write-completion bash /tmp/x"}, "is not a setting"),
        ({"stages": ["dpo"]}, "dpo needs pretrain, sft first"),
        ({"preset_or_run": "mine", "stages": ["dpo"]}, "has not finished pretrain, sft"),
        (
            {"preset_or_run": "mine", "stages": ["ppo"], "extra_flags": "--text data/README.md"},
            "no stage ppo; it has pretrain",
        ),
        ({"extra_flags": "'open"}, "cannot be read"),
        ({"extra_flags": 7}, "cannot be read"),
        ({"extra_flags": "--text a\0b"}, "cannot be read: there is a null character"),
        ({"preset_seed": -1}, "A seed must be a whole number from 0 to 4294967295, not -1"),
        ({"preset_seed": 2**40}, "A seed must be a whole number"),
        ({"preset_seed": float("nan")}, "A seed must be a whole number"),
        ({"preset_seed": "x"}, "A seed must be a whole number"),
        ({"stages": ["spin"]}, "are not stages"),
        ({"stages": "dpo"}, "are not stages"),
        ({"stages": [["dpo"]]}, "are not stages"),
        ({"preset_or_run": {"a": 1}, "stages": ["dpo"]}, "There is no run"),
        ({"preset_or_run": "../x", "stages": ["dpo"]}, "There is no run"),
        ({"preset_or_run": ["mine"]}, "Choose the stages to train"),
        ({"name": "\ud83d"}, "is not a valid name for a run"),
        ({"name": None}, "is not a valid name for a run"),
    ],
)
def test_what_a_page_may_not_begin(lab, change, message):
    """It is said at once, in words, and no process is begun."""
    jobs = Idle(lab.folder)
    given: dict[str, Any] = {"name": "new", "preset_or_run": "smoke"} | change
    with pytest.raises(LabError, match=message):
        manage.start_run(lab, jobs, **given)
    assert jobs.asked == []


def test_a_runs_own_stages_can_be_asked_for(lab):
    """Those of its plan stand in the menu behind the kinds; whatever else is named, the kinds alone."""
    usual = manage.available_stage_names()
    assert (
        usual[:5] == ["pretrain", "sft", "reward", "ppo", "dpo"] and manage.available_stage_names(lab, "smoke") == usual
    )
    run = lab.open("mine")
    plan = (*run.recipe.plan, PlannedStage("dpo-strict", run.recipe.stages["dpo"]))
    run.recipe = dataclasses.replace(run.recipe, plan=plan)
    run.save_recipe()
    assert manage.available_stage_names(lab, "mine") == [*usual, "dpo-strict"]
    for source in (None, 3, ["mine"], "../mine", "nobody"):
        assert manage.available_stage_names(lab, source) == usual


def test_what_is_just_allowed_is_begun(lab):
    jobs = Idle(lab.folder)
    manage.start_run(lab, jobs, "wide", "smoke", extra_flags="--model.width 1024 --pretrain.train.batch-size 1024")
    assert jobs.asked[0][-4:] == ["--model.width", "1024", "--pretrain.train.batch-size", "1024"]


BROKEN = ["", "{", "[]", "7", "{}", '{"recipe": 5}', '{"recipe": {"pretrain": 3}, "inputs": {}, "threads": 1}', "\x00"]


@pytest.mark.parametrize("text", BROKEN)
def test_one_run_that_cannot_be_read_breaks_no_menu(lab, text):
    jobs = Idle(lab.folder)
    shutil.copytree(lab.folder / "mine", lab.folder / "broken")
    (lab.folder / "broken" / "recipe.json").write_text(text)
    assert sorted(lab.all_run_names()) == ["broken", "demo", "mine"] and lab.runs_with_model() == []
    assert ("broken (unreadable)", "broken") in runs.run_menu_choices(lab, jobs) and (
        "mine",
        "mine",
    ) in runs.run_menu_choices(lab, jobs)
    why, stages, *_ = runs.RunTabUpdates(lab, Idle(lab.folder)).component_updates("broken", "mine", None, None)
    assert "recipe.json" in why["value"] and stages["data"] == []
    assert lab.read_error("mine") is None


def test_folders_that_cannot_be_runs_are_passed_over(lab):
    for name in (".hidden", "x" * 130):
        shutil.copytree(lab.folder / "mine", lab.folder / name)
    assert lab.all_run_names() == ["mine", "demo"]


@pytest.mark.parametrize("name", ["../mine", "", "\ud83d", 5, ["mine"], {"a": 1}, "x" * 5000])
def test_looking_at_what_is_no_run_is_a_line(lab, name):
    why, *_ = runs.RunTabUpdates(lab, Idle(lab.folder)).component_updates(name, name, name, name)
    assert why["visible"] and len(why["value"]) < 300


def test_a_curve_is_drawn_with_that_of_another_run(lab):
    for name in ("mine", "other"):
        run = lab.open("mine") if name == "mine" else Run.create(lab.folder / "other", tiny_recipe(seed=1))
        (run.path / "pretrain").mkdir()
        lines = [{"step": step, "loss": 2.0 / step, "lr": 0.1, "seconds": step} for step in (1, 2, 3)]
        (run.path / "pretrain" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    look = runs.RunTabUpdates(lab, Idle(lab.folder)).component_updates
    figure = look("mine", "other", "pretrain", "loss")[4]
    assert {"training · mine", "training · other"} <= {line.name for line in figure.data}
    assert {line.name for line in look("mine", None, "pretrain", "loss")[4].data} == {"training"}
    assert {line.name for line in look("mine", "demo", "pretrain", "loss")[4].data} == {"training"}  # it has none
