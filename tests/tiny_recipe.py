"""A whole run that takes seconds."""

from dataclasses import replace
from typing import Any

from labkit.evaluation.config import EvaluationConfig
from labkit.model.feedforward import Gated
from labkit.model.transformer import ModelConfig
from labkit.preferences.annotate import AnnotationConfig
from labkit.runs.plan import make_plan
from labkit.runs.recipe import Recipe, TokenizerConfig
from labkit.stages import DPO, PPO, SFT, Pretrain, RewardModeling
from labkit.training.config import TrainConfig

TRAIN = TrainConfig(steps=6, batch_size=4, max_length=96, checkpoint_every=2, warmup_steps=2, precision="fp32")


def tiny_recipe(train: TrainConfig = TRAIN, **changes: Any) -> Recipe:
    model = ModelConfig(1, context=128, width=32, depth=1, heads=1, key_value_heads=1, feed_forward=Gated(64))
    recipe = Recipe(
        preset="test",
        tinyworld_size="tiny",
        tokenizer=TokenizerConfig(documents=100),
        model=model,
        plan=make_plan(
            pretrain=Pretrain(train),
            sft=SFT(train),
            reward=RewardModeling(replace(train, optimizer="adamw", max_length=128, compile=False)),
            ppo=PPO(replace(train, optimizer="adamw", max_length=128, compile=False), max_new_tokens=8),
            dpo=DPO(replace(train, optimizer="adamw", max_length=128, compile=False)),
        ),
        annotation=AnnotationConfig(prompts=24, held_out=12, max_new_tokens=8, keep_ties=True),
        evaluation=EvaluationConfig(
            documents=8,
            characters=2000,
            stories=3,
            tasks_per_kind=1,
            majority_baseline_tasks=5,
            novelty_documents=20,
            story_max_new_tokens=20,
            answer_max_new_tokens=8,
            policy_prompts=8,
        ),
    )
    return replace(recipe, **changes)
