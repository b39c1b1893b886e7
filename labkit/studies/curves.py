"""Reward and gold along growing KL: where gold peaks, and whether it then falls while reward still rises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from numpy.typing import NDArray

from labkit.reporting.study_charts import judge_label
from labkit.reporting.terminal import align_columns
from labkit.studies.seeds import compare_over_seeds

ERRORS = 2
"""Standard errors by which two points differ beyond chance."""


class CurvePoint(NamedTuple):
    """A policy. kl: from the fine-tuned model, nats per answer. reward, gold [P]: of its answers to P prompts."""

    name: str
    kl: float
    reward: NDArray
    gold: NDArray


class Difference(NamedTuple):
    """A mean over prompts of paired differences, and its standard error."""

    mean: float
    standard_error: float

    @property
    def rises(self) -> bool:
        return self.mean > ERRORS * self.standard_error

    @property
    def falls(self) -> bool:
        return self.mean < -ERRORS * self.standard_error


def paired_difference(after: NDArray, before: NDArray) -> Difference:
    """Of P values each: [0.5, 0.7] less [0.4, 0.4] -> mean 0.2, standard error 0.1 = sample deviation / √2."""
    gain = after - before
    return Difference(float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(len(gain))))


class Curve(NamedTuple):
    """Policies of growing KL, of one seed. by: what optimises. judge: against what reward."""

    seed: int
    by: str
    judge: str
    points: Sequence[CurvePoint]

    @property
    def by_kl(self) -> list[CurvePoint]:
        return sorted(self.points, key=lambda point: point.kl)

    @property
    def peak(self) -> CurvePoint:
        """Where gold is highest."""
        return max(self.by_kl, key=lambda point: float(point.gold.mean()))

    @property
    def gold_after_peak(self) -> Difference:
        """Gold at the largest KL, less gold at its peak."""
        return paired_difference(self.by_kl[-1].gold, self.peak.gold)

    @property
    def reward_after_peak(self) -> Difference:
        """The same of the reward."""
        return paired_difference(self.by_kl[-1].reward, self.peak.reward)

    @property
    def overoptimised(self) -> bool:
        """Whether gold falls after its peak while reward still rises, both by more than two standard errors."""
        return self.gold_after_peak.falls and self.reward_after_peak.rises

    def to_dict(self) -> dict[str, Any]:
        """For JSON: gains are over the point of least KL."""
        first, *_ = self.by_kl
        points = []
        for point in self.by_kl:
            gold, reward = paired_difference(point.gold, first.gold), paired_difference(point.reward, first.reward)
            points.append(
                {
                    "name": point.name,
                    "kl": point.kl,
                    "sqrt_kl": math.sqrt(point.kl),
                    "gold": float(point.gold.mean()),
                    "gold_gain": gold.mean,
                    "gold_gain_standard_error": gold.standard_error,
                    "reward_gain": reward.mean,
                    "reward_gain_standard_error": reward.standard_error,
                }
            )
        return {
            "seed": self.seed,
            "by": self.by,
            "judge": self.judge,
            "points": points,
            "peak": self.peak.name,
            "peak_sqrt_kl": math.sqrt(self.peak.kl),
            "gold_after_peak": self.gold_after_peak._asdict(),
            "reward_after_peak": self.reward_after_peak._asdict(),
            "overoptimised": self.overoptimised,
        }


def summarize_curves(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Curves of several seeds, one for each way to optimise and each judge: means of their points in order of KL."""
    gathered: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for curve in curves:
        gathered.setdefault((curve.by, curve.judge), []).append(curve.to_dict())
    return [
        {
            "by": by,
            "judge": judge,
            "points": [_mean_point(same) for same in zip(*(one["points"] for one in each), strict=True)],
            "peak_sqrt_kl": fmean(one["peak_sqrt_kl"] for one in each),
            "peaks_sqrt_kl": [one["peak_sqrt_kl"] for one in each],
            "largest_sqrt_kl": fmean(one["points"][-1]["sqrt_kl"] for one in each),
            "gold_gain_at_peak": fmean(max(point["gold_gain"] for point in one["points"]) for one in each),
            "gold_after_peak": fmean(one["gold_after_peak"]["mean"] for one in each),
            "reward_after_peak": fmean(one["reward_after_peak"]["mean"] for one in each),
            "overoptimised": sum(one["overoptimised"] for one in each),
            "seeds": len(each),
        }
        for (by, judge), each in gathered.items()
    ]


def _mean_point(same: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {name: fmean(point[name] for point in same) for name in ("sqrt_kl", "gold_gain", "reward_gain")}


def text_of_curves(over_seeds: Sequence[dict[str, Any]]) -> str:
    """A table, a row a curve, and what it says of over-optimisation and of ensembles."""
    heads = ["", "√KL at the peak", "gold gained", "largest √KL", "gold since", "reward since", "over-optimised"]
    rows = [
        [
            f"{one['by']}, {judge_label(one['judge'])}",
            f"{one['peak_sqrt_kl']:.2f}",
            f"{one['gold_gain_at_peak']:+.3f}",
            f"{one['largest_sqrt_kl']:.2f}",
            f"{one['gold_after_peak']:+.3f}",
            f"{one['reward_after_peak']:+.3f}",
            f"{one['overoptimised']} of {one['seeds']}",
        ]
        for one in over_seeds
    ]
    reading = (
        "Gold and reward since: at the largest KL, less at gold's peak. Over-optimised: in how many seeds gold is then "
        f"lower and reward higher, each by more than {ERRORS} standard errors."
    )
    return "\n".join([align_columns([heads, *rows]), "", reading, *_peaks(over_seeds)])


def _peaks(over_seeds: Sequence[dict[str, Any]]) -> list[str]:
    """Where the ensembles' gold peaks, beside that of one reward model; later only outside the spread of seeds."""
    said = []
    for by in dict.fromkeys(one["by"] for one in over_seeds):
        peaks = {one["judge"]: one["peaks_sqrt_kl"] for one in over_seeds if one["by"] == by}
        alone, label = peaks.pop("one"), judge_label("one")
        found = [compare_over_seeds(judge_label(judge), own, label, alone) for judge, own in peaks.items()]
        if found:
            said += ["", f"√KL at gold's peak, {by}:", *(comparison.describe("later") for comparison in found)]
    return said
