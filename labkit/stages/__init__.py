"""The stages of the recipe: each a config, its batches, its objective and its measures, a page each."""

from labkit.stages.claims import Claim, gold_change_in_words
from labkit.stages.dpo import DPO
from labkit.stages.inputs import PreferenceSplit, StageInputs, next_token_objective
from labkit.stages.ipo import IPO
from labkit.stages.kto import KTO
from labkit.stages.orpo import ORPO
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
from labkit.stages.robustdpo import RobustDPO
from labkit.stages.sft import SFT
from labkit.stages.simpo import SimPO

__all__ = [
    "DPO",
    "IPO",
    "KTO",
    "ORPO",
    "PPO",
    "STAGES",
    "Claim",
    "PreferenceSplit",
    "SFT",
    "RewardModeling",
    "RobustDPO",
    "SimPO",
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
