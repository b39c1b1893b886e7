"""The notebooks' tables, as plain text to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.reporting.terminal import align_columns


def number_table(rows: Mapping[str, Mapping[str, float]], decimals: int = 3) -> str:
    """Named rows of named numbers: {"after SFT": {"loss": 0.9}}. The columns are those of the first row."""
    columns = list(next(iter(rows.values()), {}))
    body = [[name, *(f"{held[column]:.{decimals}f}" for column in columns)] for name, held in rows.items()]
    return align_columns([["", *columns], *body])


def before_after_table(before: Mapping[str, float], after: Mapping[str, float], decimals: int = 3) -> str:
    """Each metric before and after, and the change; a row for each name of `after`."""
    rows = [
        [name, f"{before[name]:.{decimals}f}", f"{value:.{decimals}f}", f"{value - before[name]:+.{decimals}f}"]
        for name, value in after.items()
    ]
    return align_columns([["", "before", "after", "change"], *rows])


def stage_before_after_table(metrics: Mapping[str, Any], metric_names: Sequence[str], decimals: int = 3) -> str:
    """`before_after_table` of a stage's metrics, which hold the value before as NAME_before: polite_before, polite."""
    before = {name: metrics[f"{name}_before"] for name in metric_names}
    return before_after_table(before, {name: metrics[name] for name in metric_names}, decimals)


def answers_table(prompts: Sequence[str], answers: Mapping[str, Sequence[str]]) -> str:
    """The answers of several models to the same prompts, below each other; answers: by the model's name, one a prompt.

    Of a prompt of several lines the last is shown: the question.
    """
    width = max(map(len, answers))
    blocks = []
    for at, prompt in enumerate(prompts):
        lines = [f"   {name:{width}}  {' '.join(said[at].split())}" for name, said in answers.items()]
        blocks.append("\n".join([prompt.strip().splitlines()[-1] if prompt.strip() else "(no prompt)", *lines]))
    return "\n\n".join(blocks)
