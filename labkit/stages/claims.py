"""What a stage must beat to have learned anything, and how gold changed: numbers beside their baselines, in words.

Each stage's page says what its own claim is; see `labkit.stages.registry` for those of a whole run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Metrics = Mapping[str, float]


class Claim(NamedTuple):
    """One number beside its baseline.

    stage: whose claim. metric: the number's name in words. baseline_name: what the baseline is, in words.
    better: the side on which the value must lie. standard_error: the value's; 0 where it has none.
    """

    stage: str
    metric: str
    value: float
    baseline: float
    baseline_name: str
    better: Literal["higher", "lower"]
    standard_error: float = 0.0

    @property
    def margin(self) -> float:
        """By how much the value is better than the baseline; below zero it is worse, in the metric's unit."""
        return self.value - self.baseline if self.better == "higher" else self.baseline - self.value

    @property
    def holds(self) -> bool:
        return self.margin > 0

    def __str__(self) -> str:
        side = "above" if self.better == "higher" else "below"
        verdict = "beats its baseline" if self.holds else "DOES NOT BEAT ITS BASELINE"
        error = f" (± {self.standard_error:.3f})" if self.standard_error else ""
        return (
            f"{self.stage}: {self.metric} {self.value:.3f}{error}, {side} {self.baseline:.3f} ({self.baseline_name}): "
            f"{verdict}"
        )


def gold_change_in_words(metrics: Metrics) -> str:
    """How the gold score changed, in words, by its standard error: "gold score rose by 0.14 (± 0.03)".

    Less than two standard errors is no change. Empty where there is no gold, as on real text.
    """
    if "gold_gain" not in metrics:
        return ""
    gain, error = metrics["gold_gain"], metrics["gold_gain_standard_error"]
    if abs(gain) < 2 * error:
        return f"gold score did not change beyond chance: {gain:+.3f} (± {error:.3f})"
    if gain > 0:
        return f"gold score rose by {gain:.3f} (± {error:.3f})"
    return f"gold score FELL by {-gain:.3f} (± {error:.3f}): over-optimisation of the reward or of the preference loss"
