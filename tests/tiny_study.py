"""The recipe of `tests.tiny_recipe` in two steps, with settings for stages that sample."""

from dataclasses import replace
from typing import Any

from labkit.runs.plan import PlannedStage
from labkit.runs.recipe import Recipe
from labkit.stages import STAGES
from labkit.training.config import TrainConfig
from tests.tiny_recipe import tiny_recipe

TRAIN = TrainConfig(steps=2, batch_size=4, max_length=96, warmup_steps=1, precision="fp32")


def study_preset(max_new_tokens: int = 8) -> Recipe:
    """All rows and answers of one length, so that every stage is measured on the same prompts."""
    recipe = tiny_recipe(TRAIN)
    stages: dict[str, Any] = {
        name: replace(stage, train=replace(stage.train, max_length=128)) for name, stage in recipe.stages.items()
    }
    stages["ppo"] = replace(stages["ppo"], max_new_tokens=max_new_tokens)
    recipe = recipe.with_stages(**stages)
    sampling: dict[str, Any] = {"train": stages["ppo"].train, "max_new_tokens": max_new_tokens}
    grpo: Any = STAGES["grpo"]
    return replace(
        recipe,
        plan=(*recipe.plan, PlannedStage("grpo", grpo(**sampling))),
        evaluation=replace(recipe.evaluation, answer_max_new_tokens=max_new_tokens),
    )
