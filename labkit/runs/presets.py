"""The presets: recipes that are there by name. Everything there is to tune is here."""

from __future__ import annotations

import dataclasses
from typing import Any

from labkit.configs import required_fields
from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.model.feedforward import Gated
from labkit.model.positions import Rotary
from labkit.model.transformer import ModelConfig
from labkit.preferences.annotate import AnnotationConfig
from labkit.runs.plan import PlannedStage, make_plan
from labkit.runs.recipe import Recipe, TokenizerConfig
from labkit.stages import DPO, PPO, SFT, STAGES, Pretrain, RewardModeling
from labkit.training.config import TrainConfig


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
        raise LabError("--preferences need a fine-tuned model: give --instructions too.")
    recipe = (PRESETS if text is None else REAL_TEXT)[preset]
    return dataclasses.replace(
        recipe, preset=preset, seed=seed, text=text, instructions=instructions, preferences=preferences
    )


def plan_templates(recipe: Recipe) -> tuple[PlannedStage, ...]:
    """What `parse_plan` takes a stage's settings from: the recipe's own stages, and for the kinds that it has none of,
    what its preset suggests.
    """
    presets = PRESETS if recipe.text is None else REAL_TEXT
    own = {one.stage.kind for one in recipe.plan}
    suggested = _other_alignment_stages(presets[recipe.preset]) if recipe.preset in presets else ()
    return (*recipe.plan, *(one for one in suggested if one.stage.kind not in own))


def _other_alignment_stages(preset: Recipe) -> tuple[PlannedStage, ...]:
    """Every stage beside the preset's that learns from preferences or instructions, where its page says nothing of its
    training. Of preferences: one that leaves a reward model is trained as the preset's reward model is, one that writes
    answers itself as its PPO, another as its DPO. Of instructions: as its fine-tuning, in rows that have room for an
    answer as PPO's have.
    """

    def suggested(stage: Any) -> TrainConfig:
        reward, sft, ppo, dpo = (preset.stages[name].train for name in ("reward", "sft", "ppo", "dpo"))
        if stage.leaves == "reward model":
            return reward
        if stage.reads == "instructions":
            longest = max(sft.max_length, ppo.max_length)
            return dataclasses.replace(sft, max_length=longest, compile=sft.compile and not stage.online)
        train = ppo if stage.online else dpo
        return dataclasses.replace(train, adamw_lr=train.adamw_lr * stage.relative_lr)

    policies: list[Any] = [stage for stage in STAGES.values() if stage.reads != "text"]
    plain = [
        stage
        for stage in policies
        if stage.kind != "reward" and not required_fields(stage) and stage().train == TrainConfig()
    ]
    return make_plan(**{stage.kind: stage(train=suggested(stage)) for stage in plain})


def _adamw(steps: int, rows: int, length: int, lr: float) -> TrainConfig:
    """For the stages that move a model a little: AdamW alone, in a learning rate that warms up and comes down."""
    return TrainConfig(
        steps=steps,
        batch_size=rows,
        max_length=length,
        optimizer="adamw",
        adamw_lr=lr,
        warmup_steps=steps // 10,
        checkpoint_every=50,
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
    previous_token_init=1,
)
_LAB = dataclasses.replace(_SMALL, context=256, width=128, depth=4, heads=2, feed_forward=Gated(352))
_FULL = dataclasses.replace(_LAB, context=512, width=256, depth=6, heads=4, feed_forward=Gated(704))

PRESETS: dict[str, Recipe] = {
    # labkit run --preset smoke: a minute or two, too short to compile; 62-77 % of answers right after fine-tuning.
    # `labkit bench claims` holds its stages against their baselines; with 600 steps of pretraining and half of the
    # pairs, DPO lost to its own on some processors.
    "smoke": Recipe(
        tinyworld_size="tiny",
        tokenizer=TokenizerConfig(documents=500),
        model=_SMALL,
        plan=make_plan(
            pretrain=Pretrain(TrainConfig(steps=1500, batch_size=8, max_length=128, muon_lr=6e-3, adamw_lr=6e-3)),
            sft=SFT(TrainConfig(steps=250, batch_size=8, max_length=128, muon_lr=1e-2, adamw_lr=5e-3)),
            reward=RewardModeling(
                TrainConfig(steps=80, batch_size=8, max_length=160, muon_lr=1e-3, adamw_lr=2e-3, checkpoint_every=50)
            ),
            ppo=PPO(_adamw(steps=80, rows=32, length=192, lr=1e-3), kl_coef=0.05, num_generations=4, entropy_coef=0.02),
            dpo=DPO(_adamw(steps=150, rows=16, length=160, lr=2e-4)),
        ),
        annotation=AnnotationConfig(prompts=800, held_out=300, num_generations=8),
        evaluation=EvaluationConfig(
            documents=64,
            stories=24,
            tasks_per_kind=16,
            majority_baseline_tasks=100,
            novelty_documents=500,
            policy_prompts=120,
        ),
    ),
    # labkit run: 17 min on two cores in fp32, half in bf16; 93 % of answers right, gold gained: PPO .25, DPO .20. The
    # README's table has all of it.
    "lab": Recipe(
        tinyworld_size="lab",
        model=_LAB,
        plan=make_plan(
            pretrain=Pretrain(TrainConfig(steps=3200, batch_size=12, max_length=128, decay_fraction=0.5, compile=True)),
            sft=SFT(TrainConfig(steps=350, batch_size=12, max_length=128, muon_lr=1.5e-3, adamw_lr=2e-3, compile=True)),
            reward=RewardModeling(
                TrainConfig(
                    steps=150, batch_size=16, max_length=192, muon_lr=2.5e-4, adamw_lr=5e-4, checkpoint_every=50
                )
            ),
            ppo=PPO(_adamw(steps=40, rows=64, length=192, lr=2e-4), kl_coef=0.15),
            dpo=DPO(_adamw(steps=300, rows=16, length=192, lr=6e-5), beta=0.2),
        ),
        annotation=AnnotationConfig(prompts=2400, held_out=600, num_generations=8),
    ),
    # labkit run --preset full: the whole world, sized for one GPU and 20 minutes. On an H200 (torch 2.11, beside tests
    # and another run) pretraining took 273 s, fine-tuning 51 s (97.1 % of answers right), the reward model 381 s, of
    # which some 320 s were 72,000 answers to choose between, written without CUDA graphs; a step of PPO, rollouts
    # written without them too, 0.8 s. Answers and rollouts are compiled since, which has not been timed.
    "full": Recipe(
        tinyworld_size="full",
        tokenizer=TokenizerConfig(documents=20_000),
        model=_FULL,
        plan=make_plan(
            pretrain=Pretrain(TrainConfig(steps=7000, batch_size=32, max_length=256, warmup_steps=100, compile=True)),
            sft=SFT(
                TrainConfig(steps=1500, batch_size=32, max_length=256, muon_lr=1.5e-3, adamw_lr=2e-3, compile=True)
            ),
            reward=RewardModeling(
                TrainConfig(steps=1000, batch_size=32, max_length=448, muon_lr=2.5e-4, adamw_lr=5e-4)
            ),
            ppo=PPO(_adamw(steps=400, rows=128, length=448, lr=1e-4), compile_rollouts=True),
            dpo=DPO(_adamw(steps=1000, rows=32, length=448, lr=3e-5)),
        ),
        annotation=AnnotationConfig(prompts=8000, held_out=1000, num_generations=8),
    ),
}

REAL_TEXT: dict[str, Recipe] = {
    "smoke": PRESETS["smoke"].with_stages(
        pretrain=Pretrain(TrainConfig(steps=60, batch_size=8, max_length=128, muon_lr=2e-2, adamw_lr=1e-2)),
        sft=SFT(TrainConfig(steps=30, batch_size=8, max_length=128, muon_lr=1e-2, adamw_lr=5e-3)),
    ),
    "lab": PRESETS["lab"].with_stages(
        pretrain=Pretrain(TrainConfig(steps=1000, batch_size=8, max_length=256, weight_decay=0.1, compile=True)),
        sft=SFT(TrainConfig(steps=90, batch_size=8, max_length=256, muon_lr=4e-3, adamw_lr=2e-3, compile=True)),
        dpo=DPO(_adamw(steps=150, rows=16, length=192, lr=1e-4)),
    ),
    "full": PRESETS["full"],
}
