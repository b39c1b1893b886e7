"""What the seconds that PPO and DPO take would have brought as more fine-tuning: the control for their gain in gold."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from statistics import median

from labkit.evaluation.policies import policy_metrics
from labkit.model.transformer import Transformer
from labkit.runs.folder import Run
from labkit.runs.pipeline import prepare
from labkit.stages import FineTune, StageInputs
from labkit.training.loop import fit

FRESH = 2000
"""Added to the run's seed for conversations that its fine-tuning has not seen."""


def control(path: str | Path) -> dict[str, dict[str, float]]:
    """{"ppo": metrics, "dpo": metrics} of the fine-tuned model of a finished run, fine-tuned for as long again.

    As many steps as fit into the stage's seconds at the median step of the run's own fine-tuning, on conversations
    that it has not seen, in the same schedule. Compiling does not count, which favours the control.
    """
    run = Run.open(path)
    stage_inputs = prepare(run)
    pace = _seconds_per_step(run)
    found = {}
    for stage in (run.recipe.ppo, run.recipe.dpo):
        result = run.stage(stage.name).result
        assert result is not None
        steps = max(1, math.floor(result["training_seconds"] / pace))
        more = dataclasses.replace(run.recipe.sft, train=dataclasses.replace(run.recipe.sft.train, steps=steps))
        model = _fine_tuned_again(more, stage_inputs)
        evaluation = run.recipe.evaluation
        length, tokens = run.recipe.ppo.train.length, run.recipe.ppo.answer_tokens
        found[stage.name] = {"steps": steps} | policy_metrics(model, stage_inputs, evaluation.prompts, length, tokens)
    return found


def _seconds_per_step(run: Run) -> float:
    """The median time between two records of fine-tuning, without its first steps, which compile."""
    seconds = [record["seconds"] for record in run.stage("sft").records]
    return median(later - earlier for earlier, later in zip(seconds[3:], seconds[4:], strict=False))


def _fine_tuned_again(stage: FineTune, stage_inputs: StageInputs) -> Transformer:
    model = stage_inputs.model("sft")
    source = stage.source(dataclasses.replace(stage_inputs, seed=stage_inputs.seed + FRESH), model)
    for _ in fit(model, source, stage.objective, stage.train):
        pass
    return model
