"""The stages of the recipe: each a config, its batches, its objective and its measures, a page each."""

from labkit.stages.claims import Claim, gold_verdict
from labkit.stages.dpo import DPO
from labkit.stages.inputs import PreferenceSplit, StageConfig, StageInputs, next_token_objective
from labkit.stages.ppo import PPO
from labkit.stages.pretrain import Pretrain
from labkit.stages.registry import STAGES, stage_claims
from labkit.stages.reward import FitReward
from labkit.stages.sft import FineTune

__all__ = [
    "DPO",
    "PPO",
    "STAGES",
    "Claim",
    "PreferenceSplit",
    "FineTune",
    "FitReward",
    "StageInputs",
    "Pretrain",
    "StageConfig",
    "gold_verdict",
    "next_token_objective",
    "stage_claims",
]
