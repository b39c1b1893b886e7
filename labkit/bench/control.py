"""What the seconds that PPO and DPO take would have brought as more fine-tuning: the control for their gain in gold."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from statistics import median

from labkit.errors import LabError
from labkit.model.transformer import Transformer
from labkit.runs.folder import Run
from labkit.runs.pipeline import BoundStage, bind_stage
from labkit.runs.prepare import prepare_inputs
from labkit.runs.stage_folder import StageFolder
from labkit.training.loop import fit

FRESH = 2000
"""Added to the run's seed for conversations that its fine-tuning has not seen."""


def time_matched_sft_metrics(run_path: str | Path) -> dict[str, dict[str, float]]:
    """{"ppo": metrics, "dpo": metrics} of what each policy of a finished run began with, fine-tuned for as long as the
    policy was trained, and measured as its stage measures its own.

    As many steps as fit into the stage's seconds at the median step of the run's own fine-tuning, on conversations
    that it has not seen, in the same schedule. Compiling does not count, which favours the control.
    """
    run = Run.open(run_path)
    tuned, stage_inputs, found = run.latest_sft_stage(), prepare_inputs(run), {}
    if tuned is None:
        raise LabError(f"{run_path} has no fine-tuned model to train further.")
    for folder in run.stages:
        leaves_policy = folder.generates_text and folder.config.policy
        if folder.config.reads != "preferences" or not leaves_policy or folder.result is None:
            continue
        steps = max(1, math.floor(folder.result["training_seconds"] / _seconds_per_step(tuned)))
        stage = bind_stage(run, folder.name, stage_inputs)
        model = _fine_tuned_again(bind_stage(run, tuned.name, stage_inputs), stage.inputs.predecessor_model(), steps)
        found[folder.name] = {"steps": steps} | stage.config.evaluate(model, stage.inputs, run.recipe.evaluation)
    return found


def _seconds_per_step(tuned: StageFolder) -> float:
    """The median time between two records of fine-tuning, without its first steps, which compile."""
    seconds = [record["seconds"] for record in tuned.step_records]
    return median(later - earlier for earlier, later in zip(seconds[3:], seconds[4:], strict=False))


def _fine_tuned_again(stage: BoundStage, model: Transformer, steps: int) -> Transformer:
    fresh = dataclasses.replace(stage.inputs, seed=stage.inputs.seed + FRESH)
    train = dataclasses.replace(stage.config.train, steps=steps)
    for _ in fit(model, stage.config.source(fresh, model), stage.config.objective, train):
        pass
    return model
