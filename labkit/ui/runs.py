"""The Runs tab: all runs with their states; of one, what is being trained and what was, stage by stage, with its
curves; and how to begin, stop, resume, rename and delete a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from labkit.errors import LabError
from labkit.preferences.store import PreferenceStore
from labkit.runs.folder import Run
from labkit.runs.jobs import Jobs, check_run_name
from labkit.runs.lock import lock_holder
from labkit.runs.presets import PRESETS
from labkit.ui import manage, methods
from labkit.ui.fields import skip_gradio_check
from labkit.ui.lab import Lab
from labkit.ui.run_figures import curve_figures, metrics_table, overlay_other_run, run_comparison_table, stage_advice
from labkit.ui.shell import (
    hide_box_update,
    on_load,
    on_tab,
    problem_box,
    show_advice_or_hide_update,
    show_error_update,
    translate_label,
    translate_message,
    words,
)
from labkit.ui.states import (
    can_resume,
    default_run,
    failure_message,
    run_menu_choices,
    run_status,
    runs_table,
    stage_progress_rows,
)


class RunWidgets(NamedTuple):
    """The tab's components that change."""

    all_runs: gr.Dataframe
    name: gr.Dropdown
    other_run: gr.Dropdown
    stop: gr.Button
    resume: gr.Button
    problem: gr.Textbox
    run_problem: gr.Textbox
    stages: gr.Dataframe
    stage: gr.Dropdown
    curve: gr.Dropdown
    plot: gr.Plot
    metrics: gr.Dataframe
    comparison_problem: gr.Textbox
    comparison: gr.Dataframe
    report: gr.Button
    log: gr.Textbox
    log_box: gr.Accordion

    @property
    def updated_with_runs(self) -> list[Any]:
        """What is to be filled anew when there are other runs, or one is in another state; see `_listed`."""
        return [self.all_runs, self.name, self.other_run]

    @property
    def updated_with_run(self) -> list[Any]:
        """What is to be filled anew when something of the run has changed."""
        return [
            self.run_problem, self.stages, self.stage, self.curve, self.plot, self.metrics, self.comparison_problem,
            self.comparison, self.stop, self.resume, self.report, self.log, self.log_box,
        ]  # fmt: skip


def build(lab: Lab, jobs: Jobs, store: PreferenceStore) -> None:
    """The tab's components, in the Blocks that is open."""
    every = gr.Dataframe(
        headers=[""] * 4, datatype="str", interactive=False, wrap=True, max_height=210, elem_id="runs-all"
    )
    with gr.Row(elem_classes="labkit-bar"):
        name = gr.Dropdown([], label=words("run"), allow_custom_value=True, scale=3, elem_id="runs-name")
        other = gr.Dropdown([], label=words("other_run"), allow_custom_value=True, scale=2, elem_id="runs-other")
        stop = gr.Button(words("stop"), interactive=False, elem_id="runs-stop")
        go_on = gr.Button(words("go_on"), interactive=False, elem_id="runs-go-on")
        report = gr.Button(words("write_report"), interactive=False, elem_id="runs-report")
    problem, why = problem_box("runs-problem"), problem_box("runs-why-problem")
    stages = gr.Dataframe(headers=["", "", "", ""], datatype="str", interactive=False, wrap=True, elem_id="runs-stages")
    with gr.Row():
        stage = gr.Dropdown([], label=words("stage_of"), allow_custom_value=True, elem_id="runs-stage")
        curve = gr.Dropdown([], label=words("curve"), allow_custom_value=True, elem_id="runs-curve")
    plot = gr.Plot(show_label=False, elem_id="runs-plot")
    with gr.Accordion(words("card"), open=False, elem_id="runs-measures"):
        table = gr.Dataframe(datatype="str", interactive=False, wrap=True, elem_id="runs-card")
    with gr.Accordion(words("side_by_side"), open=False, elem_id="runs-comparison"):
        told = problem_box("runs-beside-problem")
        both = gr.Dataframe(headers=[""] * 5, datatype="str", interactive=False, wrap=True, elem_id="runs-beside")
    with gr.Accordion(words("log"), open=False, elem_id="runs-said") as log_box:
        log = gr.Textbox(show_label=False, interactive=False, lines=6, elem_id="runs-log")
    shown = RunWidgets(
        every, name, other, stop, go_on, problem, why, stages, stage, curve, plot, table, told, both, report, log,
        log_box,
    )  # fmt: skip
    _watch(lab, jobs, shown)
    report.click(None, name, None, js="(run) => labkit.openReport(run)")
    stop.click(partial(_stop, jobs), name, problem)
    _acts(lab, jobs, shown, problem, go_on.click, partial(_resume, lab, jobs), [name])
    _train_on_votes(lab, jobs, store, shown)
    with gr.Accordion(words("new_run"), open=False, elem_id="runs-new"):
        _new_run(lab, jobs, shown)
    with gr.Accordion(words("manage"), open=False, elem_id="runs-manage"):
        _manage(lab, jobs, shown)


def _stop(jobs: Jobs, name: Any) -> Any:
    """Ask a run's process to stop, and say that it was asked."""
    try:
        jobs.stop(name)
        return show_advice_or_hide_update(
            f"{name} was asked to stop. It ends after its current step and can be resumed."
        )
    except LabError as error:
        return show_error_update(error)


def _resume(lab: Lab, jobs: Jobs, name: Any) -> tuple[str, str]:
    resumed = manage.resume_run(lab, jobs, name)
    return resumed, f"{resumed} is being resumed. Its first step takes a moment."


def _train_on_votes(lab: Lab, jobs: Jobs, store: PreferenceStore, shown: RunWidgets) -> None:
    """What begins DPO on the votes: at first from the run that was voted on most."""
    with gr.Row(elem_classes="labkit-bar"):
        name = gr.Dropdown([], label=words("voted_run"), allow_custom_value=True, scale=3, elem_id="runs-voted")
        start = gr.Button(words("train_on_votes"), variant="primary", scale=2, elem_id="runs-votes")
    problem = problem_box("runs-votes-problem")

    def fill() -> Any:
        found = manage.voted_runs(lab, store)
        choices = [(f"{run} ({translate_label('votes: {}').format(count)})", run) for run, count in found]
        return gr.update(choices=choices, value=found[0][0] if found else None)

    on_load(fill, None, name)
    on_tab(fill, name)
    _acts(lab, jobs, shown, problem, start.click, lambda name: manage.train_on_votes(lab, jobs, store, name), [name])


def _new_run(lab: Lab, jobs: Jobs, shown: RunWidgets) -> None:
    """The form that begins a run."""
    with gr.Row():
        name = gr.Textbox(label=words("name"), elem_id="new-name")
        source = gr.Dropdown(
            [*PRESETS], value="smoke", label=words("preset_or_run"), allow_custom_value=True, elem_id="new-source"
        )
        stages = gr.Dropdown(
            manage.available_stage_names(), multiselect=True, label=words("stages_to_make"), elem_id="new-stages"
        )
        seed = skip_gradio_check(gr.Number(0, label=words("seed"), precision=0, elem_id="new-seed"))
    with gr.Row():
        method = gr.Dropdown(
            [("–", ""), *methods.method_choices()], value="", label=words("method"), elem_id="new-method"
        )
        after = gr.Dropdown([], label=words("method_after"), allow_custom_value=True, elem_id="new-after")
    about = gr.Textbox(label=words("method_about"), interactive=False, lines=2, visible=False, elem_id="new-about")
    more = gr.Textbox(
        label=words("more_settings"), placeholder="--model.width 256 --pretrain.train.steps 500", elem_id="new-more"
    )
    command = gr.Textbox(label=words("command"), interactive=False, lines=2, elem_id="new-command")
    start = gr.Button(words("begin"), variant="primary", elem_id="runs-begin")
    problem = problem_box("new-problem")
    on_tab(lambda: gr.update(choices=[*PRESETS, *lab.runs_with_model()]), source)

    def its_stages(chosen: Any) -> Any:
        return gr.update(choices=manage.available_stage_names(lab, chosen))

    source.change(its_stages, source, stages, show_progress="hidden")
    inputs: list[Any] = [name, source, stages, seed, method, after, more]

    def choose(method: Any, source: Any, more: Any, filled: str) -> tuple[Any, ...]:
        said = "\n\n".join(translate_message(text) for text in methods.about_method(method))
        settings = methods.main_settings(lab, source, method)
        kept = methods.settings_to_fill_in(more, filled, settings)
        choices = ["", *methods.predecessor_choices(lab, source)]
        shown = gr.update(value=said, visible=bool(said))
        return shown, kept, settings, gr.update(choices=choices)

    def show_command(name: Any, source: Any, stages: Any, seed: Any, method: Any, after: Any, more: Any) -> str:
        try:
            asked = methods.with_method(lab, source, stages or [], method, after)
            return methods.command_line(lab, name, source, asked, 0 if seed is None else seed, more or "")
        except LabError as error:
            return translate_message(error)

    filled = gr.State("")  # the settings that were filled in last
    chosen, updated = [method, source, more, filled], [about, more, filled, after]
    filling = gr.on([method.change, source.change], choose, chosen, updated, show_progress="hidden")
    filling.then(show_command, inputs, command, show_progress="hidden")
    typed = [event for box in (name, seed, more) for event in (box.blur, box.submit)]  # not at each letter
    gr.on([*typed, stages.change, after.change], show_command, inputs, command, show_progress="hidden")

    def begin(name: Any, source: Any, stages: Any, seed: Any, method: Any, after: Any, more: Any) -> tuple[str, str]:
        asked = methods.with_method(lab, source, stages or [], method, after)
        made = manage.start_run(lab, jobs, name, source, asked, 0 if seed is None else seed, more or "")
        return made, f"{made} has started. Its progress is shown at the top of this tab."

    _acts(lab, jobs, shown, problem, start.click, begin, inputs)


def _manage(lab: Lab, jobs: Jobs, shown: RunWidgets) -> None:
    """What gives the chosen run another name, and what deletes it."""
    with gr.Row(elem_classes="labkit-bar"):
        new = gr.Textbox(label=words("new_name_of_run"), elem_id="rename-to")
        rename = gr.Button(words("rename"), elem_id="runs-rename")
        confirmed = gr.Textbox(label=words("confirm_delete"), elem_id="delete-confirm")
        delete = gr.Button(words("delete"), variant="stop", elem_id="runs-delete")
    problem = problem_box("manage-problem")

    def renamed(name: Any, new: Any) -> tuple[str, str]:
        made = manage.rename_run(lab, jobs, name, new)
        return made, f"{name} is now called {made}."

    def deleted(name: Any, confirmed: Any) -> tuple[str | None, str]:
        manage.delete_run(lab, jobs, name, confirmed)
        return default_run(lab, jobs), f"{name} is deleted."

    _acts(lab, jobs, shown, problem, rename.click, renamed, [shown.name, new], [new, confirmed])
    _acts(lab, jobs, shown, problem, delete.click, deleted, [shown.name, confirmed], [new, confirmed])


def _acts(
    lab: Lab,
    jobs: Jobs,
    shown: RunWidgets,
    problem: gr.Textbox,
    event: Any,
    action: Callable[..., tuple[str | None, str]],
    inputs: list[Any],
    typed: Sequence[Any] = (),
) -> None:
    """On `event`, do what changes the runs, and show the run that it gives the name of, and what it says of it; or say
    in `problem` why not. typed: boxes that are emptied when it is done; not before, or what is typed meanwhile is lost.
    """

    def tried(*given: Any) -> tuple[Any, ...]:
        try:
            made, note = action(*given)
        except LabError as error:
            return *(gr.skip() for _ in shown.updated_with_runs), show_error_update(error), *(gr.skip() for _ in typed)
        emptied = ["" for _ in typed]
        return *_listed(lab, jobs, value=made), show_advice_or_hide_update(note), *emptied

    event(tried, inputs, [*shown.updated_with_runs, problem, *typed])


def _listed(lab: Lab, jobs: Jobs, **chosen: Any) -> list[Any]:
    """What `RunWidgets.of_all` is to show. chosen: the `value` of the run's menu, where it is to be another."""
    names = run_menu_choices(lab, jobs)
    heads = [translate_label(head) for head in ("run", "state", "stages finished", "last change")]
    table = {"headers": heads, "data": runs_table(lab, jobs)}
    return [table, gr.update(choices=names, **chosen), gr.update(choices=names)]


class RunTabUpdates:
    """What the tab's components are filled with, for the run that is chosen."""

    def __init__(self, lab: Lab, jobs: Jobs):
        self.lab, self.jobs = lab, jobs

    def component_updates(self, name: Any, other: Any, stage: Any, curve: Any) -> tuple[Any, ...]:
        """A value or update for each component of `RunWidgets.updated_with_run`. stage: the newest when None. Of a name
        that is none, only that is said.
        """
        try:
            if name in self.lab.all_run_names():
                return self._run(self.lab.open(name), name, other, stage, curve)
            return self._none(check_run_name(name))
        except LabError as error:
            return self._nothing(show_error_update(error), [])

    def _run(self, run: Run, name: str, other: Any, stage: Any, curve: Any) -> tuple[Any, ...]:
        at, log = run_status(self.jobs, run), self.jobs.log(name)
        ended = f"Its process ended early: {failure_message(self.jobs, name)}"
        return (
            show_error_update(ended) if at.failed else show_advice_or_hide_update(*self._advice(run, stage)),
            {"headers": stage_table_headers(), "data": stage_progress_rows(run, at)},
            *self._curves(run, name, other, stage, curve),
            metrics_table(run),
            *run_comparison_table(self.lab, name, other),
            gr.update(interactive=at.started_here),
            gr.update(interactive=can_resume(self.lab, run, at)),
            gr.update(interactive=(run.path / "report.json").is_file()),
            log
            if log
            else translate_message(f"{name} was not started in this app: its log is where its command was run."),
            gr.update(open=True) if at.failed else gr.skip(),
        )

    def _advice(self, run: Run, stage: Any) -> list[str]:
        shown = _shown_stage(run, stage)
        return [] if shown is None else stage_advice(run.stage(shown))

    def _none(self, name: str) -> tuple[Any, ...]:
        """Of a run that has just been begun, or could not be."""
        running, known = self.jobs.is_running(name), bool(self.jobs.arguments(name))
        if not known:
            raise LabError(f"There is no run {name!r} in {self.lab.folder}.")
        state = "Starting" if running else "Failed to start, see log"
        ended = "" if running else f"Its process ended early: {failure_message(self.jobs, name)}"
        why = hide_box_update() if running else show_error_update(ended)
        found = [*self._nothing(why, [["", translate_label(state), "", ""]])]
        found[8], found[11:] = gr.update(interactive=running), [self.jobs.log(name), gr.update(open=not running)]
        return tuple(found)

    def _nothing(self, why: Any, table: list[list[str]]) -> tuple[Any, ...]:
        none, empty, off = (
            gr.update(choices=[], value=None),
            {"headers": [""], "data": []},
            gr.update(interactive=False),
        )
        stages = {"headers": stage_table_headers(), "data": table}
        return why, stages, none, none, None, empty, hide_box_update(), empty, off, off, off, "", gr.skip()

    def _curves(self, run: Run, name: str, other: Any, stage: Any, curve: Any) -> tuple[Any, Any, Any]:
        """The menus of stages and curves, with what was chosen of them where it is still there, and the figure."""
        begun, shown = [one.name for one in run.stages if one.exists], _shown_stage(run, stage)
        if shown is None:
            return gr.update(choices=[], value=None), gr.update(choices=[], value=None), None
        figures = curve_figures(run.stage(shown))
        chosen = curve if curve in list(figures) else next(iter(figures), None)
        names = [(heading, key) for key, (heading, _) in figures.items()]
        figure = overlay_other_run(self.lab, name, other, shown, chosen, figures[chosen].figure) if chosen else None
        return gr.update(choices=begun, value=shown), gr.update(choices=names, value=chosen), figure


def _shown_stage(run: Run, stage: Any) -> str | None:
    """The stage that was chosen where it has begun, else the newest; None where none has."""
    begun = [one.name for one in run.stages if one.exists]
    return stage if stage in begun else next(reversed(begun), None)


def stage_table_headers() -> list[str]:
    """Of the table of stages."""
    return [translate_label(head) for head in ("stage", "state", "steps", "time")]


def _watch(lab: Lab, jobs: Jobs, shown: RunWidgets) -> None:
    """Keep what is shown true: when the page opens, when something is chosen, and while a process is at work."""
    look = RunTabUpdates(lab, jobs).component_updates
    timer, seen, newest = gr.Timer(2), gr.State(None), gr.State(True)
    chosen = [shown.name, shown.other_run, shown.stage, shown.curve]

    def fill() -> list[Any]:
        first = default_run(lab, jobs)
        return [*_listed(lab, jobs, value=first), _seen(lab, jobs, first)]

    def pick(event: gr.SelectData) -> Any:
        row = getattr(event, "row_value", None)
        return row[0] if isinstance(row, list) and row and row[0] else gr.skip()

    def begin_to_look(name: Any, other: Any, curve: Any) -> tuple[Any, ...]:
        if not name:
            return (gr.skip(),) * (len(shown.updated_with_run) + 2)
        return *look(name, other, None, curve), True, _seen(lab, jobs, name)

    def choose(name: Any, other: Any, stage: Any, curve: Any) -> tuple[Any, ...]:
        if not name:
            return (gr.skip(),) * (len(shown.updated_with_run) + 1)
        readable = name in lab.all_run_names() and not lab.read_error(name)
        begun = [one.name for one in lab.open(name).stages if one.exists] if readable else []
        return *look(name, other, stage, curve), begun[-1:] == [stage]

    def follow(name: Any, other: Any, stage: Any, curve: Any, newest: bool, before: Any) -> tuple[Any, ...]:
        """`look` while a process is at work, and once after it, or when the runs are others than before, wherever that
        was done; at its newest stage unless another was chosen.
        """
        now = _seen(lab, jobs, name)
        listed = [gr.skip()] * len(shown.updated_with_runs) if now == before else _listed(lab, jobs)
        if not name or (now == before and not now[0]):
            return *(gr.skip(),) * len(shown.updated_with_run), *listed, now
        return *look(name, other, None if newest else stage, curve), *listed, now

    quietly: dict[str, Any] = {"show_progress": "hidden"}
    on_load(fill, None, [*shown.updated_with_runs, seen])
    on_tab(lambda: _listed(lab, jobs), shown.updated_with_runs)
    shown.all_runs.select(pick, None, shown.name, **quietly)
    shown.name.change(
        begin_to_look, [shown.name, shown.other_run, shown.curve], [*shown.updated_with_run, newest, seen], **quietly
    )
    gr.on(
        [shown.stage.input, shown.curve.input, shown.other_run.change],
        choose,
        chosen,
        [*shown.updated_with_run, newest],
        **quietly,
    )
    timer.tick(follow, [*chosen, newest, seen], [*shown.updated_with_run, *shown.updated_with_runs, seen], **quietly)


def _seen(lab: Lab, jobs: Jobs, name: Any) -> tuple[Any, ...]:
    """What tells that something else is to be shown: the run that is (an answer for the one before may come after it),
    whether a process is at work on it, and the runs' names.
    """
    names = lab.all_run_names()
    at_work = name in names and bool(lock_holder(lab.path(name)))
    starting = isinstance(name, str) and name in jobs.names() and jobs.is_running(name)
    return at_work or starting, name, names, jobs.names()
