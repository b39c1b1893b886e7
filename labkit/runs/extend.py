"""More stages for a run that is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from labkit.runs.folder import Run
from labkit.runs.locked import lock_and_open_run
from labkit.runs.plan import PlannedStage
from labkit.runs.recipe import Recipe


def extend_run(path: str | Path, recipe: Recipe) -> Recipe:
    """Put the stages of `recipe` that the run has not at the end of its plan; the recipe that the run has now.

    What is trained stays as it is: no stage depends on one behind it. Raises LabError, with the folder as it was, where
    the recipes differ in anything else, where what the run reads is gone or has changed, while somebody else is at work
    on it, and while a stage is being made again.
    """
    with lock_and_open_run(path) as run:
        new = new_stages(run, recipe)
        if new:
            run.recipe = dataclasses.replace(run.recipe, plan=(*run.recipe.plan, *new))
            run.save_recipe()
        return run.recipe


def new_stages(run: Run, recipe: Recipe) -> list[PlannedStage]:
    """The stages of `recipe` that `extend_run` would put at the end of a run's plan. Raises LabError as that does."""
    asked, known = {one.name: one for one in recipe.plan}, [one.name for one in run.recipe.plan]
    new = [one for one in recipe.plan if one.name not in known]
    kept = tuple(asked.get(one.name, one) for one in run.recipe.plan)
    run.check_same_recipe(dataclasses.replace(recipe, plan=kept))
    for one in new:
        run.check_no_other_rerun(one.name)
    return new


def is_begun(path: str | Path) -> bool:
    """Whether a folder holds a run of which a stage was begun."""
    return Path(path).exists() and not Run.is_unused(Path(path))
