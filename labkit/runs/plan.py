"""A plan: the stages of a run in order, each under a name, and the stage that each comes after.

    pretrain,sft,reward,ppo,dpo,dpo-strict

A name is a kind of stage, or a kind with more behind a hyphen, so that a plan may hold several of a kind. A stage
begins with the weights that another has left: the one written behind its name (``ppo@dpo``), which may be a stage of
another run (``sft@runs/big/pretrain``), or else the last before it that learned from an earlier kind of data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.stages import STAGES, Stage, stage_kind
from labkit.stages.registry import DATA_FIELDS

MOST = 64
"""How many stages a plan may have."""
NO_POLICY = "{} cannot come after {}, whose model compares answers and writes none. Name the stage that it came after."
"""Where a stage would begin with a judge."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan. name: of its folder and its flags. after: a stage before it in the plan, or the folder of
    another run's stage (RUN/STAGE), whose model it begins with; None lets the plan decide.
    """

    name: str
    stage: Stage
    after: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.name):
            raise LabError(
                f"{self.name!r} is not a valid name for a stage: use dpo, or dpo-strict for a second stage of that "
                "type."
            )
        if stage_kind(self.name) != self.stage.kind:
            raise LabError(
                f"{self.name!r} is not a valid name for a {self.stage.kind} stage: use {self.stage.kind}-{self.name}."
            )
        if self.after is not None and (not isinstance(self.after, str) or not self.after or "," in self.after):
            raise LabError(
                f"{self.name} cannot come after {self.after!r}: that is not the name of a stage, or it has a comma."
            )


def make_plan(**stages: Stage) -> tuple[PlannedStage, ...]:
    """A plan of these stages, each under the name of its argument: make_plan(pretrain=Pretrain(), sft=SFT())."""
    return tuple(PlannedStage(name, stage) for name, stage in stages.items())


def is_other_run_stage(after: str | None) -> bool:
    """Whether what a stage comes after is a stage of another run."""
    return after is not None and "/" in after


class StageDependencies(NamedTuple):
    """A stage of a plan and what it builds on. predecessor: what it begins with, a stage of the plan or RUN/STAGE of
    another run; None for new weights. reward_stage: the last stage before it that leaves a reward model of whole
    answers. annotated_stage: the stage, or RUN/STAGE, whose answers the world's annotator compares for it.
    required_stages: those of these that are stages of the plan and that it cannot do without, the one that it begins
    with first.
    """

    name: str
    stage: Stage
    predecessor: str | None
    reward_stage: str | None
    annotated_stage: str | None
    required_stages: tuple[str, ...]


def resolve_dependencies(plan: Sequence[PlannedStage], uses_annotator: bool = True) -> dict[str, StageDependencies]:
    """What each stage of a plan builds on, by name, in order. uses_annotator: whether preferences are the world's.

    Raises LabError for a plan without stages, with too many, or in which a name stands twice, and where what a stage
    needs does not stand before it.
    """
    _check_names([one.name for one in plan])
    found: dict[str, StageDependencies] = {}
    answers = judge = None
    for one in plan:
        after = _after(one, found)
        if one.stage.needs_reward_model and judge is None:
            raise LabError(f"{one.name} needs a reward model: put reward before it in the plan.")
        for name in one.stage.reward_stages:
            if name not in found or not one.stage.can_read_rewards_of(found[name].stage):
                raise LabError(f"{one.name} needs the reward model {name}: put {name} before it in the plan.")
        for name in one.stage.teacher_stages:
            _check_teacher(one.name, name, after, found)
        compares = uses_annotator and one.stage.reads == "preferences"
        answers = (answers or after) if compares else answers
        judges = one.stage.reward_stages or ((judge,) if one.stage.needs_reward_model else ())
        needed = [after, *judges, *one.stage.teacher_stages, answers if compares else None]
        needs = tuple(dict.fromkeys(name for name in needed if name is not None and not is_other_run_stage(name)))
        found[one.name] = StageDependencies(one.name, one.stage, after, judge, answers if compares else None, needs)
        judge = one.name if one.stage.leaves == "reward model" and one.stage.scores_answers else judge
    return found


def _check_teacher(name: str, teacher: str, after: str | None, before: Mapping[str, StageDependencies]) -> None:
    """Raises LabError where a stage's teacher is not chosen, is what it begins with, or no model before it."""
    if not teacher:
        raise LabError(
            f"{name} needs a teacher: set {name}.teacher to a stage before it in the plan, or to a stage of another "
            "run (RUN/STAGE)."
        )
    if teacher == after:
        raise LabError(
            f"{name} begins with {teacher}, which is its teacher too: there is nothing to learn. Choose another "
            f"{name}.teacher, or another model to begin with ({name}@STAGE)."
        )
    known = before.get(teacher)
    if not is_other_run_stage(teacher) and (known is None or known.stage.leaves != "language model"):
        raise LabError(
            f"{name} cannot learn from {teacher}: no earlier stage of that name produces a language model. Name one "
            "that stands before it in the plan, or one of another run (RUN/STAGE)."
        )


def _check_names(names: Sequence[str]) -> None:
    """Raises LabError for no stages, too many, or a name that stands twice."""
    if not names:
        raise LabError("A plan needs a stage: --plan pretrain,sft")
    if len(names) > MOST:
        raise LabError(f"A plan has at most {MOST} stages, not {len(names)}. Start another run from the last model.")
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise LabError(f"{twice} is in the plan twice. Name the second one {twice}-2: --plan …,{twice}-2")


def _after(one: PlannedStage, before: Mapping[str, StageDependencies]) -> str | None:
    """What a stage begins with: what it says, or the last stage that learned from an earlier kind of data."""
    name, stage = one.name, one.stage
    if stage.starts_from == "nothing":
        if one.after is not None:
            raise LabError(f"{name} starts from random weights: it comes after no stage ({name}@{one.after}).")
        return None
    models = [each for each in before.values() if each.stage.leaves == "language model"]
    if one.after is not None:
        if any(each.name == one.after and not each.stage.policy for each in models) and stage.policy:
            raise LabError(NO_POLICY.format(name, one.after))
        if not is_other_run_stage(one.after) and one.after not in [each.name for each in models]:
            raise LabError(
                f"{name} cannot come after {one.after}: no earlier stage of that name produces a language model."
            )
        return one.after
    earlier = [each.name for each in models if DATA_FIELDS.index(each.stage.reads) < DATA_FIELDS.index(stage.reads)]
    if not earlier:
        raise LabError(
            f"{name} needs a language model to start from: put a stage before it in the plan (pretrain,{name}), or "
            f"name one of another run ({name}@RUN/STAGE)."
        )
    return earlier[-1]


def _at_defaults(kind: type[Stage]) -> Stage:
    """Raises LabError, which names it, for a setting without a default."""
    return from_dict(kind, {})


def parse_plan(
    text: str, templates: Sequence[PlannedStage], new_stage: Callable[[type[Stage]], Stage] = _at_defaults
) -> tuple[PlannedStage, ...]:
    """Planned stages from "pretrain,sft,ppo@sft", with the settings that a stage of that name, else of that kind, has
    in `templates`; else `new_stage` makes one of its class, at its defaults.

    Raises LabError for a name that is none, and as `new_stage` does. Whether each finds what it needs before it depends
    on its settings: `resolve_dependencies`, and so `Recipe`, checks it.
    """
    made = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, at, after = (word.strip() for word in part.partition("@"))
        kind = stage_kind(name)
        settings = {one.name: one.stage for one in templates}
        settings = {one.stage.kind: one.stage for one in reversed(templates)} | settings
        stage = settings.get(name) or settings.get(kind) or new_stage(STAGES[kind])
        made.append(PlannedStage(name, stage, after if at else None))
    _check_names([one.name for one in made])
    return tuple(made)


def format_plan(plan: Iterable[PlannedStage]) -> str:
    """The plan as `parse_plan` reads it."""
    return ",".join(one.name if one.after is None else f"{one.name}@{one.after}" for one in plan)


def extend_plan(plan: Iterable[PlannedStage], stages: Iterable[str]) -> str:
    """The plan's text, with those of the stages that it has not at its end; one that says what it comes after
    (ppo@dpo) says it of a stage that the plan has, too, which goes behind that one where it stands before it.
    """
    named = {stage.partition("@")[0]: stage for stage in stages}
    parts = format_plan(plan).split(",")
    kept = [named[name] if "@" in named.get(name := part.partition("@")[0], "") else part for part in parts]
    known = [part.partition("@")[0] for part in parts]
    extended = [*kept, *(stage for name, stage in named.items() if name not in known)]
    for name, _, after in (stage.partition("@") for stage in named.values()):
        places = {part.partition("@")[0]: at for at, part in enumerate(extended)}
        if places.get(after, -1) > places[name]:
            extended.insert(places[after], extended.pop(places[name]))
    return ",".join(extended)


def plan_to_list(plan: Iterable[PlannedStage]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"name": one.name, "after": one.after, "stage": to_dict(one.stage)} for one in plan]


def plan_from_list(data: Iterable[dict[str, Any]]) -> tuple[PlannedStage, ...]:
    """What `plan_to_list` gave. Raises LabError for a stage that this labkit does not know, and for its settings.

    In older recipes each stage's `train` has a seed, which did nothing: it is passed over.
    """
    made = []
    for one in data:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not isinstance(one.get("stage"), dict):
            raise LabError(f"A stage in a plan needs a name and settings; {one!r} does not have them.")
        settings = from_dict(STAGES[stage_kind(one["name"])], _without_seed(one["stage"]))
        made.append(PlannedStage(one["name"], settings, one.get("after")))
    return tuple(made)


def _without_seed(stage: dict[str, Any]) -> dict[str, Any]:
    train = stage.get("train")
    if not isinstance(train, dict):
        return stage
    return {**stage, "train": {key: value for key, value in train.items() if key != "seed"}}
