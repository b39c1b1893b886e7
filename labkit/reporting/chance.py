"""Whether a difference between two runs is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from labkit.evaluation.metrics import MetricSpec

ERROR_SUFFIX = "_standard_error"
COUNTS = {
    "right": "prompts",
    "unsupported": "prompts",
    "polite": "prompts",
    "pair_accuracy": "pairs",
    "gold_accuracy": "pairs",
}
"""Shares, and the metric that says of how many each is one."""
ERRORS = 2
"""Standard errors within which a difference is chance: of 20 differences of equal models, one is larger."""


class Verdict(NamedTuple):
    """standard_error: of the difference. word: what the second run's value is beside the first; "" where the metric has
    no better side.
    """

    standard_error: float
    word: Literal["better", "worse", "within chance", ""]


def metric_standard_error(name: str, metrics: Mapping[str, float]) -> float | None:
    """The standard error of a stage's metric over what it was measured on: as it was measured; from the win rate's 95 %
    interval; of a share p of n answers √(p (1 - p) / n). None where a metric has none.
    """
    if name + ERROR_SUFFIX in metrics:
        return metrics[name + ERROR_SUFFIX]
    if name == "win_rate" and {"win_low", "win_high"} <= metrics.keys():
        return (metrics["win_high"] - metrics["win_low"]) / (2 * 1.96)
    if name in COUNTS and metrics.get(COUNTS[name]):
        return math.sqrt(max(0.0, metrics[name] * (1 - metrics[name])) / metrics[COUNTS[name]])
    return None


def judge_difference(
    name: str, spec: MetricSpec, first: Mapping[str, float], second: Mapping[str, float]
) -> Verdict | None:
    """Of a metric of two stages: better or worse only beyond two standard errors of the difference, each run's errors
    being independent. None where either run has no value or no standard error.
    """
    if name not in first or name not in second:
        return None
    errors = [metric_standard_error(name, metrics) for metrics in (first, second)]
    if errors[0] is None or errors[1] is None:
        return None
    error, difference = math.hypot(errors[0], errors[1]), second[name] - first[name]
    if abs(difference) <= ERRORS * error:
        return Verdict(error, "within chance")
    if not spec.better:
        return Verdict(error, "")
    return Verdict(error, "better" if (difference > 0) == (spec.better == "higher") else "worse")
