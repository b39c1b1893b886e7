"""The runs of a study: one folder per seed, or per setting of a seed, trained or resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labkit.reporting.terminal import follow_run
from labkit.runs.extend import extend_run, is_begun
from labkit.runs.folder import Run
from labkit.runs.pipeline import recover_run_folder, run
from labkit.runs.recipe import Recipe


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
