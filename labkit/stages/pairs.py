"""What is said of every stage that learns from preference pairs."""

from __future__ import annotations

from labkit.evaluation.metrics import MetricSpec
from labkit.stages.registry import Curve

RANKED = Curve("Preference accuracy", "fraction of the batch", ("accuracy",))
PAIR_LOSSES = {
    "untrained_loss": MetricSpec(
        "loss on held-out pairs before this stage",
        "nats per pair",
        "",
        "The loss on the held-out pairs before the first step. Guessing gives log 2 = 0.693.",
    ),
    "validation_loss": MetricSpec(
        "loss on held-out pairs",
        "nats per pair",
        "lower",
        "Mean over the held-out pairs of −log of the probability that the model gives to the annotator's choice.",
    ),
}
