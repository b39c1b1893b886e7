"""A plan: the stages of a run in order, each under a name, and the stage that each comes after.

    pretrain,sft,reward,ppo,dpo,dpo-strict

A name is a kind of stage, or a kind with more behind a hyphen, so that a plan may hold several of a kind. A stage
begins with the weights that another has left: the one written behind its name (``ppo@dpo``), which may be a stage of
another run (``sft@runs/big/pretrain``), or else the last before it that learned from an earlier kind of data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.stages import STAGES, Stage, kind_of
from labkit.stages.registry import INPUTS

RESERVED = ("checkpoints", "preferences", "corpus", "tokenizer")
"""What else a run's folder holds under a name, and what begins a run."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan. name: of its folder and its flags. after: a stage before it in the plan, or the folder of
    another run's stage (RUN/STAGE), whose model it begins with; None lets the plan decide.
    """

    name: str
    stage: Stage
    after: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.name) or self.name in RESERVED:
            raise LabError(f"{self.name!r} is no name for a stage: dpo, or dpo-strict for another of that kind.")
        if kind_of(self.name) != self.stage.kind:
            raise LabError(f"{self.name!r} is no name for a stage {self.stage.kind}: {self.stage.kind}-{self.name}.")


def plan_of(**stages: Stage) -> tuple[PlannedStage, ...]:
    """A plan of these stages, each under the name of its argument: plan_of(pretrain=Pretrain(), sft=FineTune())."""
    return tuple(PlannedStage(name, stage) for name, stage in stages.items())


def in_another_run(after: str | None) -> bool:
    """Whether what a stage comes after is a stage of another run."""
    return after is not None and "/" in after


def check_order(plan: Sequence[PlannedStage]) -> None:
    """Raises LabError for a plan in which a name stands twice, or a stage comes after none that it can begin with."""
    if not plan:
        raise LabError("A plan needs a stage: --plan pretrain,sft")
    names = [one.name for one in plan]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise LabError(f"{', '.join(sorted(twice))} stands twice in the plan. Name the second one {min(twice)}-2.")
    for one in plan:
        needs_of(plan, one.name)


def needs_of(plan: Sequence[PlannedStage], name: str) -> list[str]:
    """The stages of a plan that one builds on directly; what it begins with first, where that is in the plan.

    Raises LabError where what it needs does not stand before it.
    """
    after, judge = after_of(plan, name), judge_of(plan, name)
    needed = [
        None if in_another_run(after) else after,
        judge if _until(plan, name)[1].stage.needs_reward_model else None,
    ]
    return [need for need in needed if need is not None]


def after_of(plan: Sequence[PlannedStage], name: str) -> str | None:
    """What a stage begins with: a stage of the plan, or RUN/STAGE of another run; None for one with new weights.

    Raises LabError where that does not stand before it, or leaves no language model.
    """
    before, one = _until(plan, name)
    if one.stage.starts_from == "nothing":
        if one.after is not None:
            raise LabError(f"{name} begins with new weights: it comes after no stage ({name}@{one.after}).")
        return None
    models = [each for each in before if each.stage.leaves == "language model"]
    if one.after is not None:
        if not in_another_run(one.after) and one.after not in [each.name for each in models]:
            raise LabError(
                f"{name} cannot come after {one.after}: no stage of that name before it leaves a language model."
            )
        return one.after
    earlier = [each.name for each in models if INPUTS.index(each.stage.reads) < INPUTS.index(one.stage.reads)]
    if not earlier:
        raise LabError(
            f"{name} needs a language model to begin with: put a stage before it in the plan (pretrain,{name}), or "
            f"name one of another run ({name}@RUN/STAGE)."
        )
    return earlier[-1]


def judge_of(plan: Sequence[PlannedStage], name: str) -> str | None:
    """The last stage before one that leaves a reward model, which judges its answers.

    Raises LabError where a stage needs one and none stands before it.
    """
    before, one = _until(plan, name)
    found = [each.name for each in before if each.stage.leaves == "reward model"]
    if one.stage.needs_reward_model and not found:
        raise LabError(f"{name} learns from a reward model: put reward before it in the plan.")
    return found[-1] if found else None


def _until(plan: Sequence[PlannedStage], name: str) -> tuple[Sequence[PlannedStage], PlannedStage]:
    """The stages before one, and itself."""
    at = [one.name for one in plan].index(name)
    return plan[:at], plan[at]


def parse_plan(text: str, known: Sequence[PlannedStage]) -> tuple[PlannedStage, ...]:
    """Planned stages from "pretrain,sft,ppo@sft", with the settings that a stage of that name, else of that kind, has
    in `known`, else its defaults. Raises LabError for what is no plan.
    """
    made = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, at, after = part.partition("@")
        kind = kind_of(name)
        settings = {one.name: one.stage for one in known}
        settings = {one.stage.kind: one.stage for one in reversed(known)} | settings
        stage = settings.get(name) or settings.get(kind) or STAGES[kind]()
        made.append(PlannedStage(name, stage, after if at else None))
    check_order(made)
    return tuple(made)


def plan_text(plan: Iterable[PlannedStage]) -> str:
    """The plan as `parse_plan` reads it."""
    return ",".join(one.name if one.after is None else f"{one.name}@{one.after}" for one in plan)


def extended(plan: Iterable[PlannedStage], stages: Iterable[str]) -> str:
    """The plan's text, with those of the stages that it has not at its end."""
    text = plan_text(plan).split(",")
    known = [part.partition("@")[0] for part in text]
    return ",".join([*text, *(stage for stage in stages if stage not in known)])


def plan_to_list(plan: Iterable[PlannedStage]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"name": one.name, "after": one.after, "stage": to_dict(one.stage)} for one in plan]


def plan_from_list(data: Iterable[dict[str, Any]]) -> tuple[PlannedStage, ...]:
    """What `plan_to_list` gave. Raises LabError for a stage that this labkit does not know, and for its settings.

    In older recipes each stage's `train` has a seed, which did nothing: it is passed over.
    """
    return tuple(
        PlannedStage(one["name"], from_dict(STAGES[kind_of(one["name"])], _modern(one["stage"])), one.get("after"))
        for one in data
    )


def _modern(stage: dict[str, Any]) -> dict[str, Any]:
    train = stage.get("train")
    if not isinstance(train, dict):
        return stage
    return {**stage, "train": {key: value for key, value in train.items() if key != "seed"}}
