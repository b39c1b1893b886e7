"""Every kind of stage by its name, and what a run's stages have to show for themselves.

    for claim in stage_claims(report["stages"]):
        print(claim)  # "sft: answers right 0.664, above the base model's 0.465: holds"

Notebooks assert these claims, `labkit bench claims` counts them over seeds, precisions and threads, and a run says when
one does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.stages.claims import Claim
from labkit.stages.dpo import DPO
from labkit.stages.inputs import StageConfig
from labkit.stages.ppo import PPO
from labkit.stages.pretrain import Pretrain
from labkit.stages.reward import FitReward
from labkit.stages.sft import FineTune

STAGES: dict[str, type[StageConfig]] = {stage.name: stage for stage in (Pretrain, FineTune, FitReward, PPO, DPO)}


def stage_claims(stages: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """The claims of a run's finished stages, from the entries of its report, in order.

    A stage that was not measured, as that of an imported checkpoint, claims nothing.
    """
    results = {stage["stage"]: stage["metrics"] for stage in stages}
    claims = [STAGES[name].claim(results) for name in results if name in STAGES]
    return [claim for claim in claims if claim is not None]
