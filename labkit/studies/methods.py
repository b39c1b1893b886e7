"""The methods that learn from preferences, each as a planned stage that begins with the fine-tuned model.

Every kind of stage that leaves a policy is a method under its own name, trained as the preset suggests; beside them
stand named settings, as RLVR, and every name with a suffix that `--plan` takes too: dpo-strict, whose flags are
--dpo-strict.beta and so on. dpo-rlaif is DPO on pairs that a judge labels by written principles, not the annotator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from labkit.errors import LabError
from labkit.preferences.principles import Principles
from labkit.runs.plan import PlannedStage, parse_plan
from labkit.runs.presets import plan_templates
from labkit.runs.recipe import Recipe
from labkit.stages import STAGES
from labkit.stages.rewards import Verifier, Votes

BASE = ("pretrain", "sft", "reward")
"""What all methods of a seed share."""
NAMED_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "rlvr": ("grpo-rlvr", {"reward": Verifier()}),
    "votes": ("grpo-votes", {"reward": Votes()}),
    "rejectionsampling-random": ("rejectionsampling-random", {"selection": "random"}),
}
"""Methods that are a stage with other settings: the stage's name in the plan, and the settings."""
RELABELLED: dict[str, Principles] = {"dpo-rlaif": Principles()}
"""Methods that learn from the labels of another judge, in a run of their own, as a run's pairs have one judge."""


def method_names() -> list[str]:
    """All methods: those that sample, those that do not, and named settings of them."""
    policies = {kind: stage for kind, stage in STAGES.items() if stage.reads == "preferences" and _leaves_policy(kind)}
    return [*sorted(policies, key=lambda kind: (not policies[kind].online, kind)), *NAMED_SETTINGS, *RELABELLED]


HERE = " Here, set --annotation.judge Principles with --method dpo."
"""How all runs of a study have the labels of `RELABELLED`."""


def refuse_relabelled(method: str, here: str = HERE) -> None:
    """Raises LabError for a method with another judge, where all methods of a study learn from the same labels. here:
    what the study offers in its place, if anything.
    """
    if method in RELABELLED:
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
    changed = [
        PlannedStage(one.name, dataclasses.replace(stage, **settings.get(one.name, {})), one.after)
        for one, stage in zip(planned, stages, strict=True)
    ]
    return dataclasses.replace(recipe, plan=tuple(changed))


def _leaves_policy(kind: str) -> bool:
    return STAGES[kind].leaves == "language model" and STAGES[kind].policy
