"""What every stage is, and every kind of stage by its name.

A stage is one file: a frozen dataclass under `register`, with its settings, what it begins with, its batches, its
objective, what it leaves behind, and all that others say of it. Those in this folder are known to the command line, a
recipe's flags, the report, the app and the comparison without being named there; one from elsewhere, once its file is
imported:

    @register("repeat", "learn the same documents again")
    @dataclass(frozen=True)
    class Repeat(Stage):
        train: TrainConfig = TrainConfig()
        ...
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from labkit.errors import LabError
from labkit.evaluation.metrics import MetricSpec
from labkit.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.evaluation.config import EvaluationConfig, TextData, WorldData
    from labkit.model.reward_model import RewardModel
    from labkit.model.transformer import Transformer
    from labkit.stages.claims import Claim, Metrics
    from labkit.stages.inputs import StageInputs
    from labkit.training.config import BatchSource

S = TypeVar("S", bound="type[Stage]")

DATA_FIELDS = ("text", "instructions", "preferences")
"""The kinds of data that a stage may learn from, from the first in a recipe to the last."""


RESERVED_NAMES = (
    *("preset", "seed", "world", "tinyworld", "tokenizer", "model", "plan", "annotation", "evaluation", *DATA_FIELDS),
    *("checkpoints", "corpus", "run", "stages", "out", "resume", "help"),
)
"""Names that mean something else in recipes, among flags, or in a run's folder."""


class Curve(NamedTuple):
    """A figure of what an objective watches. metric_names: those in metrics.jsonl that are drawn, once the first is
    there.
    """

    heading: str
    unit: str
    metric_names: tuple[str, ...]


class RolloutSchedule(NamedTuple):
    """What a stage samples from the model in training: answers of at most `max_new_tokens`, anew every
    `steps_per_rollout` optimizer steps. sampled_share: of the rollouts, how many are sampled; the others are given, and
    only read. writer: which of the frozen models samples them, by what it is; empty where the model in training does.
    read_by_policy: whether that model reads them once more before it learns from them.
    """

    max_new_tokens: int
    steps_per_rollout: int
    sampled_share: float = 1.0
    writer: str = ""
    read_by_policy: bool = True


class Stage(ABC):
    """What every stage offers; a subclass is a frozen dataclass whose fields are its settings."""

    train: TrainConfig

    kind: ClassVar[str]
    """Its name in recipes, folders and commands; `register` sets it."""
    title: ClassVar[str]
    """In a heading: "Supervised fine-tuning"."""
    short_title: ClassVar[str]
    """In the middle of a sentence: "fine-tuning"."""
    about: ClassVar[str]
    """A paragraph for someone who meets it in a report for the first time."""
    reads: ClassVar[Literal["text", "instructions", "preferences"]]
    """What it learns from; TinyWorld's where a recipe names no source."""
    starts_from: ClassVar[Literal["nothing", "a language model"]] = "a language model"
    """What it begins with: new weights, or those that another stage has left."""
    online: ClassVar[bool] = False
    """Whether it learns from answers that the model in training writes."""
    relative_lr: ClassVar[float] = 1.0
    """Of the learning rate of a preset's PPO (for what is online) or DPO, at which a preset suggests to train it."""
    leaves: ClassVar[Literal["language model", "reward model"]] = "language model"
    chat: ClassVar[bool] = True
    """Whether the language model that it leaves answers messages, in the form of a chat."""
    policy: ClassVar[bool] = True
    """Whether the language model that it leaves is one to be asked; a judge's compares what others answer."""
    batch_unit: ClassVar[str] = "rows"
    """What train.batch_size counts: "pairs of answers"."""
    scores_answers: ClassVar[bool] = True
    """Whether the reward model that it leaves gives one score to a whole answer; a process reward model's are of its
    sentences.
    """
    loss_unit: ClassVar[str] = ""
    """What a step's loss is counted in; empty where it has no unit."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """What is drawn of its steps beside loss, reward and learning rate."""
    checks: ClassVar[tuple[Callable[[Any], str | None], ...]] = ()
    """What is looked for in its step records while it trains: see `labkit.stages.doctor.Check`."""
    metric_specs: ClassVar[Mapping[str, MetricSpec]] = {}
    """What its metrics mean, where `labkit.evaluation.metrics` does not say it, or says something else."""

    @property
    def needs_reward_model(self) -> bool:
        """Whether a stage before it must have left a reward model."""
        return False

    @property
    def reward_stages(self) -> tuple[str, ...]:
        """The stages before it whose reward models it reads by name; the last one is given to it anyhow."""
        return ()

    @property
    def teacher_stages(self) -> tuple[str, ...]:
        """The stages whose language models it reads beside the one that it begins with: stages before it, or RUN/STAGE
        of other runs. An empty name is a teacher that was not chosen.
        """
        return ()

    def can_read_rewards_of(self, stage: Stage) -> bool:
        """Whether one of `reward_stages` may be this stage."""
        return stage.leaves == "reward model" and stage.scores_answers

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Raises LabError when what the stage will read, or be measured on, can be known not to serve it: before it, or
        any stage before it, is trained.
        """
        return

    def refuse_prefix_sharing(self) -> None:
        """Raises LabError where train.prefix_sharing is on: for a stage of whose rows no two answer one prompt."""
        if self.train.prefix_sharing:
            raise LabError(
                f"{self.kind}: train.prefix_sharing reads a prompt once for all its answers, and this stage's "
                "batches hold no group of answers to a prompt. Leave it off."
            )

    def initial_model(self, stage_inputs: StageInputs) -> Any:
        """The module that is trained, before the first step."""
        return stage_inputs.predecessor_model()

    @abstractmethod
    def source(self, stage_inputs: StageInputs, model: Any) -> BatchSource:
        """The training batches; `model` is as the stage begins with it. `labkit plan` reads `inputs` and `mask`
        [B, T] of a batch, as `labkit.text.batch.Batch` has them.
        """

    @abstractmethod
    def objective(self, model: Any, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """See `labkit.training.config.Objective`."""

    def result_model(self, model: Any) -> Transformer | RewardModel:
        """What the stage leaves behind, of what was trained."""
        return model

    def rollout_schedule(self) -> RolloutSchedule | None:
        """What it samples while it trains; None where it reads data alone."""
        return None

    def frozen_rollout_models(self, stage_inputs: StageInputs) -> dict[str, Transformer | RewardModel]:
        """The models that are read beside the one in training, at each rollout, by what they are."""
        return {}

    def flops(self, model: Any, tokens: float) -> float:
        """Floating-point operations of the whole stage, which read so many tokens, sampling included."""
        return tokens * model.training_flops_per_token(self.train.max_length)

    def validation_loss(self, model: Any, stage_inputs: StageInputs, config: EvaluationConfig) -> float | None:
        """Of a label on held-out data: the one measure cheap enough to take while training; None without one."""
        return None

    def eval_data(self, stage_inputs: StageInputs) -> WorldData | TextData | None:
        """The held-out data that it is measured on, where that can be asked of a language model; None for others."""
        return None

    def evaluate(self, model: Any, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """All that can be measured after the stage. Where answers are judged, they are generated here first: greedy
        ones to held-out prompts, which takes most of the time.
        """
        return {}

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """What the stage must beat, from its own metrics and those of the stage that it came after (empty without
        one); None where nothing was measured.
        """
        return None


STAGES: dict[str, type[Stage]] = {}
"""Every kind of stage whose file was imported, by its name."""
STAGE_DESCRIPTIONS: dict[str, str] = {}
"""What each of them does, in a line."""


def register(kind: str, description: str) -> Callable[[S], S]:
    """Make a stage known under a name: small letters and digits. description: for the command line's help, a line.

    Raises LabError for a name that is none or that another stage has.
    """

    def known(stage: S) -> S:
        if not re.fullmatch("[a-z][a-z0-9]*", kind) or kind in RESERVED_NAMES:
            raise LabError(
                f"{kind!r} is not a valid name for a stage: use lower-case letters and digits, and none of "
                f"{', '.join(RESERVED_NAMES)}."
            )
        before = STAGES.get(kind)
        same = before is None or (before.__module__, before.__qualname__) == (stage.__module__, stage.__qualname__)
        if before is not None and not same:
            raise LabError(f"There is a stage {kind} already, {before.__module__}.{before.__qualname__}.")
        stage.kind = kind
        STAGES[kind], STAGE_DESCRIPTIONS[kind] = stage, description
        return stage

    return known


def import_stages() -> None:
    """Import every file of this folder, so that its stage is registered."""
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        import_module(f"labkit.stages.{file.stem}")


def stage_kind(name: str) -> str:
    """The kind of a planned stage, as its name says: dpo and dpo-strict are both dpo. Raises LabError for no kind's."""
    kind = name.partition("-")[0]
    if kind not in STAGES:
        raise LabError(
            f"There is no stage {name!r}; the stages are {', '.join(STAGES)}, and names with a suffix, like dpo-strict."
        )
    return kind


def stage_class(name: str) -> type[Stage] | None:
    """The class of a planned stage; None for a name that an older or another labkit gave."""
    return STAGES.get(name.partition("-")[0])


def stage_title(name: str) -> str:
    """stage_title("sft") -> "Supervised fine-tuning", stage_title("sft-long") -> "Supervised fine-tuning: sft-long";
    the name itself for a stage that is not known.
    """
    stage = stage_class(name)
    if stage is None:
        return name.replace("_", " ").capitalize()
    return stage.title if name == stage.kind else f"{stage.title}: {name}"


def stage_title_in_sentence(name: str) -> str:
    """stage_title_in_sentence("sft") -> "fine-tuning", for the middle of a sentence."""
    stage = stage_class(name)
    return stage.short_title if stage is not None and name == stage.kind else name.replace("_", " ")


def stage_claims(stage_results: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """The claims of a run's finished stages, from the entries of its report, in order.

        for claim in stage_claims(report["stages"]):
            print(claim)  # "sft: accuracy 0.664, above 0.465 (the base model): holds"

    Notebooks assert these claims, `labkit bench claims` counts them over seeds, precisions and threads, and a run says
    when one does not hold. A stage that was not measured, as that of an imported checkpoint, claims nothing.
    """
    results = {stage["stage"]: stage["metrics"] for stage in stage_results}
    claims = []
    for at, entry in enumerate(stage_results):
        stage = stage_class(entry["stage"])
        after = entry.get("after", stage_results[at - 1]["stage"] if at else None)  # older reports do not say it
        claim = None if stage is None else stage.claim(entry["metrics"], results.get(after, {}))
        if claim is not None:
            claims.append(claim._replace(stage=entry["stage"]))
    return claims
