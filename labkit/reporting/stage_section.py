"""A stage on the report page: its figures, and its metrics beside those of the stage before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from labkit.reporting import plots
from labkit.reporting.markup import Markup, html_tag
from labkit.reporting.metrics import BEFORE_SUFFIX, BY_KIND, metric_spec
from labkit.reporting.terminal import format_finding
from labkit.stages import stage_class, stage_title, stage_title_in_sentence


def stage_section(
    number: int,
    stage: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    records: Sequence[Mapping[str, Any]],
    figures: dict[str, go.Figure],
) -> Markup:
    """The section of the `number`-th stage, whose figures are added to `figures`. before: the stage whose model it
    began with.
    """
    name = stage["stage"]
    places = []
    for key, (heading, figure) in stage_figures(name, stage["metrics"], records).items():
        figures[f"{name}-{key}"] = figure
        places.append(figure_place(f"{name}-{key}", heading))
    parts = [html_tag("span", f"Stage {number}", class_="step"), html_tag("h2", stage_title(name))]
    known = stage_class(name)
    parts += [html_tag("p", known.about)] if known is not None else []
    parts += [_advice(stage["advice"])] if stage.get("advice") else []
    if places:
        parts.append(html_tag("div", places, class_="card figures"))
    return html_tag("section", parts, _metrics_table(stage, before), id=name)


def _advice(findings: Sequence[Mapping[str, Any]]) -> Markup:
    """What the doctor said while the stage trained."""
    return html_tag("ul", [html_tag("li", format_finding(finding)) for finding in findings], class_="card advice")


class HeadedFigure(NamedTuple):
    """A figure and the heading that stands above it."""

    heading: str
    figure: go.Figure


def stage_figures(
    stage: str, metrics: Mapping[str, float], records: Sequence[Mapping[str, Any]]
) -> dict[str, HeadedFigure]:
    """Heading and figure of all that was recorded step by step, by name; the reward, where there is one, first."""
    known, its = {name for record in records for name in record}, stage_class(stage)
    found: dict[str, HeadedFigure] = {}
    if "reward" in known:
        gold = any(record.get("gold") for record in records)  # zero all along where there is no oracle
        figure = plots.reward_and_gold_curves(records) if gold else plots.metric_curves(records, ["reward"], "reward")
        found["reward"] = HeadedFigure("Reward and gold score" if gold else "Reward", figure)
    if "loss" in known:
        figure = plots.loss_curves(_with_ends(records, metrics), its.loss_unit if its else "")
        found["loss"] = HeadedFigure("Loss", figure)
    for heading, unit, keys in its.curves if its else ():
        if keys[0] in known:
            found[keys[0]] = HeadedFigure(heading, plots.metric_curves(records, keys, unit))
    if "lr" in known:
        found["lr"] = HeadedFigure("Learning rate", plots.learning_rate_curve(records))
    return found


def _with_ends(records: Sequence[Mapping[str, Any]], metrics: Mapping[str, float]) -> list[Mapping[str, Any]]:
    """The records, and the validation loss before the first step and after the last, where it was measured."""
    ends = [(0, "untrained_loss"), (records[-1]["step"], "validation_loss")]
    first, last = [{"step": step, "validation_loss": metrics[n]} if n in metrics else {} for step, n in ends]
    return [record for record in (first, *records, last) if record]


def figure_place(key: str, heading: str) -> Markup:
    """Where the page's script draws the figure `key`, under a heading."""
    return html_tag("div", html_tag("h3", heading), html_tag("div", "", class_="figure", data_figure=key))


def _metrics_table(stage: Mapping[str, Any], before: Mapping[str, Any] | None) -> Markup:
    """One row a metric, with its value before the stage where that was measured; those of single question types have
    their own figure."""
    metrics = stage["metrics"]
    names = [name for name in metrics if not name.startswith(BY_KIND) and not name.endswith(BEFORE_SUFFIX)]
    if not names:
        return Markup()
    earlier, heading = _earlier(metrics, before)
    heads = [html_tag("th", "metric"), html_tag("th", "value", class_="number")]
    heads += [html_tag("th", heading, class_="number")] if heading else []
    heads += [html_tag("th", "better"), html_tag("th", "meaning")]
    rows = [
        _row(name, stage["stage"], metrics[name], earlier, bool(heading), last)
        for name, last in zip(names, ["", *names], strict=False)
    ]
    table = html_tag("table", html_tag("thead", html_tag("tr", heads)), html_tag("tbody", rows), class_="metrics")
    return html_tag("div", table, class_="card scroll")


def _earlier(metrics: Mapping[str, float], before: Mapping[str, Any] | None) -> tuple[Mapping[str, float], str]:
    """What a stage's metrics are compared with, and what that is called: what it measured itself of the model that it
    began with, else those of the stage that it came after, when that is a model of the same kind; nothing and ""
    otherwise.
    """
    heading = "" if before is None else f"after {stage_title_in_sentence(before['stage'])}"
    own = {name.removesuffix(BEFORE_SUFFIX): value for name, value in metrics.items() if name.endswith(BEFORE_SUFFIX)}
    if own:
        return own, heading or "before this stage"
    if before is not None and "pair_accuracy" not in metrics:
        return before["metrics"], heading
    return {}, ""


def _row(name: str, stage: str, value: float, earlier: Mapping[str, float], compare: bool, last: str) -> Markup:
    known = metric_spec(name, stage)
    unit = "" if known.unit in ("share", "score", "number", "count", "megabytes", "") else f" {known.unit}"
    shown = [html_tag("b", known.format(value)), html_tag("span", unit, class_="soft")]
    cells = [html_tag("th", known.label), html_tag("td", shown, class_="number " + _change(name, value, earlier))]
    if compare:
        cells.append(
            html_tag("td", known.format(earlier[name]) if name in earlier else "", class_="number before soft")
        )
    arrow = {"higher": "↑ higher", "lower": "↓ lower"}.get(known.better, "")
    meaning = known.meaning if name.partition("/")[0] != last.partition("/")[0] else ""  # said in the row above
    return html_tag(
        "tr", cells, html_tag("td", arrow, class_="direction soft"), html_tag("td", meaning, class_="meaning")
    )


def _change(name: str, value: float, earlier: Mapping[str, float]) -> str:
    """The class that colours a value: better or worse than before, or neither."""
    if metric_spec(name).unit not in ("share", "score"):  # losses of two stages are of different texts
        return ""
    direction = {"higher": 1, "lower": -1}.get(metric_spec(name).better, 0)
    gain = direction * (value - earlier.get(name, value))
    return "better" if gain > 0 else "worse" if gain < 0 else ""
