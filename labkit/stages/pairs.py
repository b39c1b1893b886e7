"""What is said of every stage that learns from preference pairs."""

from __future__ import annotations

from labkit.evaluation.metrics import MetricSpec
from labkit.stages.registry import Curve

RANKED = Curve("Pairs ranked as chosen", "share of the batch", ("accuracy",))
PAIR_LOSSES = {
    "untrained_loss": MetricSpec(
        "loss before this stage",
        "nats per pair",
        "",
        "The same before the first step. A coin's would be log 2 = 0.693.",
    ),
    "validation_loss": MetricSpec(
        "loss on held-out pairs",
        "nats per pair",
        "lower",
        "How surprised the model is by what the annotator chose, pair by pair.",
    ),
}
