"""Two runs side by side: where their recipes differ, and what that did to every measure and cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.reporting.chance import ERRORS, judge_difference
from labkit.reporting.metrics import BY_KIND, COSTS, metric_spec
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run

NOTE = (
    "Better and worse: by more than two standard errors of the difference, over the questions and prompts of the test; "
    "where a metric has no standard error, neither is said. Another seed gives other models: `labkit study` compares "
    "methods over several."
)


def compare_runs(first: str | Path, second: str | Path) -> dict[str, Any]:
    """What two runs measured, for the stages that either has.

    {"runs": [folder, folder], "recipe": {FIELD: [value, value]}, "stages": {STAGE: {NAME: [value, value]}}, "verdicts":
    {STAGE: {NAME: Verdict}}}: recipe where they differ, stages with None where a run has not measured something,
    verdicts where both metrics have a standard error. Raises LabError for a folder without a run or a report.
    """
    runs = [Run.open(path) for path in (first, second)]
    measured = [_measured(run) for run in runs]
    stages, verdicts = {}, {}
    for stage in dict.fromkeys(name for stages in measured for name in stages):
        values = [stages.get(stage, {}) for stages in measured]
        stages[stage] = {name: [one.get(name) for one in values] for name in {**values[0], **values[1]}}
        judged = {name: judge_difference(name, metric_spec(name, stage), *values) for name in stages[stage]}
        verdicts[stage] = {name: verdict._asdict() for name, verdict in judged.items() if verdict is not None}
    recipe = {name: list(both) for name, both in runs[0].recipe.differences(runs[1].recipe).items()}
    return {"runs": [str(run.path) for run in runs], "recipe": recipe, "stages": stages, "verdicts": verdicts}


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
        judged = result["verdicts"][stage]
        rows = [[stage, *names, "difference", "± 2 errors", "" if not judged else names[1]]]
        for name in _shown(values):
            verdict = judged.get(name)
            error = "" if verdict is None else _change(name, stage, ERRORS * verdict["standard_error"])
            rows.append([*_row(name, stage, *values[name]), error, verdict["word"] if verdict else ""])
        parts.append(align_columns(rows))
    return "\n\n".join([*parts, NOTE])


def comparison_rows(result: dict[str, Any]) -> list[list[str]]:
    """What `compare_runs` found as rows of [stage, measure, first, second, difference, what the second is]; recipes
    have no difference.
    """
    found = [["recipe", name, *map(str, both), "", ""] for name, both in result["recipe"].items()]
    for stage, values in result["stages"].items():
        judged = result["verdicts"][stage]
        found += [
            [stage, *_row(name, stage, *values[name]), judged[name]["word"] if name in judged else ""]
            for name in _shown(values)
        ]
    return found


def _shown(values: Mapping[str, Any]) -> list[str]:
    """The names in their order, those of one question type each at the end."""
    kinds = [name for name in values if name.startswith("accuracy/")]
    return [*(name for name in values if not name.startswith(BY_KIND)), *kinds]


def _row(name: str, stage: str, first: float | None, second: float | None) -> list[str]:
    known = metric_spec(name, stage)
    shown = ["" if value is None else known.format(value) for value in (first, second)]
    if first is None or second is None:
        return [known.label, *shown, ""]
    sign = "+" if second >= first else "-"
    return [known.label, *shown, sign + _change(name, stage, abs(second - first))]


def _change(name: str, stage: str, size: float) -> str:
    """How large a change of a metric is."""
    known = metric_spec(name, stage)
    return f"{100 * size:.1f} percentage points" if known.unit == "share" else known.format(size)
