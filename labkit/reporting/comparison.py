"""Two runs side by side: where their recipes differ, and what that did to every measure and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labkit.reporting.metrics import BY_KIND, COSTS, metric_spec
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run


def compare_runs(first: str | Path, second: str | Path) -> dict[str, Any]:
    """What two runs measured, for the stages that either has.

    {"runs": [folder, folder], "recipe": {FIELD: [value, value]}, "stages": {STAGE: {NAME: [value, value]}}}: recipe
    where they differ, stages with None where a run has not measured something. Raises LabError for a folder without a
    run or a report.
    """
    runs = [Run.open(path) for path in (first, second)]
    measured = [_measured(run) for run in runs]
    stages = {}
    for stage in dict.fromkeys(name for stages in measured for name in stages):
        values = [stages.get(stage, {}) for stages in measured]
        stages[stage] = {name: [one.get(name) for one in values] for name in {**values[0], **values[1]}}
    recipe = {name: list(both) for name, both in runs[0].recipe.differences(runs[1].recipe).items()}
    return {"runs": [str(run.path) for run in runs], "recipe": recipe, "stages": stages}


def _measured(run: Run) -> dict[str, dict[str, float]]:
    """The measures and costs of each stage of a run."""
    return {stage["stage"]: _values(stage) for stage in run.report()["stages"]}


def _values(stage: dict[str, Any]) -> dict[str, float]:
    """A stage's measures and costs by name."""
    return stage["metrics"] | {name: stage[name] for name in COSTS if stage.get(name) is not None}


def format_run_comparison(result: dict[str, Any]) -> str:
    """What `compare_runs` found as text: the recipes' differences, then a table a stage."""
    names = [Path(run).name for run in result["runs"]]
    if names[0] == names[1]:
        names = result["runs"]
    recipe = [["recipe", *names], *([name, *map(str, both)] for name, both in result["recipe"].items())]
    parts = [align_columns(recipe) if result["recipe"] else "The two recipes are the same."]
    for stage, values in result["stages"].items():
        rows = [[stage, *names, "difference"]]
        rows += [_row(name, stage, *both) for name, both in values.items() if not name.startswith(BY_KIND)]
        rows += [_row(name, stage, *both) for name, both in values.items() if name.startswith("accuracy/")]
        parts.append(align_columns(rows))
    return "\n\n".join(parts)


def comparison_rows(result: dict[str, Any]) -> list[list[str]]:
    """What `compare_runs` found as rows of [stage, measure, first, second, difference]; recipes have no difference."""
    found = [["recipe", name, *map(str, both), ""] for name, both in result["recipe"].items()]
    for stage, values in result["stages"].items():
        shown = [name for name in values if not name.startswith(BY_KIND) or name.startswith("accuracy/")]
        found += [[stage, *_row(name, stage, *values[name])] for name in shown]
    return found


def _row(name: str, stage: str, first: float | None, second: float | None) -> list[str]:
    known = metric_spec(name, stage)
    shown = ["" if value is None else known.format(value) for value in (first, second)]
    if first is None or second is None:
        return [known.label, *shown, ""]
    if known.unit == "share":
        return [known.label, *shown, f"{100 * (second - first):+.1f} percentage points"]
    sign = "+" if second >= first else "-"
    return [known.label, *shown, sign + known.format(abs(second - first))]
