"""The runs of a study: one folder per seed, or per setting of a seed, checked together, then trained or resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from labkit.reporting.terminal import follow_run
from labkit.runs.estimate import stage_inputs_maker, tiny_stand_in_model
from labkit.runs.extend import extend_run, is_begun, new_stages
from labkit.runs.folder import Run
from labkit.runs.pipeline import recover_run_folder, run
from labkit.runs.recipe import Recipe
from labkit.training.processes import accelerator


class PlannedRun(NamedTuple):
    """A run of a study: its folder and the recipe that is made there."""

    folder: Path
    recipe: Recipe


def check_runs(
    seeds: Sequence[int], recipe: Recipe, runs_of_seed: Callable[[Recipe], Mapping[str, PlannedRun]]
) -> None:
    """Raises LabError for what would be refused of any run of a study, before the first of them is trained.

    runs_of_seed: from the recipe with a seed, the runs of that seed. The recipes of all seeds are built, and held
    against what their folders hold; the first seed's stages are checked as a run checks them, with a tokenizer like the
    run's own.
    """
    planned = [runs_of_seed(dataclasses.replace(recipe, seed=seed)) for seed in seeds]
    for one in (one for runs in planned for one in runs.values()):
        recover_run_folder(one.folder)
        if is_begun(one.folder):
            new_stages(Run.open(one.folder), one.recipe)
    for one in planned[0].values():
        if not one.recipe.other_run_stages:  # a later round's stages are those of the first
            _check_stages(one.recipe)


def _check_stages(recipe: Recipe) -> None:
    """Raises LabError for a stage that what it will read cannot serve."""
    make = stage_inputs_maker(recipe, accelerator().num_processes)
    for name in recipe.stages:
        stage, inputs = make(name, tiny_stand_in_model)
        stage.check(inputs, recipe.evaluation)


def train_stages(
    recipe: Recipe, folder: Path, stages: Sequence[str], base: Run | None = None, copied_stages: Sequence[str] = ()
) -> Run:
    """The run in `folder` once these stages of the recipe are finished, and those that they build on; what is finished
    already is not made again, and stages that the run had not are added to it. base, copied_stages: a run, and those
    of its stages that a new run begins with copies of.

    Progress goes to stderr. Raises LabError as `labkit.runs.extend.extend_run`, `Run.branch` and
    `labkit.runs.pipeline.run` do, and KeyboardInterrupt, once a checkpoint is saved, when it is stopped.
    """
    recover_run_folder(folder)
    if not is_begun(folder) and base is not None:
        base.branch(folder, recipe, copied_stages)
    if is_begun(folder):
        recipe = extend_run(folder, recipe)
    needed = [name for name in recipe.stages if name in stages or any(name in recipe.ancestors(one) for one in stages)]
    if not is_begun(folder) or not all(Run.open(folder).stage(name).finished for name in needed):
        follow_run(run(recipe, folder, needed, resume=True))
    return Run.open(folder)
