"""The finished run that comes with labkit, so that there is something to look at before anything was trained.

`data/demo` is a run's folder like any other, made from one of the default recipe: its weights are rounded to bfloat16,
and all that its report says of them was measured again as they lie there. What only training reads is left out.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from labkit.errors import LabError
from labkit.files import atomic_replace_folder, write_json, write_jsonl
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer
from labkit.runs.folder import Run
from labkit.runs.pipeline import evaluate_finished_stage
from labkit.runs.prepare import prepare_inputs
from labkit.runs.stage_folder import StageFolder
from labkit.training.weights import write_weights

DIGITS = 5
"""Of the numbers of each step, which are there to be drawn."""


def make_demo_run(source: str | Path, target: str | Path) -> Run:
    """Make the folder `target` from the finished run in `source`, in place of what a call before this one made.

    Raises LabError when a stage of the run is missing, or `target` holds anything else than a run.
    """
    run, target = Run.open(source), Path(target)
    missing = [stage.name for stage in run.stages if not stage.finished]
    if missing:
        raise LabError(f"{run.path} has not finished {', '.join(missing)}. Resume the run first.")
    if target.exists() and not (target / "recipe.json").is_file():
        raise LabError(f"{target} contains something other than a run; nothing was changed. Choose another folder.")
    with atomic_replace_folder(target) as partial:
        made = run.branch(partial, run.recipe, [])
        for stage in run.stages:
            _shrink(stage, made.stage(stage.name))
        _measure(made, run.report()["machine"])
    return Run.open(target)


def _shrink(stage: StageFolder, small: StageFolder) -> None:
    model: Transformer | RewardModel = stage.model() if stage.generates_text else stage.reward_model()
    small.path.mkdir()
    shutil.copy(stage.path / "config.json", small.path)
    write_weights(small.path, copy.deepcopy(model).to(torch.bfloat16))
    write_json(small.path / "result.json", stage.result)
    shortened = ({name: _short(value) for name, value in record.items()} for record in stage.step_records)
    write_jsonl(small.path / "metrics.jsonl", shortened)


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _measure(run: Run, machine: dict[str, Any]) -> None:
    """Let every result say what is true of the shrunk weights; what training took stays as it was."""
    stage_inputs = prepare_inputs(run)
    for stage in run.stages:
        assert stage.result is not None
        stage.write_result_and_clear_checkpoints(stage.result | evaluate_finished_stage(run, stage.name, stage_inputs))
    shutil.rmtree(run.path / "preferences", ignore_errors=True)
    run.write_report(machine)
