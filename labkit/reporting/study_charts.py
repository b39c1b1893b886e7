"""The figure of over-optimisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labkit.reporting.charts import as_text
from labkit.reporting.plots import BLUE, GREEN, GREY, LOOK, ORANGE, RED

SIZE_COLOURS = {"": RED, "2": ORANGE, "4": GREEN, "8": BLUE}
"""Of ensembles, by how many reward models they are."""
JUDGES = {
    "one": "one reward model",
    "mean": "mean of {}",
    "worst": "worst of {}",
    "deviation": "mean less deviation of {}",
}
"""What the judges of a policy are, by the beginning of their names, which end with how many reward models they are."""
BESIDE = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}
DASHES = {"one": "solid", "mean": "solid", "worst": "dash", "deviation": "dot"}


def judge_label(judge: str) -> str:
    """ "one" -> "one reward model", "worst4" -> "worst of 4"."""
    kind = judge.rstrip("0123456789")
    return JUDGES[kind].format(judge.removeprefix(kind)) if kind in JUDGES else judge


def overoptimisation_figure(over_seeds: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Reward above and gold below against the square root of the KL; a column for each way to optimise.

    over_seeds: curves as `labkit.studies.curves.summarize_curves` gives them; a penalised policy is drawn beside that
    without KL.
    """
    columns = list(dict.fromkeys(_column(curve) for curve in over_seeds))
    figure = make_subplots(2, len(columns), shared_xaxes=True, vertical_spacing=0.06, column_titles=columns)
    named: set[str] = set()
    for curve in over_seeds:
        column, points = columns.index(_column(curve)) + 1, curve["points"]
        name = curve["judge"] if _column(curve) == curve["by"] else "one reward model, KL penalty"
        for row, what in enumerate(("reward_gain", "gold_gain"), 1):
            figure.add_scatter(
                x=[point["sqrt_kl"] for point in points],
                y=[point[what] for point in points],
                name=as_text(judge_label(name)),
                legendgroup=name,
                showlegend=name not in named,
                mode="lines+markers",
                marker={"size": 5},
                line=_line(name),
                row=row,
                col=column,
            )
            named.add(name)
    figure.update_layout(template=LOOK, height=660, margin={"t": 90}, hovermode="closest", legend=BESIDE)
    figure.update_layout(title={"text": as_text(_title(over_seeds)), "x": 0.01, "y": 0.98, "font": {"size": 15}})
    figure.update_xaxes(title_text="√KL from the fine-tuned model (√nats)", row=2)
    figure.update_yaxes(title_text="reward gained", row=1, col=1).update_yaxes(title_text="gold gained", row=2, col=1)
    return figure


def _title(over_seeds: Sequence[Mapping[str, Any]]) -> str:
    """In how many seeds one reward model is over-optimised, in each way."""
    counts = [
        f"{one['overoptimised']} of {one['seeds']} seeds ({one['by']})"
        for one in over_seeds
        if one["judge"] == "one" and one["by"] == _column(one)
    ]
    return f"One reward model: gold falls while reward rises in {', '.join(counts)}"


def _column(curve: Mapping[str, Any]) -> str:
    return str(curve["by"]).removesuffix(" with KL")


def _line(name: str) -> dict[str, Any]:
    if name not in DASHES and not name[-1].isdigit():
        return {"color": GREY, "dash": "dashdot"}
    kind = name.rstrip("0123456789")
    return {"color": SIZE_COLOURS.get(name.removeprefix(kind), BLUE), "dash": DASHES.get(kind, "solid")}
