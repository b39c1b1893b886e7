"""The methods that learn from preferences, each as a planned stage that begins with the fine-tuned model.

Every kind of stage that leaves a policy is a method under its own name, trained as the preset suggests; beside them
stand named settings, as RLVR, and every name with a suffix that `--plan` takes too: dpo-strict, whose flags are
--dpo-strict.beta and so on. Two suffixes stand for other labels, see `OWN_LABELS`: dpo-rlaif learns from pairs that a
judge chooses by written principles, dpo-bestworst and kto-bestworst from pairs that the annotator chooses; either from
the best and the worst of all answers to a prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.preferences.principles import Principles
from labkit.runs.plan import PlannedStage, parse_plan
from labkit.runs.presets import plan_templates
from labkit.runs.recipe import Recipe
from labkit.stages import STAGES
from labkit.stages.preference_policy import PairwisePolicy
from labkit.stages.rewards import Verifier, Votes

BASE = ("pretrain", "sft", "reward")
"""What all methods of a seed share."""
NAMED_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "rlvr": ("grpo-rlvr", {"reward": Verifier()}),
    "votes": ("grpo-votes", {"reward": Votes()}),
    "rejectionsampling-random": ("rejectionsampling-random", {"selection": "random"}),
}
"""Methods that are a stage with other settings: the stage's name in the plan, and the settings."""


class Labels(NamedTuple):
    """Labels that are not those of the study's other methods. annotation: the settings that make them; flags: the same,
    on the command line; steps: of a method that learns from pairs, as a share of the preset's.
    """

    annotation: dict[str, Any]
    flags: str
    steps: float = 1.0


OWN_LABELS = {
    # One pair to a prompt, where two by two most presets compare four: half the steps still pass over them once.
    "bestworst": Labels({"pairing": "best_with_worst"}, "--annotation.pairing best_with_worst", steps=0.5),
    "rlaif": Labels(
        {"judge": Principles(), "pairing": "best_with_worst"},
        "--annotation.judge Principles --annotation.pairing best_with_worst",
        steps=0.5,
    ),
}
"""By the suffix of a method: it learns in a run of its own, as all pairs of a run are labelled in one way."""
RELABELLED = ("dpo-rlaif", "dpo-bestworst", "kto-bestworst")
"""Those that stand in a study of all methods."""


def method_names() -> list[str]:
    """All methods: those that sample, those that do not, and named settings of them."""
    policies = {kind: stage for kind, stage in STAGES.items() if stage.reads == "preferences" and _leaves_policy(kind)}
    return [*sorted(policies, key=lambda kind: (not policies[kind].online, kind)), *NAMED_SETTINGS, *RELABELLED]


def own_labels(method: str) -> str | None:
    """The suffix of a method with labels of its own, else None."""
    suffix = method.partition("-")[2]
    return suffix if suffix in OWN_LABELS else None


def refuse_relabelled(method: str, offers_flags: bool = True) -> None:
    """Raises LabError for a method with labels of its own, where all methods of a study learn from the same labels.
    offers_flags: whether the study's runs can all have these labels.
    """
    if suffix := own_labels(method):
        flags, kind = OWN_LABELS[suffix].flags, method.partition("-")[0]
        here = f" Here, set {flags} with --method {kind}." if offers_flags else ""
        raise LabError(f"{method} has labels of its own: compare it by labkit study alignment.{here}")


def method_stage_name(method: str) -> str:
    """The name of a method's stage in the plan. Raises LabError for what is no method."""
    if method in NAMED_SETTINGS:
        return NAMED_SETTINGS[method][0]
    kind = method.partition("-")[0]
    if kind not in STAGES or STAGES[kind].reads != "preferences" or not _leaves_policy(kind):
        raise LabError(
            f"There is no method {method!r}; the methods are {', '.join(method_names())}, and names with a suffix, "
            "like dpo-strict."
        )
    return method


def recipe_of_methods(recipe: Recipe, methods: Iterable[str]) -> Recipe:
    """The recipe with pretraining, fine-tuning, the reward model and these methods as its plan.

    Raises LabError for what is no method, and where one is named twice.
    """
    names = [method_stage_name(method) for method in methods]
    planned = parse_plan(",".join([*BASE, *names]), plan_templates(recipe))
    settings = dict(NAMED_SETTINGS.values())
    stages: list[Any] = [one.stage for one in planned]
    changed = []
    for one, stage in zip(planned, stages, strict=True):
        own = dataclasses.replace(_shortened(stage, one.name), **settings.get(one.name, {}))
        changed.append(PlannedStage(one.name, own, one.after))
    return dataclasses.replace(recipe, plan=tuple(changed))


def _shortened(stage: Any, name: str) -> Any:
    """The stage with the steps that its pairs are enough for. What samples has no end of answers, and KTO, which reads
    the two answers of a pair one by one, has twice as many rows.
    """
    suffix = own_labels(name)
    share = OWN_LABELS[suffix].steps if suffix and isinstance(stage, PairwisePolicy) else 1.0
    steps, warmup = (round(share * count) for count in (stage.train.steps, stage.train.warmup_steps))
    return dataclasses.replace(stage, train=dataclasses.replace(stage.train, steps=max(1, steps), warmup_steps=warmup))


def _leaves_policy(kind: str) -> bool:
    return STAGES[kind].leaves == "language model" and STAGES[kind].policy
