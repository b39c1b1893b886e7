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
DASHES = {"one": "solid", "mean": "solid", "worst": "dash", "deviation": "dot"}


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
        name = curve["judge"] if _column(curve) == curve["by"] else "one, with KL"
        for row, what in enumerate(("reward_gain", "gold_gain"), 1):
            figure.add_scatter(
                x=[point["sqrt_kl"] for point in points],
                y=[point[what] for point in points],
                name=as_text(name),
                legendgroup=name,
                showlegend=name not in named,
                mode="lines+markers",
                marker={"size": 5},
                line=_line(name),
                row=row,
                col=column,
            )
            named.add(name)
    figure.update_layout(template=LOOK, height=620, margin={"t": 110}, hovermode="closest", legend_y=1.08)
    figure.update_xaxes(title_text="√KL from the fine-tuned model (√nats)", row=2)
    figure.update_yaxes(title_text="reward gained", row=1, col=1).update_yaxes(title_text="gold gained", row=2, col=1)
    return figure


def _column(curve: Mapping[str, Any]) -> str:
    return str(curve["by"]).removesuffix(" with KL")


def _line(name: str) -> dict[str, Any]:
    if name not in DASHES and not name[-1].isdigit():
        return {"color": GREY, "dash": "dashdot"}
    kind = name.rstrip("0123456789")
    return {"color": SIZE_COLOURS.get(name.removeprefix(kind), BLUE), "dash": DASHES.get(kind, "solid")}
