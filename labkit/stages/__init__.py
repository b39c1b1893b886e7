"""The stages of the recipe: each a config, its batches, its objective and its measures, a page each."""

from labkit.stages.materials import Materials, StageConfig, next_token_objective
from labkit.stages.pretrain import Pretrain
from labkit.stages.sft import FineTune

__all__ = ["FineTune", "Materials", "Pretrain", "StageConfig", "next_token_objective"]
