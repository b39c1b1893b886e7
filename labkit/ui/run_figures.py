"""What the Runs tab shows of what runs have measured: metrics, two runs side by side, curves."""

from __future__ import annotations

from typing import Any, NamedTuple

import plotly.graph_objects as go

from labkit.errors import LabError
from labkit.reporting.comparison import compare_runs, comparison_rows
from labkit.reporting.metrics import BY_KIND
from labkit.reporting.plots import overlay_figures
from labkit.reporting.stage_section import HeadedFigure, stage_figures
from labkit.reporting.terminal import format_finding, metric_table_rows
from labkit.runs.folder import Run
from labkit.runs.stage_folder import StageFolder
from labkit.stages.doctor import diagnose
from labkit.ui.lab import Lab
from labkit.ui.shell import hide_box_update, show_advice_or_hide_update, show_error_update, translate_label

INK = "#808890"
"""Of the words in figures: readable on a light page and on a dark one."""


def metrics_table(run: Run) -> dict[str, Any]:
    """The metrics of all finished stages as a table: {"headers", "data"}, a column a stage."""
    finished = [stage for stage in run.stages if stage.finished]
    results = [stage.result or {"stage": stage.name, "metrics": {}} for stage in finished]
    names = dict.fromkeys(name for result in results for name in result["metrics"] if not name.startswith(BY_KIND))
    table = [[translate_label(title), *values] for name in names for title, *values in metric_table_rows(name, results)]
    return {"headers": [translate_label("metric"), *(stage.name for stage in finished)], "data": table}


def stage_advice(stage: StageFolder) -> list[str]:
    """What the doctor has to say of a stage that is being trained, or was."""
    if not stage.config.checks:
        return []
    result = stage.result
    found = diagnose(stage.name, stage.config, stage.step_records, result["metrics"] if result else None)
    return [format_finding(finding._asdict()) for finding in found]


class RunComparison(NamedTuple):
    """problem_update: of the `problem_box` above the table, which says why it is empty. table: {"headers", "data"}."""

    problem_update: Any
    table: dict[str, Any]


def run_comparison_table(lab: Lab, name: str | None, other: str | None) -> RunComparison:
    """Two runs side by side, a row per metric."""
    table: list[list[str]] = []
    told = (
        hide_box_update() if name and other else show_advice_or_hide_update("Choose another run under “Compare with”.")
    )
    if name and other:
        try:
            if name == other:
                raise LabError(f"{name} is compared with itself. Choose another run.")
            _check_finished(lab, name, other)
            found = comparison_rows(compare_runs(lab.path(name), lab.path(other)))
            table = [
                [
                    translate_label(stage),
                    translate_label(label),
                    one,
                    two,
                    _translate_unit(gain),
                    translate_label(word) if word else "",
                ]
                for stage, label, one, two, gain, word in found
            ]
        except LabError as error:
            told = show_error_update(error)
    heads = [
        translate_label("stage"),
        translate_label("metric"),
        name or "",
        other or "",
        translate_label("difference"),
        translate_label("beyond chance"),
    ]
    return RunComparison(told, {"headers": heads, "data": table})


def _translate_unit(value: str) -> str:
    """ "+1.5 percentage points" with its unit in the language of the page; a value without a unit as it is."""
    number, _, unit = value.partition(" ")
    return f"{number} {translate_label(unit)}" if unit else value


def _check_finished(lab: Lab, *names: str) -> None:
    """Raises LabError for a run of which nothing is measured yet."""
    for name in names:
        if not any(stage.finished for stage in lab.open(name).stages):
            raise LabError(f"{name} cannot be compared yet: no stage of it is finished.")


def curve_figures(stage: StageFolder) -> dict[str, HeadedFigure]:
    """The stage's curves as they are now, by name."""
    result = stage.result
    figures = stage_figures(stage.name, result["metrics"] if result else {}, stage.step_records)
    for _, figure in figures.values():
        figure.update_layout(font_color=INK)
        for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
            axis.title.text = translate_label(axis.title.text or "")
        for line in figure.data:
            line.name = translate_label(line.name)
    return {key: HeadedFigure(translate_label(heading), figure) for key, (heading, figure) in figures.items()}


def overlay_other_run(lab: Lab, name: str, other: str | None, stage: str, curve: str, figure: go.Figure) -> go.Figure:
    """A curve with that of another run in it; as it is, where the other is none or has no such curve."""
    if not other or other == name:
        return figure
    try:
        its_stages = [one for one in lab.open(other).stages if one.name == stage and one.exists]
    except LabError:
        return figure
    its_curves = curve_figures(its_stages[0]) if its_stages else {}
    return overlay_figures(figure, its_curves[curve].figure, (name, other)) if curve in its_curves else figure
