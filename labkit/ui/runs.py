"""The Runs tab: what is being made and what was, stage by stage, with its curves; and how to begin, stop and go on."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import plotly.graph_objects as go

from labkit.compare import compare, rows
from labkit.errors import LabError
from labkit.jobs import Jobs
from labkit.measures import BY_KIND, measure
from labkit.preferences.store import Store
from labkit.recipe import PRESETS, Recipe
from labkit.report import curves, minutes, report_page
from labkit.runs import Run, StageFolder
from labkit.ui.lab import Lab
from labkit.ui.preferences import export
from labkit.ui.shell import on_load, on_tab, problem_box, words

INK = "#808890"
"""Of the words in figures: readable on a light page and on a dark one."""
ENOUGH = 50
"""Votes from which on DPO's measures begin to mean something."""
CHOSEN = ("--out", "--preset", "--seed", "--build-on", "--stages", "--resume")
"""The flags of `labkit run` that the form gives itself."""
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


def beside(lab: Lab, name: str | None, other: str | None) -> list[list[str]]:
    """Two runs side by side, a row a measure; or a row that says why not."""
    if not name or not other:
        return []
    try:
        return rows(compare(lab.path(name), lab.path(other)))
    except LabError as error:
        return [["", str(error), "", "", ""]]


def drawn(stage: StageFolder) -> dict[str, tuple[str, go.Figure]]:
    """The stage's curves as they are now, by name: (heading, figure)."""
    result = stage.result
    figures = curves(stage.name, result["metrics"] if result else {}, stage.records)
    for _, figure in figures.values():
        figure.update_layout(font_color=INK)
    return figures


def begin(
    lab: Lab, jobs: Jobs, name: str, source: str, stages: Sequence[str] = (), seed: int = 0, more: str = ""
) -> str:
    """Begin a run in a process of its own; its name.

    source: a preset, or a run whose recipe is taken, and whose stages before those of `stages` are built on. stages: to
    make; empty for all. seed: of a preset's run. more: flags as on the command line. Raises LabError for a name that is
    no plain folder name, or is taken, for a run as source without stages, and for flags that the others are.
    """
    name = name.strip()
    if not NAME.fullmatch(name):
        raise LabError(f"{name!r} is no name for a run: letters, digits, '-', '_' and '.', at most 61 of them.")
    if name in lab.all_names() or (lab.folder / name).exists():
        raise LabError(f"There is a run {name} already. Choose another name, or go on with that one.")
    if source not in PRESETS and not stages:
        raise LabError(f"Choose the stages to make anew; {name} takes what comes before them from {source}.")
    try:
        flags = shlex.split(more)
    except ValueError as error:
        raise LabError(f"The settings cannot be read: {error}.") from error
    twice = [flag for flag in flags if flag.partition("=")[0] in CHOSEN]
    if twice:
        raise LabError(f"{', '.join(twice)} is chosen by the fields above; leave it out of the further settings.")
    preset = ["--preset", source, "--seed", str(int(seed))]
    what = preset if source in PRESETS else ["--build-on", str(lab.path(source))]
    chosen = ["--stages", *stages] if stages else []
    jobs.start(name, ["run", "--out", str(lab.folder / name), *what, *chosen, *flags])
    return name


def resume(lab: Lab, jobs: Jobs, name: str) -> str:
    """Go on with a run that was stopped; its name. Raises LabError when nothing is left to make."""
    run = lab.run(name)
    if all(stage.finished for stage in run.stages):
        raise LabError(f"{name} is finished. To make a stage of it anew, begin a new run that builds on it.")
    jobs.start(name, ["run", "--out", str(run.path), "--resume"])
    return name


def train_on_votes(lab: Lab, jobs: Jobs, store: Store, name: str) -> tuple[str, str]:
    """Begin DPO on the votes, from a run's fine-tuned model, as a new run; its name, and what to know of it.

    Raises LabError when no vote prefers one answer, or the run has no fine-tuned model.
    """
    base = lab.run(name)
    if "sft" not in base.recipe.stages or not base.stage("sft").finished:
        raise LabError(f"{name} has no fine-tuned model yet to learn from votes. Choose another run.")
    names = (f"{name}-votes-{number}" for number in itertools.count(1))
    new = next(free for free in names if not (lab.folder / free).exists())
    folder = lab.folder / ".votes" / new
    folder.mkdir(parents=True, exist_ok=True)
    votes = export(store, folder)
    pairs = sum(1 for _ in votes.open(encoding="utf-8"))
    train = base.recipe.dpo.train
    rows = min(train.rows, max(2, pairs // 2))
    few = dataclasses.replace(train, rows=rows, steps=max(20, min(train.steps, 6 * pairs // rows)), checkpoint_every=10)
    recipe = dataclasses.replace(
        base.recipe, preferences=str(votes), dpo=dataclasses.replace(base.recipe.dpo, train=few)
    )
    branched = base.branch(lab.folder / new, recipe, ["pretrain", "sft"])
    jobs.start(new, ["run", "--out", str(branched.path), "--resume", "--stages", "dpo"])
    few_words = f" So few are soon known by heart: ask for {ENOUGH} or more before you believe the measures."
    return new, f"{new} learns from {pairs} votes.{few_words if pairs < ENOUGH else ''}"


class Shown(NamedTuple):
    """The tab's components that change."""

    name: gr.Dropdown
    other: gr.Dropdown
    stop: gr.Button
    go_on: gr.Button
    problem: gr.Textbox
    stages: gr.Dataframe
    stage: gr.Dropdown
    curve: gr.Dropdown
    plot: gr.Plot
    card: gr.Dataframe
    beside: gr.Dataframe
    log: gr.Textbox
    said: gr.Accordion


def build(lab: Lab, jobs: Jobs, store: Store) -> None:
    """The tab's components, in the Blocks that is open."""
    with gr.Row(elem_classes="labkit-bar"):
        name = gr.Dropdown([], label=words("run"), allow_custom_value=True, scale=3, elem_id="runs-name")
        other = gr.Dropdown([], label=words("other_run"), allow_custom_value=True, scale=2, elem_id="runs-other")
        stop = gr.Button(words("stop"), interactive=False, elem_id="runs-stop")
        go_on = gr.Button(words("go_on"), interactive=False, elem_id="runs-go-on")
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
        page, file = gr.Button(words("write_report"), elem_id="runs-report"), gr.File(visible=False, show_label=False)
    with gr.Accordion(words("side_by_side"), open=False):
        heads = ["stage", "measure", "this run", "the other", "difference"]
        both = gr.Dataframe(headers=heads, datatype="str", interactive=False, elem_id="runs-beside")
    with gr.Accordion(words("log"), open=False) as said:
        log = gr.Textbox(show_label=False, interactive=False, lines=6, elem_id="runs-log")
    shown = Shown(name, other, stop, go_on, problem, stages, stage, curve, plot, report, both, log, said)
    _watch(lab, jobs, shown)
    page.click(lambda name: _page(lab, name), name, [file, problem])
    stop.click(lambda name: jobs.stop(name), name, None)
    _starts(lab, name, problem, go_on.click, lambda name: (resume(lab, jobs, name), ""), [name])
    _starts(lab, name, problem, votes.click, lambda name: train_on_votes(lab, jobs, store, name), [name])
    with gr.Accordion(words("new_run"), open=False):
        _new_run(lab, jobs, shown)


def _new_run(lab: Lab, jobs: Jobs, shown: Shown) -> None:
    """The form that begins a run."""
    with gr.Row():
        name = gr.Textbox(label=words("name"), elem_id="new-name")
        source = gr.Dropdown([*PRESETS], value="smoke", label=words("preset_or_run"), elem_id="new-source")
        stages = gr.Dropdown([*Recipe().stages], multiselect=True, label=words("stages_to_make"), elem_id="new-stages")
        seed = gr.Number(0, label=words("seed"), precision=0)
    more = gr.Textbox(label=words("more_settings"), placeholder="--model.width 256 --pretrain.train.steps 500")
    start = gr.Button(words("begin"), variant="primary", elem_id="runs-begin")
    problem = problem_box("new-problem")
    on_load(lambda: gr.update(choices=[*PRESETS, *lab.names()]), None, source)
    inputs = [name, source, stages, seed, more]
    _starts(lab, shown.name, problem, start.click, lambda *given: (begin(lab, jobs, *given), ""), inputs)


def _starts(
    lab: Lab,
    name: gr.Dropdown,
    problem: gr.Textbox,
    event: Any,
    action: Callable[..., tuple[str, str]],
    inputs: list[Any],
) -> None:
    """On `event`, do what begins a process, and show the run that it gives the name of, and what it says of it; or say
    in `problem` why not.
    """

    def tried(*given: Any) -> tuple[Any, Any]:
        try:
            made, note = action(*given)
        except LabError as error:
            return gr.skip(), gr.update(value=str(error), visible=True)
        choices = dict.fromkeys([made, *lab.all_names()])  # a run that just begins has no folder yet
        return gr.update(choices=[*choices], value=made), gr.update(value=note, visible=bool(note))

    event(tried, inputs, [name, problem])


def _page(lab: Lab, name: str) -> tuple[Any, Any]:
    """The report as a file, written apart from the run, which may not be ours to write to."""
    try:
        file = Path(tempfile.mkdtemp()) / f"{name}-report.html"
        file.write_text(report_page(lab.path(name)), encoding="utf-8")
        return gr.update(value=str(file), visible=True), gr.update(visible=False)
    except LabError as error:
        return gr.skip(), gr.update(value=str(error), visible=True)


def _watch(lab: Lab, jobs: Jobs, shown: Shown) -> None:
    """Keep what is shown true: when the page opens, when something is chosen, and while a process is at work."""
    timer, at_work, newest = gr.Timer(2), gr.State(False), gr.State(True)
    chosen = [shown.name, shown.other, shown.stage, shown.curve]
    seen: list[Any] = [shown.stages, shown.stage, shown.curve, shown.plot, shown.card, shown.beside]
    seen += [shown.stop, shown.go_on, shown.log, shown.said]

    def fill() -> tuple[Any, Any]:
        names = lab.all_names()
        return gr.update(choices=names, value=names[0] if names else None), gr.update(choices=names)

    def look(name: str | None, other: str | None, stage: str | None, curve: str | None) -> tuple[Any, ...]:
        """What `seen` is to show of a run; stage: the newest when None."""
        if not name:
            return (gr.skip(),) * len(seen)
        running, log = jobs.running(name), jobs.log(name)
        if name not in lab.all_names():  # it has just been begun, or could not be
            rows = [["", "begins" if running else "did not begin; its process said why", "", ""]]
            nothing, no_card = gr.update(choices=[], value=None), {"headers": ["measure"], "data": []}
            buttons = gr.update(interactive=running), gr.update(interactive=False)
            return rows, nothing, nothing, None, no_card, [], *buttons, log, gr.update(open=not running)
        run = lab.run(name)
        left = not running and not all(one.finished for one in run.stages)
        buttons = gr.update(interactive=running), gr.update(interactive=left)
        tables = card(run), beside(lab, name, other)
        return progress(run, running), *_curves(run, stage, curve), *tables, *buttons, log, gr.skip()

    def begin_to_look(name: str | None, other: str | None, curve: str | None) -> tuple[Any, ...]:
        return *look(name, other, None, curve), True

    def choose(name: str | None, other: str | None, stage: str | None, curve: str | None) -> tuple[Any, ...]:
        begun = [one.name for one in lab.run(name).stages if one.begun] if name in lab.all_names() else []
        return *look(name, other, stage, curve), begun[-1:] == [stage]

    def follow(
        name: str | None, other: str | None, stage: str | None, curve: str | None, newest: bool, before: bool
    ) -> tuple[Any, ...]:
        """`look` while a process is at work, and once after it; at its newest stage unless another was chosen."""
        now = bool(name) and jobs.running(name or "")
        stage = None if newest else stage
        return *(look(name, other, stage, curve) if now or before else (gr.skip(),) * len(seen)), now

    quiet: dict[str, Any] = {"show_progress": "hidden"}
    on_load(fill, None, [shown.name, shown.other])
    on_tab(lambda: [gr.update(choices=lab.all_names())] * 2, [shown.name, shown.other])
    shown.name.change(begin_to_look, [shown.name, shown.other, shown.curve], [*seen, newest], **quiet)
    gr.on([shown.stage.input, shown.curve.input], choose, chosen, [*seen, newest], **quiet)
    timer.tick(follow, [*chosen, newest, at_work], [*seen, at_work], **quiet)
    shown.other.change(partial(beside, lab), [shown.name, shown.other], shown.beside, **quiet)


def _curves(run: Run, stage: str | None, curve: str | None) -> tuple[Any, Any, Any]:
    """The menus of stages and curves, with what was chosen of them where it is still there, and the figure.

    stage: the newest when None.
    """
    begun = [one.name for one in run.stages if one.begun]
    if not begun:
        return gr.update(choices=[], value=None), gr.update(choices=[], value=None), None
    shown = stage if stage in begun else begun[-1]
    figures = drawn(run.stage(shown))
    chosen = curve if curve in figures else next(iter(figures), None)
    names = [(heading, key) for key, (heading, _) in figures.items()]
    figure = figures[chosen][1] if chosen else None
    return gr.update(choices=begun, value=shown), gr.update(choices=names, value=chosen), figure
