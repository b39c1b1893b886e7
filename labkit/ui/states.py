"""Where runs are: of one, stage by stage; of all, in a table."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from labkit.errors import LabError
from labkit.reporting.page import format_duration
from labkit.runs.folder import Run
from labkit.runs.jobs import Jobs
from labkit.runs.lock import lock_holder
from labkit.runs.stage_folder import StageFolder
from labkit.ui import manage
from labkit.ui.lab import Lab, has_failed, requested_stages, unfinished_stages
from labkit.ui.shell import translate_label


class RunStatus(NamedTuple):
    """Where a run is. running: whether a process is at work, started_here: one that was begun here, which can be
    stopped. failed: whether the last one that was begun here ended before it was done, without having been asked to.
    requested: the stages that the run is to have.
    """

    running: bool
    started_here: bool
    failed: bool
    requested: list[str]
    unfinished: list[str]

    @property
    def first_unfinished_stage(self) -> str | None:
        """The stage that is being trained, or would be next."""
        return self.unfinished[0] if self.unfinished else None


def run_status(jobs: Jobs, run: Run) -> RunStatus:
    """Where a run is."""
    ours = jobs.is_running(run.path.name)
    running = ours or lock_holder(run.path) is not None
    return RunStatus(running, ours, has_failed(jobs, run), requested_stages(jobs, run), unfinished_stages(jobs, run))


def stage_progress_rows(run: Run, status: RunStatus) -> list[list[str]]:
    """A row a stage: its name, what state it is in, its steps, and how long it took or will still take."""
    found = []
    for stage in run.stages:
        steps, records = run.recipe.stages[stage.name].train.steps, stage.step_records
        done = records[-1]["step"] if records else 0
        seconds = records[-1].get("seconds", 0.0) if records else 0.0
        took = ""
        if stage.finished:
            took = format_duration((stage.result or {}).get("seconds", seconds))
        elif stage.exists and done and status.running:
            took = translate_label("{} left").format(format_duration(seconds / done * (steps - done)))
        found.append([stage.name, translate_label(_state(stage, status, done == steps)), f"{done:,} / {steps:,}", took])
    return found


def _state(stage: StageFolder, status: RunStatus, trained: bool) -> str:
    if stage.finished:
        return "Finished"
    if stage.name not in status.requested:
        return "Not requested"
    if status.running and stage.exists:
        return "Evaluating" if trained else "Running"
    if status.failed and stage.name == status.first_unfinished_stage:
        return "Failed"
    return "Stopped" if stage.exists else ""


def can_resume(lab: Lab, run: Run, status: RunStatus) -> bool:
    """Whether resuming makes sense: something is left, and what failed did not fail before its first step."""
    trained = any(stage.step_records for stage in run.stages)
    return (
        bool(status.unfinished)
        and not status.running
        and not lab.is_demo(run.path.name)
        and (trained or not status.failed)
    )


def failure_message(jobs: Jobs, name: str) -> str:
    """What a process said last: its own line about what is wrong, where there is one, and no frame around it."""
    lines = [line.strip("│┃| \t") for line in jobs.log(name).splitlines() if re.search(r"\w", line)]
    ours = [line.removeprefix("labkit: ") for line in lines if line.startswith("labkit: ")]
    return (ours or lines or ["it said nothing"])[-1]


def run_menu_choices(lab: Lab, jobs: Jobs) -> list[tuple[str, str]]:
    """All runs as (what the menu says, name), newest first: those that cannot be read or did not start are said to be
    so.
    """
    waiting = [
        (name, "" if jobs.is_running(name) else "failed to start") for name in manage.runs_without_folder(lab, jobs)
    ]
    known = [(name, "unreadable" if lab.read_error(name) else "") for name in lab.all_run_names()]
    return [(f"{name} ({translate_label(state)})" if state else name, name) for name, state in (*waiting, *known)]


def runs_table(lab: Lab, jobs: Jobs) -> list[list[str]]:
    """A row a run, in the order of `run_menu_choices`: its name, its state, how many of its stages are finished, and
    when it changed last.
    """
    return [[name, *_at_a_glance(lab, jobs, name)] for _, name in run_menu_choices(lab, jobs)]


def _at_a_glance(lab: Lab, jobs: Jobs, name: str) -> list[str]:
    try:
        run = lab.open(name)
    except LabError:
        begun = name in lab.all_run_names()
        state = "Unreadable" if begun else "Starting" if jobs.is_running(name) else "Failed to start"
        return [translate_label(state), "", _clock(jobs.last_output_time(name))]
    finished = sum(stage.finished for stage in run.stages)
    changed = translate_label("comes with labkit") if lab.is_demo(name) else _clock(lab.last_modified(name))
    return [translate_label(_whole(run, run_status(jobs, run))), f"{finished} / {len(run.stages)}", changed]


def _whole(run: Run, status: RunStatus) -> str:
    """The state of a run as one word."""
    if status.running:
        return "Running"
    if status.failed:
        return "Failed"
    return "Stopped" if status.unfinished else "Finished"


def _clock(seconds: float) -> str:
    """The time of today, or else the date; nothing for 0."""
    day, clock = (time.strftime(form, time.localtime(seconds)) for form in ("%Y-%m-%d", "%H:%M"))
    return "" if not seconds else clock if day == time.strftime("%Y-%m-%d") else day


def default_run(lab: Lab, jobs: Jobs) -> str | None:
    """The run that a fresh page opens on: the newest that is running or has a finished stage; else the newest that can
    be read.
    """
    readable = [name for name in lab.all_run_names() if not lab.read_error(name)]
    for name in readable:
        run = lab.open(name)
        if run_status(jobs, run).running or any(stage.finished for stage in run.stages):
            return name
    return next(iter(readable), None)
