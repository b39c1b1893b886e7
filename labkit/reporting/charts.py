"""The notebooks' figures: lines, points and bars, in the look of `labkit.reporting.plots`.

The title says what was found; axes name their units; series differ in colour (Okabe and Ito's) and in their markers.
All names and labels are shown as they are written: what stands in a token never becomes markup.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from labkit.reporting.plots import COLOURS, GREY, LOOK

Numbers = Sequence[float | None]
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star", "cross")
HEIGHT = 360
DOTTED = {"dash": "dot", "color": GREY, "width": 1.5}


def line_chart(
    lines: Mapping[str, tuple[Numbers, Numbers]],
    *,
    x: str,
    y: str,
    title: str = "",
    mode: Literal["lines", "markers", "lines+markers"] = "lines+markers",
    log_x: bool = False,
    log_y: bool = False,
) -> go.Figure:
    """Named series, each (x values, y values). x, y: what the axes show, with its unit: "loss (nats per token)"."""
    figure = _empty(x, y, title)
    for at, (name, (xs, ys)) in enumerate(lines.items()):
        marker = {"symbol": SYMBOLS[at % len(SYMBOLS)], "size": 8}
        figure.add_scatter(x=list(xs), y=list(ys), name=as_text(name), mode=mode, marker=marker)
    figure.update_xaxes(type="log" if log_x else None).update_yaxes(type="log" if log_y else None)
    return figure.update_layout(showlegend=len(lines) > 1)


def bar_chart(
    bars: Mapping[str, Mapping[str, float]], *, x: str, y: str, title: str = "", percent: bool = False
) -> go.Figure:
    """Named series of bars, each {label: height}, side by side. percent: heights are fractions, shown as per cent."""
    figure = _empty(x, y, title)
    for name, heights in bars.items():
        figure.add_bar(x=list(map(as_text, heights)), y=list(heights.values()), name=as_text(name))
    figure.update_xaxes(type="category").update_yaxes(tickformat=".0%" if percent else None)
    return figure.update_layout(barmode="group", bargap=0.25, showlegend=len(bars) > 1)


def interval_chart(
    rows: Mapping[str, tuple[float, float, float, Sequence[float]]], *, x: str, title: str = ""
) -> go.Figure:
    """Named rows, from the bottom up, each (mean, low, high, single values): a point with its interval, and the values
    that it is the mean of. A dotted line at 0.
    """
    figure = _empty(x, "", title)
    names = list(map(as_text, rows))
    means = [row[0] for row in rows.values()]
    error = {
        "type": "data",
        "symmetric": False,
        "array": [high - mean for mean, _, high, _ in rows.values()],
        "arrayminus": [mean - low for mean, low, _, _ in rows.values()],
        "thickness": 2,
    }
    single = [(value, name) for name, row in zip(names, rows.values(), strict=True) for value in row[3]]
    values, places = [value for value, _ in single], [name for _, name in single]
    dots: dict[str, Any] = {"color": GREY, "size": 6, "symbol": "line-ns-open"}
    figure.add_scatter(x=means, y=names, error_x=error, mode="markers", marker={"size": 10}, name="mean, 95 % interval")
    figure.add_scatter(x=values, y=places, mode="markers", marker=dots, name="each seed")
    figure.update_yaxes(type="category").update_xaxes(hoverformat="+.3f")
    figure.update_layout(height=150 + 30 * max(3, len(rows)))
    return mark_x(figure, 0.0)


def figure_page(figure: go.Figure, title: str) -> str:
    """A page that holds one figure and nothing from elsewhere, to be opened in a browser."""
    chart = figure.to_html(full_html=False, include_plotlyjs=True, config={"displayModeBar": False})
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title></head>'
    return f"{head}\n<body>{chart}</body></html>\n"


def mark_x(figure: go.Figure, at: float, text: str = "") -> go.Figure:
    """A dotted vertical line through a figure, as where training ended."""
    figure.add_vline(at, line=DOTTED, annotation_text=as_text(text), annotation_x=_of_axis(figure.layout.xaxis, at))
    return figure


def mark_y(figure: go.Figure, at: float, text: str = "") -> go.Figure:
    """A dotted horizontal line through a figure, as what chance would give."""
    figure.add_hline(at, line=DOTTED, annotation_text=as_text(text), annotation_y=_of_axis(figure.layout.yaxis, at))
    return figure


def _of_axis(axis: Any, at: float) -> float:
    """Where an annotation stands: on a log axis by the logarithm of its place, as plotly wants it."""
    return math.log10(at) if axis.type == "log" else at


def as_text(label: object) -> str:
    """A label as plotly shows it unchanged: it takes <b> and &amp; in texts for markup."""
    return str(label).replace("&", "&amp;").replace("<", "&lt;")


def _empty(x: str, y: str, title: str) -> go.Figure:
    figure = go.Figure(layout={"template": LOOK, "height": HEIGHT, "colorway": list(COLOURS), "hovermode": "closest"})
    figure.update_layout(xaxis_title_text=as_text(x), yaxis_title_text=as_text(y))
    if title:
        above = {"x": 0, "xanchor": "left", "xref": "paper", "y": 0.97, "yanchor": "top", "font": {"size": 15}}
        figure.update_layout(title={"text": as_text(title), **above}, margin_t=72)
    return figure
