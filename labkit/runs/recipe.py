"""Recipe: all that decides what a run becomes. The same recipe gives the same weights. For the presets, see
`labkit.runs.presets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from labkit.configs import Count, Range, Seed, check_fields, from_dict, to_json_value
from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.model.transformer import ModelConfig
from labkit.preferences.annotate import AnnotationConfig
from labkit.runs.plan import (
    PlannedStage,
    StageDependencies,
    format_plan,
    is_other_run_stage,
    make_plan,
    plan_from_list,
    plan_to_list,
    resolve_dependencies,
)
from labkit.stages import DPO, PPO, SFT, Pretrain, RewardModeling, Stage
from labkit.stages.registry import DATA_FIELDS
from labkit.text.tokenizer import SMALLEST_VOCABULARY
from labkit.training.config import fingerprint

PARTS = ("tinyworld_size", "tokenizer", "model", "annotation", "evaluation")
"""The fields of a recipe that have flags of their own, as its stages have."""
STAGES_BEFORE_PLANS = ("pretrain", "sft", "reward", "ppo", "dpo")
"""The stages that every recipe had, each a field of its own, before there were plans."""


@dataclass(frozen=True)
class TokenizerConfig:
    """vocabulary: how many tokens; None lets the text decide. documents: of the world, to learn the merges from."""

    vocabulary: Annotated[int, Range(SMALLEST_VOCABULARY, 2**24)] | None = None
    documents: Count = 4000

    def __post_init__(self) -> None:
        check_fields(self)


DEFAULT_PLAN = make_plan(pretrain=Pretrain(), sft=SFT(), reward=RewardModeling(), ppo=PPO(), dpo=DPO())


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        preset: what it was made from, for the reader.
        seed: of everything that is drawn.
        tinyworld_size: how much there is of TinyWorld: tiny, lab or full.
        tokenizer: how the tokenizer is trained.
        model: the model's shape; its vocabulary becomes the tokenizer's.
        plan: the stages, in order.
        annotation: who chooses between which answers of the fine-tuned model.
        evaluation: how much is measured after each stage.
        text: a file, folder or hub data set to pretrain on, instead of the world's documents.
        instructions: the same for fine-tuning, instead of the world's conversations.
        preferences: the same for the stages that learn from preferences, instead of the choices of the world's
            annotator.
    """

    preset: str = "lab"
    seed: Seed = 0
    tinyworld_size: Literal["tiny", "lab", "full"] = "lab"
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig(vocabulary=1)
    plan: tuple[PlannedStage, ...] = DEFAULT_PLAN
    annotation: AnnotationConfig = AnnotationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    text: str | None = None
    instructions: str | None = None
    preferences: str | None = None

    older_names = {"tinyworld_size": "world_size"}

    def __post_init__(self) -> None:
        check_fields(self)
        resolve_dependencies(self.plan)
        for name in DATA_FIELDS:
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise LabError(f"Recipe: {name} is empty. Is a shell variable not set? Name a file, or leave it out.")
        if not self.model.causal or self.model.encoder_depth:
            raise LabError(
                "Recipe: the stages train a causal language model, which predicts each token from those before: "
                "leave model.causal True and model.encoder_depth 0."
            )
        for name, stage in self.stages.items():
            if None in self.model_ancestors(name) and stage.train.max_length > self.model.context:
                raise LabError(
                    f"Recipe: {name}.train.max_length is {stage.train.max_length} tokens, but the model's context is "
                    f"{self.model.context}. Lower {name}.train.max_length or raise model.context."
                )

    @property
    def trainable_stages(self) -> list[PlannedStage]:
        """Those stages of the plan that can be trained on what the recipe reads, in order.

        Real text without instructions is pretrained on only: the world's questions say nothing about it. Nor
        would its annotators know what to say of answers to other instructions than theirs.
        """
        return [one for one in self.plan if self._serves(one.stage.reads)]

    def _serves(self, reads: str) -> bool:
        """Whether there is such data: as it is given, or of the world, where nothing that comes before is given."""
        before = DATA_FIELDS[: DATA_FIELDS.index(reads)]
        given = [getattr(self, field) is not None for field in before]
        if not any(given):
            return True
        return getattr(self, reads) is not None and all(self._serves(field) for field in before)

    @property
    def stages(self) -> dict[str, Any]:
        """The stages that this recipe has, in order, by name: each a `Stage` of its own class."""
        return {one.name: one.stage for one in self.trainable_stages}

    def with_stages(self, **stages: Stage) -> Recipe:
        """This recipe with other settings for these stages, by name: recipe.with_stages(dpo=DPO(beta=0.5)).

        Raises LabError for a stage that the plan has not.
        """
        unknown = sorted(set(stages) - {one.name for one in self.plan})
        if unknown:
            raise LabError(f"The plan has no stage {', '.join(unknown)}; it is {format_plan(self.plan)}.")
        return dataclasses.replace(self, plan=_with_stages(self.plan, stages))

    @property
    def parts(self) -> dict[str, Any]:
        """What has flags of its own, by the name that the flags begin with: PARTS, and the stages of the plan."""
        return self.parts_with_plan(self.plan)

    def parts_with_plan(self, plan: Sequence[PlannedStage]) -> dict[str, Any]:
        """As `parts`, with the stages of another plan."""
        first, last = ({name: getattr(self, name) for name in names} for names in (PARTS[:3], PARTS[3:]))
        return first | {one.name: one.stage for one in plan} | last

    def with_parts(self, parts: Mapping[str, Any], plan: Sequence[PlannedStage] | None = None) -> Recipe:
        """This recipe with these of its `parts`, or of those that it has with `plan`."""
        own = {name: part for name, part in parts.items() if name in PARTS}
        return dataclasses.replace(self, plan=_with_stages(self.plan if plan is None else plan, parts), **own)

    @cached_property
    def stage_dependencies(self) -> dict[str, StageDependencies]:
        """The stages that this recipe has, with what each builds on, by name, in order."""
        return resolve_dependencies(self.trainable_stages, uses_annotator=self.preferences is None)

    def predecessor(self, stage: str) -> str | None:
        """What a stage begins with: a stage of this recipe, or RUN/STAGE of another run; None for new weights."""
        return self.stage_dependencies[stage].predecessor

    def preceding_reward_stage(self, stage: str) -> str | None:
        """The stage whose reward model judges the answers of this one; None where none stands before it."""
        return self.stage_dependencies[stage].reward_stage

    def dependencies(self, stage: str) -> list[str]:
        """The stages that a stage builds on directly; what it begins with first."""
        return list(self.stage_dependencies[stage].required_stages)

    def other_run_ancestor(self, stage: str) -> str | None:
        """The stage of another run, RUN/STAGE, that a stage's model goes back to; None for weights of our own."""
        after = self.predecessor(stage)
        return after if after is None or is_other_run_stage(after) else self.other_run_ancestor(after)

    def model_ancestors(self, stage: str) -> list[str | None]:
        """Where the language models that a stage reads go back to, its own first, then its teachers': a stage of
        another run, RUN/STAGE, or None for weights of our own.
        """
        teachers = self.stages[stage].teacher_stages
        roots = [one if is_other_run_stage(one) else self.other_run_ancestor(one) for one in teachers]
        return [self.other_run_ancestor(stage), *roots]

    @property
    def annotated_stage(self) -> str | None:
        """What writes the answers between which the world's annotator chooses: that which the first stage that learns
        from preferences comes after.
        """
        return next(
            (one.annotated_stage for one in self.stage_dependencies.values() if one.annotated_stage is not None), None
        )

    @property
    def chat_stages(self) -> list[str]:
        """The stages that leave a language model which answers messages, in order."""
        policies = [one for one in self.trainable_stages if one.stage.leaves == "language model" and one.stage.policy]
        return [one.name for one in policies if one.stage.chat]

    @property
    def other_run_stages(self) -> list[str]:
        """The stages of other runs, RUN/STAGE, that stages begin with, and then those that they learn from; where there
        are some, the run has the tokenizer of the first.
        """
        started = [one.after for one in self.trainable_stages if one.after is not None]
        read = [*started, *(teacher for one in self.trainable_stages for teacher in one.stage.teacher_stages)]
        return list(dict.fromkeys(one for one in read if is_other_run_stage(one)))

    def ancestors(self, stage: str) -> list[str]:
        """The stages that a stage builds on, directly or not, in order."""
        found, waiting = set[str](), [stage]
        while waiting:
            new = [need for need in self.dependencies(waiting.pop()) if need not in found]
            found.update(new)
            waiting += new
        return [name for name in self.stages if name in found]

    def descendants(self, stage: str) -> list[str]:
        """The stages that build on a stage, directly or not, in order."""
        return [name for name in self.stages if stage in self.ancestors(name)]

    def data_fields_used(self, stage: str) -> list[str]:
        """The fields of `DATA_FIELDS` that decide what a stage becomes; the tokenizer learns from instructions, too."""
        fields = DATA_FIELDS if self._reads_preferences(stage) else DATA_FIELDS[:2]
        return [field for field in fields if getattr(self, field) is not None]

    def _reads_preferences(self, stage: str) -> bool:
        return any(self.stages[name].reads == "preferences" for name in (stage, *self.ancestors(stage)))

    def fingerprint(self, stage: str | None = None) -> str:
        """A short hash of all that decides the weights after `stage` (of the whole recipe when None).

        What is measured, and the stages that it does not build on, do not count.
        """
        if stage is None:
            return fingerprint(self.to_dict())
        names = ["seed", "tinyworld_size", "tokenizer", "model", "text", "instructions"]
        if self._reads_preferences(stage):
            names += ["annotation", "preferences"]
        decides = {
            self.older_names.get(name, name): to_json_value(getattr(self, name), legacy_names=True) for name in names
        }
        for name in (*self.ancestors(stage), stage):
            decides[name] = to_json_value(self.stages[name], legacy_names=True)
            decides[name]["train"]["seed"] = 0  # as when each had a seed, so that runs begun then can be resumed
        started = {
            one.name: one.after for one in self.trainable_stages if one.name in decides and one.after is not None
        }
        return fingerprint(decides | ({"after": started} if started else {}))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: plan_to_list(self.plan) if name == "plan" else to_json_value(value) for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """What `to_dict` gave, now or before there were plans. Raises LabError that names a field which does not
        exist.
        """
        data = dict(data)
        plan = data.pop("plan", None)
        if plan is None and any(name in data for name in STAGES_BEFORE_PLANS):
            plan = [{"name": name, "stage": data.pop(name, {})} for name in STAGES_BEFORE_PLANS]
        return from_dict(cls, data if plan is None else data | {"plan": plan_from_list(plan)})

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Where two recipes differ: {"pretrain.train.steps": (2000, 1000), ...}; other's value last."""
        mine, theirs = self._flat(), other._flat()
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        return {name: (mine.get(name), theirs.get(name)) for name in names}

    def _flat(self) -> dict[str, Any]:
        """{"seed": 0, "pretrain.train.steps": 2000, …, "plan": "pretrain,sft"}"""
        named = self.to_dict() | {one.name: to_json_value(one.stage) for one in self.plan}
        return _flat(named | {"plan": format_plan(self.plan)})


def _with_stages(plan: Sequence[PlannedStage], stages: Mapping[str, Any]) -> tuple[PlannedStage, ...]:
    return tuple(PlannedStage(one.name, stages.get(one.name, one.stage), one.after) for one in plan)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {name: inner for key, item in value.items() for name, inner in _flat(item, f"{prefix}{key}.").items()}
