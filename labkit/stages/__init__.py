"""The stages of the recipe: each a config, its batches, its objective and its measures, a page each."""

from labkit.stages.claims import Claim, gold_change_in_words
from labkit.stages.dpo import DPO
from labkit.stages.inputs import PreferenceSplit, StageInputs, next_token_objective
from labkit.stages.ppo import PPO
from labkit.stages.pretrain import Pretrain
from labkit.stages.registry import (
    STAGES,
    Curve,
    Stage,
    import_stages,
    register,
    stage_claims,
    stage_class,
    stage_kind,
    stage_title,
    stage_title_in_sentence,
)
from labkit.stages.reward import RewardModeling
from labkit.stages.sft import SFT

__all__ = [
    "DPO",
    "PPO",
    "STAGES",
    "Claim",
    "PreferenceSplit",
    "SFT",
    "RewardModeling",
    "StageInputs",
    "Pretrain",
    "Curve",
    "Stage",
    "gold_change_in_words",
    "stage_kind",
    "next_token_objective",
    "register",
    "stage_claims",
    "stage_class",
    "stage_title_in_sentence",
    "stage_title",
]

import_stages()
