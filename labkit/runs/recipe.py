"""Recipe: all that decides what a run becomes, and the presets. The same recipe gives the same weights.

Everything there is to tune is in `PRESETS` and `REAL_TEXT`, at the end of this file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from labkit.configs import Count, Range, Seed, check, from_dict, to_dict
from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.model.feedforward import Gated
from labkit.model.positions import Rotary
from labkit.model.transformer import ModelConfig
from labkit.preferences.annotate import AnnotationConfig
from labkit.stages import DPO, PPO, FineTune, FitReward, Pretrain, StageConfig
from labkit.text.tokenizer import SMALLEST_VOCABULARY
from labkit.training.config import TrainConfig, fingerprint

INPUTS = ("text", "instructions", "preferences")
"""The fields of a recipe that name what it reads."""


@dataclass(frozen=True)
class TokenizerConfig:
    """vocabulary: how many tokens; None lets the text decide. documents: of the world, to learn the merges from."""

    vocabulary: Annotated[int, Range(SMALLEST_VOCABULARY, 2**24)] | None = None
    documents: Count = 4000

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        preset: what it was made from, for the reader.
        seed: of everything that is drawn.
        world_size: tiny, lab or full.
        tokenizer: how the tokenizer is trained.
        model: the model's shape; its vocabulary becomes the tokenizer's.
        pretrain: the first stage.
        sft: the second stage.
        annotation: who chooses between which answers of the fine-tuned model.
        reward, ppo, dpo: the stages that learn from these choices.
        evaluation: how much is measured after each stage.
        text: a file, folder or hub data set to pretrain on, instead of the world's documents.
        instructions: the same for fine-tuning, instead of the world's conversations.
        preferences: the same for reward, ppo and dpo, instead of the choices of the world's annotator.
    """

    preset: str = "lab"
    seed: Seed = 0
    world_size: Literal["tiny", "lab", "full"] = "lab"
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig(vocabulary=1)
    pretrain: Pretrain = Pretrain()
    sft: FineTune = FineTune()
    annotation: AnnotationConfig = AnnotationConfig()
    reward: FitReward = FitReward()
    ppo: PPO = PPO()
    dpo: DPO = DPO()
    evaluation: EvaluationConfig = EvaluationConfig()
    text: str | None = None
    instructions: str | None = None
    preferences: str | None = None

    def __post_init__(self) -> None:
        check(self)
        for name in INPUTS:
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise LabError(f"Recipe: {name} is empty, as a variable that is not set. Name a file, or leave it out.")
        if not self.model.causal or self.model.encoder:
            raise LabError(
                "Recipe: the stages train a model that writes token by token, from nothing but the tokens before: "
                "leave model.causal True and model.encoder 0."
            )
        for name, stage in self.stages.items():
            if stage.train.length > self.model.context:
                raise LabError(
                    f"Recipe: rows of {name} have {stage.train.length} tokens, but the model's context is "
                    f"{self.model.context}. Shorten {name}.train.length or widen model.context."
                )

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The stages that this recipe has, in order, by name.

        Real text without instructions is pretrained on only: the world's questions say nothing about it. Nor
        would its annotators know what to say of answers to other instructions than theirs.
        """
        names = ["pretrain"]
        if self.text is None or self.instructions is not None:
            names += ["sft"]
            if (self.text is None and self.instructions is None) or self.preferences is not None:
                names += ["reward", "ppo", "dpo"]
        return {name: getattr(self, name) for name in names}

    def ancestors(self, stage: str) -> list[str]:
        """The stages that a stage builds on, directly or not, in order."""
        found = set(self.stages[stage].needs)
        for need in self.stages[stage].needs:
            found.update(self.ancestors(need))
        return [name for name in self.stages if name in found]

    def descendants(self, stage: str) -> list[str]:
        """The stages that build on a stage, directly or not, in order."""
        return [name for name in self.stages if stage in self.ancestors(name)]

    def read_by(self, stage: str) -> list[str]:
        """The fields of `INPUTS` that decide what a stage becomes; the tokenizer learns from instructions, too."""
        fields = INPUTS if "sft" in self.ancestors(stage) else INPUTS[:2]
        return [field for field in fields if getattr(self, field) is not None]

    def fingerprint(self, stage: str | None = None) -> str:
        """A short hash of all that decides the weights after `stage` (of the whole recipe when None).

        What is measured, and the stages that it does not build on, do not count.
        """
        if stage is None:
            return fingerprint(self)
        plain = to_dict(self)
        for name in self.stages:  # as when each had a seed, so that runs begun then can be resumed
            plain[name]["train"]["seed"] = 0
        names = ["seed", "world_size", "tokenizer", "model", "text", "instructions"]
        if "sft" in self.ancestors(stage):
            names += ["annotation", "preferences"]
        return fingerprint({name: plain[name] for name in (*names, *self.ancestors(stage), stage)})

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """What `to_dict` gave. Raises LabError that names a field which does not exist.

        In older recipes each stage's `train` has a seed, which did nothing: it is passed over.
        """
        trains = {
            name: {**stage, "train": {key: value for key, value in stage["train"].items() if key != "seed"}}
            for name, stage in data.items()
            if isinstance(stage, dict) and isinstance(stage.get("train"), dict)
        }
        return from_dict(cls, {**data, **trains})

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Where two recipes differ: {"pretrain.train.steps": (2000, 1000), ...}; other's value last."""
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        return {name: (mine.get(name), theirs.get(name)) for name in names}


def make_recipe(
    preset: str = "lab",
    *,
    seed: int = 0,
    text: str | None = None,
    instructions: str | None = None,
    preferences: str | None = None,
) -> Recipe:
    """The recipe of a preset, with its settings for real text when there is `text`.

    Raises LabError for another preset, and for preferences without a model that was fine-tuned to answer.
    """
    if preset not in PRESETS:
        raise LabError(f"There is no preset {preset!r}; the presets are {', '.join(PRESETS)}.")
    if preferences is not None and text is not None and instructions is None:
        raise LabError("--preferences are between answers: give --instructions, too, to fine-tune the model on.")
    recipe = (PRESETS if text is None else REAL_TEXT)[preset]
    return dataclasses.replace(
        recipe, preset=preset, seed=seed, text=text, instructions=instructions, preferences=preferences
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {name: inner for key, item in value.items() for name, inner in _flat(item, f"{prefix}{key}.").items()}


def _adamw(steps: int, rows: int, length: int, lr: float) -> TrainConfig:
    """For the stages that move a model a little: AdamW alone, in a learning rate that warms up and comes down."""
    return TrainConfig(
        steps=steps, rows=rows, length=length, optimizer="adamw", adam_lr=lr, warmup=steps // 10, checkpoint_every=50
    )


# In a context of a few hundred tokens the usual base of 10,000 leaves half of a head's pairs without a turn to tell.
_NEAR = Rotary(base=100.0)
_SMALL = ModelConfig(
    vocabulary=1,
    context=192,
    width=64,
    depth=2,
    heads=1,
    feed_forward=Gated(192),
    position=_NEAR,
    look_back=1,
)
_LAB = dataclasses.replace(_SMALL, context=256, width=128, depth=4, heads=2, feed_forward=Gated(352))
_FULL = dataclasses.replace(_LAB, context=512, width=256, depth=6, heads=4, feed_forward=Gated(704))

PRESETS: dict[str, Recipe] = {
    # A check that everything works: a minute or two, too short to compile. `labkit bench claims` holds its stages
    # against their baselines; with 600 steps of pretraining and half of the pairs, DPO beat its own on some processors.
    "smoke": Recipe(
        world_size="tiny",
        tokenizer=TokenizerConfig(documents=500),
        model=_SMALL,
        pretrain=Pretrain(TrainConfig(steps=1500, rows=8, length=128, lr=6e-3, adam_lr=6e-3)),
        sft=FineTune(TrainConfig(steps=250, rows=8, length=128, lr=1e-2, adam_lr=5e-3)),
        annotation=AnnotationConfig(prompts=800, held_out=300, samples=8),
        reward=FitReward(TrainConfig(steps=80, rows=8, length=160, lr=1e-3, adam_lr=2e-3, checkpoint_every=50)),
        ppo=PPO(_adamw(steps=80, rows=32, length=192, lr=1e-3), kl=0.05, samples=4, entropy_weight=0.02),
        dpo=DPO(_adamw(steps=150, rows=16, length=160, lr=2e-4)),
        evaluation=EvaluationConfig(documents=64, stories=24, tasks=16, examples=100, compared=500, prompts=120),
    ),
    # labkit run: 17 min on two cores in fp32, half in bf16; 93 % of answers right, gold gained: PPO .26, DPO .21.
    "lab": Recipe(
        world_size="lab",
        model=_LAB,
        pretrain=Pretrain(TrainConfig(steps=3200, rows=12, length=128, decay=0.5, compile=True)),
        sft=FineTune(TrainConfig(steps=350, rows=12, length=128, lr=1.5e-3, adam_lr=2e-3, compile=True)),
        annotation=AnnotationConfig(prompts=2400, held_out=600, samples=8),
        reward=FitReward(TrainConfig(steps=150, rows=16, length=192, lr=2.5e-4, adam_lr=5e-4, checkpoint_every=50)),
        ppo=PPO(_adamw(steps=40, rows=64, length=192, lr=2e-4), kl=0.15),
        dpo=DPO(_adamw(steps=300, rows=16, length=192, lr=6e-5), beta=0.2),
    ),
    # The whole world, for a machine with more time or a GPU.
    "full": Recipe(
        world_size="full",
        tokenizer=TokenizerConfig(documents=20_000),
        model=_FULL,
        pretrain=Pretrain(TrainConfig(steps=20_000, rows=32, length=256, warmup=100, compile=True)),
        sft=FineTune(TrainConfig(steps=2000, rows=32, length=256, lr=1.5e-3, adam_lr=2e-3, compile=True)),
        annotation=AnnotationConfig(prompts=8000, held_out=1000, samples=8),
        reward=FitReward(TrainConfig(steps=1000, rows=32, length=448, lr=2.5e-4, adam_lr=5e-4)),
        ppo=PPO(_adamw(steps=600, rows=128, length=448, lr=1e-4)),
        dpo=DPO(_adamw(steps=1000, rows=32, length=448, lr=3e-5)),
    ),
}

REAL_TEXT: dict[str, Recipe] = {
    "smoke": dataclasses.replace(
        PRESETS["smoke"],
        pretrain=Pretrain(TrainConfig(steps=60, rows=8, length=128, lr=2e-2, adam_lr=1e-2)),
        sft=FineTune(TrainConfig(steps=30, rows=8, length=128, lr=1e-2, adam_lr=5e-3)),
    ),
    "lab": dataclasses.replace(
        PRESETS["lab"],
        pretrain=Pretrain(TrainConfig(steps=1000, rows=8, length=256, weight_decay=0.1, compile=True)),
        sft=FineTune(TrainConfig(steps=90, rows=8, length=256, lr=4e-3, adam_lr=2e-3, compile=True)),
        dpo=DPO(_adamw(steps=150, rows=16, length=192, lr=1e-4)),
    ),
    "full": PRESETS["full"],
}
