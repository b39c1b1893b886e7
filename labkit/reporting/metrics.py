"""What each number of a report means, as the stage says it or as it is measured everywhere; and what a stage costs."""

from __future__ import annotations

from labkit.evaluation.metrics import METRICS, MetricSpec
from labkit.stages import stage_class

COSTS = {
    "seconds": MetricSpec("seconds", "number", "", "The time of the whole stage, compilation and evaluation included."),
    "tokens": MetricSpec("tokens", "count", "", "How many tokens the stage has processed."),
    "flops": MetricSpec("FLOPs", "count", "", "Floating-point operations that its training needs."),
    "mfu": MetricSpec(
        "MFU",
        "share",
        "higher",
        "Model FLOPs utilisation: FLOPs per second, over those of the fastest matrix product measured on this machine.",
    ),
    "peak_memory_mb": MetricSpec("peak memory", "megabytes", "lower", "The most memory that the stage held."),
}
"""What a stage cost, by its name in report.json."""

HEADLINES = (
    "accuracy",
    "win_rate",
    "gold_gain",
    "satisfaction_gain",
    "pair_accuracy",
    "label_accuracy",
    "rating_correlation",
    "grammatical",
    "consistent",
    "nats_per_character",
    "bits_per_byte",
    "validation_loss",
)
"""What is said of a stage first, as far as it was measured."""

BEFORE_SUFFIX = "_before"
"""How the names of metrics end that are of the model that a stage began with, on the same prompts as its own."""

BY_KIND = ("accuracy/", "question_only/")
"""How the names of metrics begin that are of one question type each."""

NOT_FOR_REAL_TEXT = {
    "grammatical": "needs the grammar that wrote the text, and real text has no such grammar",
    "consistent": "needs a simulator that knows what is possible in the story",
    "accuracy": "needs the true answer to each question; real instructions only show one of many good answers",
    "question_only": "needs the same true answers",
    "gold": "needs annotators whose preferences are known",
    "unsupported": "needs to know everything that the text says and does not say",
}


def metric_spec(name: str, stage: str = "") -> MetricSpec:
    """What the metric of a name means, where it means something else in some stages: in this one.

    "accuracy/where" is accuracy, told apart by its label "accuracy: where"; "right_before" is right, before the
    stage. A name that is not listed is shown as it is, with no direction.
    """
    its = stage_class(stage)
    if its is not None and name in its.metric_specs:
        return its.metric_specs[name]
    if name.endswith(BEFORE_SUFFIX):
        after = metric_spec(name.removesuffix(BEFORE_SUFFIX), stage)
        return after._replace(label=f"{after.label}, before this stage", better="")
    base, _, part = name.partition("/")
    known = METRICS.get(name) or COSTS.get(name) or METRICS.get(base)
    if known is None:
        return MetricSpec(name.replace("_", " "), "", "", "")
    return known._replace(label=f"{known.label}: {part.replace('_', ' ')}") if part else known
