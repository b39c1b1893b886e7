"""Records and reports -> plotly figures, all in one look.

The colours are Okabe and Ito's, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/). Every
axis names its unit. A figure is a plain ``go.Figure``: show it in a notebook, hand it to the app, or embed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, GREY = "#56B4E9", "#D55E00", "#F0E442", "#8C8C8C"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW)

AXIS = {
    "gridcolor": "rgba(128,128,128,0.2)",
    "zeroline": False,
    "automargin": True,
    "title": {"font": {"size": 12}, "standoff": 8},
}
LOOK = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#24292f"},
        "colorway": list(COLOURS),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 60, "r": 16, "t": 16, "b": 48},
        "height": 300,
        "hovermode": "x unified",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "title": {"text": ""}},
        "xaxis": AXIS,
        "yaxis": AXIS,
    }
)

Record = Mapping[str, Any]


def loss_curves(records: Iterable[Record], unit: str = "nats per token") -> go.Figure:
    """Training and validation loss over the steps of one stage.

    A record is a line of ``metrics.jsonl``: {"step": 10, "loss": 2.3, ...}, and {"step": 100, "validation_loss": 2.1}
    where the stage was evaluated. The training loss is drawn as it is, pale, and smoothed over a fiftieth of the run.
    """
    records = list(records)
    steps, losses = metric_series(records, "loss")
    figure = _figure("step", f"loss ({unit})" if unit else "loss")
    _noisy(figure, steps, losses, "training")
    checked, validation = metric_series(records, "validation_loss")
    if checked:
        mode = "lines+markers" if len(checked) > 2 else "markers"
        marker = {"size": 9, "symbol": "diamond", "color": RED}
        figure.add_scatter(x=checked, y=validation, name="validation", mode=mode, line={"color": RED}, marker=marker)
    return figure.update_yaxes(hoverformat=".3f")


def metric_curves(records: Iterable[Record], record_keys: Sequence[str], unit: str) -> go.Figure:
    """What an objective watches over the steps of one stage, each smoothed over a fiftieth of the run.

    ``record_keys`` are keys of the records; those in one figure share its unit.
    """
    records = list(records)
    figure = _figure("step", unit)
    for name, colours in zip(record_keys, ((BLUE, SKY), (RED, ORANGE)), strict=False):
        steps, values = metric_series(records, name)
        _noisy(figure, steps, values, name.replace("_", " "), *colours)
    return figure.update_yaxes(hoverformat=".3g").update_layout(showlegend=len(record_keys) > 1)


def reward_and_gold_curves(records: Iterable[Record]) -> go.Figure:
    """The reward that a policy is trained on, and beside it the gold score that it never sees, on axes of their own.

    Where the first keeps rising and the second does not, the policy exploits the reward model's errors (Gao et
    al. 2022, https://arxiv.org/abs/2210.10760).
    """
    records = list(records)
    figure = _figure("step", "reward")
    for axis, (name, colours) in zip(("y", "y2"), (("reward", (BLUE, SKY)), ("gold", (RED, ORANGE))), strict=True):
        steps, values = metric_series(records, name)
        _noisy(figure, steps, values, name, *colours, yaxis=axis)
    second = {**AXIS, "overlaying": "y", "side": "right", "showgrid": False, "hoverformat": ".2f"}
    second["tickmode"] = "auto"  # plotly would put its ticks where those of the first axis are, at odd numbers
    return figure.update_layout(yaxis2={**second, "title": {"text": "gold score"}}, yaxis={"hoverformat": ".2f"})


def learning_rate_curve(records: Iterable[Record]) -> go.Figure:
    """The learning rate at each step of one stage."""
    steps, rates = metric_series(records, "lr")
    figure = _figure("step", "learning rate")
    figure.add_scatter(x=steps, y=rates, name="learning rate", line={"color": GREEN, "width": 2.5})
    return figure.update_yaxes(rangemode="tozero", hoverformat=".2g")


def accuracy_by_question_kind_chart(metrics_by_stage: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Accuracy by question type: that without the story, and that of each stage's model.

    ``metrics_by_stage`` maps a stage's name to its metrics, of which ``accuracy/KIND`` and ``question_only/KIND`` are
    drawn; the question-only bar is the last stage's, and the types are in the order of
    ``sort_question_kinds_by_gain_over_question_only``.
    """
    last = list(metrics_by_stage.values())[-1] if metrics_by_stage else {}
    alone, kinds = metric_by_question_kind(last, "question_only"), sort_question_kinds_by_gain_over_question_only(last)
    figure = _figure("question type", "accuracy (%)")
    _bars(figure, kinds, alone, "without the story", GREY)
    for colour, (stage, metrics) in zip(COLOURS, metrics_by_stage.items(), strict=False):
        _bars(figure, kinds, metric_by_question_kind(metrics, "accuracy"), f"after {stage}", colour)
    return figure.update_layout(barmode="group", bargap=0.25).update_yaxes(range=[0, 100])


def cost_chart(stage_results: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Seconds of each stage: in training, and in preparing and measuring; ``stage_results``: report.json's "stages"."""
    figure = _figure("seconds", "").update_layout(height=130 + 40 * max(1, len(stage_results)), barmode="stack")
    names = [stage["stage"] for stage in stage_results]
    whole = [stage.get("seconds", 0.0) for stage in stage_results]
    training = [stage.get("training_seconds", all_of_it) for stage, all_of_it in zip(stage_results, whole, strict=True)]
    rest = [max(0.0, all_of_it - part) for all_of_it, part in zip(whole, training, strict=True)]
    for seconds, name, colour in ((training, "training", BLUE), (rest, "preparation and evaluation", ORANGE)):
        figure.add_bar(x=seconds, y=names, name=name, orientation="h", marker={"color": colour}, width=0.6)
    figure.update_traces(hovertemplate="%{x:.0f} s").update_layout(hovermode="y unified")
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def overlay_figures(first: go.Figure, second: go.Figure, run_names: tuple[str, str]) -> go.Figure:
    """Two figures of the same curve in one: each line is named by its run; the second's are dotted, and smoothed."""
    both = go.Figure(first)
    for line in both.data:
        line.name = f"{line.name} · {run_names[0]}"
    for line in go.Figure(second).data:
        if line.showlegend is False:  # as it is, before it was smoothed
            continue
        line.update(name=f"{line.name} · {run_names[1]}", line={"dash": "dot"}, marker={"symbol": "diamond-open"})
        both.add_trace(line)
    return both.update_layout(showlegend=True)


class MetricSeries(NamedTuple):
    """The values of a metric, and the steps at which they were recorded."""

    steps: list[float]
    values: list[float]


def metric_series(records: Iterable[Record], name: str) -> MetricSeries:
    """The steps at which records hold ``name``, and its values there."""
    pairs = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    return MetricSeries([step for step, _ in pairs], [value for _, value in pairs])


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to ``window - 1`` before it: moving_average([1, 3, 5], 2) -> [1, 2, 4]."""
    window = max(1, window)
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        means.append(total / min(i + 1, window))
    return means


def metric_by_question_kind(metrics: Mapping[str, float], metric: str) -> dict[str, float]:
    """metric_by_question_kind({"accuracy/where": 0.9, "accuracy": 0.8}, "accuracy") -> {"where": 0.9}"""
    prefix = metric + "/"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def sort_question_kinds_by_gain_over_question_only(metrics: Mapping[str, float]) -> list[str]:
    """The question types by how far accuracy is above that without the story; those without such a figure come last."""
    right, alone = metric_by_question_kind(metrics, "accuracy"), metric_by_question_kind(metrics, "question_only")
    return sorted(right, key=lambda kind: (kind not in alone, alone.get(kind, 0.0) - right[kind]))


def _figure(x: str, y: str) -> go.Figure:
    return go.Figure(layout={"template": LOOK, "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}})


def _noisy(
    figure: go.Figure,
    steps: Sequence[float],
    values: Sequence[float],
    name: str,
    dark: str = BLUE,
    pale: str = SKY,
    yaxis: str = "y",
) -> None:
    """A series as it is, pale, and smoothed over a fiftieth of its length."""
    thin, thick = {"color": pale, "width": 1}, {"color": dark, "width": 2.5}
    figure.add_scatter(
        x=steps, y=values, line=thin, opacity=0.45, hoverinfo="skip", showlegend=False, name=name, yaxis=yaxis
    )
    figure.add_scatter(x=steps, y=moving_average(values, len(values) // 50), name=name, line=thick, yaxis=yaxis)


def _bars(figure: go.Figure, kinds: list[str], shares: Mapping[str, float], name: str, colour: str) -> None:
    percent = [None if shares.get(kind) is None else 100 * shares[kind] for kind in kinds]
    labels = [kind.replace("_", " ") for kind in kinds]
    figure.add_bar(x=labels, y=percent, name=name, marker={"color": colour}, hovertemplate="%{y:.0f} %")
