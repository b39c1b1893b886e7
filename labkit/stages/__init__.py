"""The stages of the recipe: each a config, its batches, its objective and its measures, a page each."""

from labkit.stages.dpo import DPO
from labkit.stages.materials import Compared, Materials, StageConfig, next_token_objective
from labkit.stages.ppo import PPO
from labkit.stages.pretrain import Pretrain
from labkit.stages.reward import FitReward
from labkit.stages.sft import FineTune

__all__ = [
    "DPO",
    "PPO",
    "Compared",
    "FineTune",
    "FitReward",
    "Materials",
    "Pretrain",
    "StageConfig",
    "next_token_objective",
]
