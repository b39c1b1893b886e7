"""The Runs tab: what is being made and what was, stage by stage, with its curves; and how to begin, stop and go on."""

from __future__ import annotations

import dataclasses
import re
import shlex
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from labkit.compare import compare, rows
from labkit.errors import LabError
from labkit.jobs import Jobs
from labkit.measures import BY_KIND, measure
from labkit.preferences.store import Store
from labkit.report import curves, minutes
from labkit.runs import Run, StageFolder
from labkit.ui.lab import Lab
from labkit.ui.preferences import export
from labkit.ui.shell import on_load, problem_box, words

NAME = re.compile(r"[\w][\w.-]{0,60}")


def progress(run: Run, running: bool) -> list[list[str]]:
    """A row a stage: its name, what state it is in, its steps, and how long it took or will still take."""
    found = []
    for stage in run.stages:
        steps, records = run.recipe.stages[stage.name].train.steps, stage.records
        done = records[-1]["step"] if records else 0
        seconds = records[-1]["seconds"] if records else 0.0
        if stage.finished:
            state, time = "finished", minutes((stage.result or {}).get("seconds", seconds))
        elif stage.begun:
            state = "measuring" if running and done == steps else "at work" if running else "stopped"
            time = f"{minutes(seconds / done * (steps - done))} left" if done and running else ""
        else:
            state, time = "", ""
        found.append([stage.name, state, f"{done:,} of {steps:,}", time])
    return found


def card(run: Run) -> dict[str, Any]:
    """The measures of all finished stages as a table: {"headers", "data"}, a column a stage."""
    finished = [stage for stage in run.stages if stage.finished]
    results = [stage.result or {"metrics": {}} for stage in finished]
    names = dict.fromkeys(name for result in results for name in result["metrics"] if not name.startswith(BY_KIND))
    table = []
    for name in names:
        known = measure(name)
        values = [result["metrics"].get(name) for result in results]
        table.append([known.label, *("" if value is None else known.show(value) for value in values)])
    return {"headers": ["measure", *(stage.name for stage in finished)], "data": table}


def drawn(stage: StageFolder) -> dict[str, tuple[str, go.Figure]]:
    """The stage's curves as they are now, by name: (heading, figure)."""
    result = stage.result
    return curves(stage.name, result["metrics"] if result else {}, stage.records)


def begin(lab: Lab, jobs: Jobs, name: str, preset: str, seed: int, more: str) -> str:
    """Begin a run of a preset in a process of its own; its name. more: flags as on the command line.

    Raises LabError for a name that is no plain folder name, or is taken.
    """
    name = name.strip()
    if not NAME.fullmatch(name):
        raise LabError(f"{name!r} is no name for a run: letters, digits, '-', '_' and '.', at most 61 of them.")
    path = lab.folder / name
    if path.exists():
        raise LabError(f"There is a run {name} already. Choose another name, or go on with that one.")
    try:
        flags = shlex.split(more)
    except ValueError as error:
        raise LabError(f"The settings cannot be read: {error}.") from error
    jobs.start(name, ["run", "--preset", preset, "--seed", str(int(seed)), "--out", str(path), *flags])
    return name


def resume(lab: Lab, jobs: Jobs, name: str) -> str:
    """Go on with a run that was stopped; its name."""
    jobs.start(name, ["run", "--out", str(lab.run(name).path), "--resume"])
    return name


def train_on_votes(lab: Lab, jobs: Jobs, store: Store, name: str) -> str:
    """Begin DPO on the votes, from a run's fine-tuned model, as a new run; its name.

    Raises LabError when no vote prefers one answer, or the run has no fine-tuned model.
    """
    base = lab.run(name)
    number = 1 + sum(other.startswith(f"{name}-votes-") for other in (path.name for path in lab.folder.glob("*")))
    new = f"{name}-votes-{number}"
    folder = lab.folder / ".votes" / new
    folder.mkdir(parents=True, exist_ok=True)
    votes = export(store, folder)
    pairs = sum(1 for _ in votes.open(encoding="utf-8"))
    train = base.recipe.dpo.train
    few = dataclasses.replace(train, rows=min(train.rows, max(2, pairs // 2)), checkpoint_every=10)
    few = dataclasses.replace(few, steps=max(20, min(train.steps, 6 * pairs // few.rows)))
    dpo = dataclasses.replace(base.recipe.dpo, train=few)
    recipe = dataclasses.replace(base.recipe, preferences=str(votes), dpo=dpo)
    branched = base.branch(lab.folder / new, recipe, ["pretrain", "sft"])
    jobs.start(new, ["run", "--out", str(branched.path), "--resume", "--stages", "dpo"])
    return new


def build(lab: Lab, jobs: Jobs, store: Store) -> None:
    """The tab's components, in the Blocks that is open."""
    with gr.Row(equal_height=True):
        name = gr.Dropdown([], label=words("run"), allow_custom_value=True, scale=3, elem_id="runs-name")
        other = gr.Dropdown([], label=words("other_run"), allow_custom_value=True, scale=2, elem_id="runs-other")
        stop, go_on = gr.Button(words("stop"), scale=1), gr.Button(words("go_on"), scale=1)
        votes = gr.Button(words("train_on_votes"), variant="primary", scale=2, elem_id="runs-votes")
    problem = problem_box("runs-problem")
    heads = ["stage", "state", "steps", "time"]
    stages = gr.Dataframe(headers=heads, datatype="str", interactive=False, elem_id="runs-stages")
    with gr.Row():
        stage = gr.Dropdown([], label=words("stage_of"), allow_custom_value=True, elem_id="runs-stage")
        curve = gr.Dropdown([], label=words("curve"), allow_custom_value=True, elem_id="runs-curve")
    plot = gr.Plot(show_label=False, elem_id="runs-plot")
    with gr.Accordion(words("card"), open=False):
        report = gr.Dataframe(datatype="str", interactive=False, elem_id="runs-card")
    with gr.Accordion(words("side_by_side"), open=False):
        heads = ["stage", "measure", "this run", "the other", "difference"]
        beside = gr.Dataframe(headers=heads, datatype="str", interactive=False, elem_id="runs-beside")
    with gr.Accordion(words("new_run"), open=False):
        with gr.Row():
            new_name = gr.Textbox(label=words("name"))
            preset = gr.Dropdown(["smoke", "lab", "full"], value="smoke", label=words("preset"))
            seed = gr.Number(0, label=words("seed"), precision=0)
        more = gr.Textbox(label=words("more_settings"), placeholder="--model.width 256 --pretrain.train.steps 500")
        start = gr.Button(words("begin"), variant="primary", elem_id="runs-begin")
    timer, at_work = gr.Timer(2), gr.State(False)

    def fill() -> tuple[Any, Any]:
        names = lab.all_names()
        return gr.update(choices=names, value=names[0] if names else None), gr.update(choices=names)

    def look(name: str | None, stage: str | None, curve: str | None) -> tuple[Any, ...]:
        if not name:
            return (gr.skip(),) * 4
        run = lab.run(name)
        begun = [one.name for one in run.stages if one.begun]
        if not begun:
            return progress(run, jobs.running(name)), gr.update(choices=[]), gr.update(choices=[]), gr.skip()
        shown = stage if stage in begun else begun[-1]
        figures = drawn(run.stage(shown))
        chosen = curve if curve in figures else next(iter(figures), None)
        return (
            progress(run, jobs.running(name)),
            gr.update(choices=begun, value=shown),
            gr.update(choices=[(heading, key) for key, (heading, _) in figures.items()], value=chosen),
            figures[chosen][1] if chosen else gr.skip(),
        )

    def follow(name: str | None, stage: str | None, curve: str | None, before: bool) -> tuple[Any, ...]:
        """`look` while a process is at work, and once after it."""
        now = bool(name) and jobs.running(name or "")
        return (*(look(name, stage, curve) if now or before else (gr.skip(),) * 4), now)

    def measures(name: str | None, other: str | None) -> tuple[Any, Any]:
        try:
            both = rows(compare(lab.folder / name, lab.folder / other)) if name and other else []
            return card(lab.run(name)) if name else gr.skip(), both
        except LabError as error:
            return gr.skip(), [["", str(error), "", "", ""]]

    def tried(action: Any, *arguments: Any) -> tuple[Any, Any]:
        try:
            made = action(*arguments)
        except LabError as error:
            return gr.skip(), gr.update(value=str(error), visible=True)
        names = lab.all_names()
        return gr.update(choices=names, value=made), gr.update(visible=False)

    inputs, outputs = [name, stage, curve], [stages, stage, curve, plot]
    on_load(fill, None, [name, other])
    gr.on([name.change, stage.input, curve.input], look, inputs, outputs, show_progress="hidden")
    timer.tick(follow, [*inputs, at_work], [*outputs, at_work], show_progress="hidden")
    gr.on([name.change, other.change], measures, [name, other], [report, beside], show_progress="hidden")
    stop.click(lambda name: jobs.stop(name), name, None)
    go_on.click(lambda name: tried(resume, lab, jobs, name), name, [name, problem])
    votes.click(lambda name: tried(train_on_votes, lab, jobs, store, name), name, [name, problem])
    start.click(
        lambda name, preset, seed, more: tried(begin, lab, jobs, name, preset, seed, more),
        [new_name, preset, seed, more],
        [name, problem],
    )
