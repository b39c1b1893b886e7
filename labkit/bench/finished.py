"""Runs that a benchmark finds in its folder from an earlier time."""

from __future__ import annotations

from pathlib import Path

from labkit.errors import LabError
from labkit.runs.folder import Run
from labkit.runs.recipe import Recipe


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Raises LabError where `folder` holds a run of another recipe, whose numbers would pass for those of this one."""
    if not (folder / "recipe.json").is_file():
        return
    differences = Run.open(folder).recipe.differences(recipe)
    if differences:
        changed = ", ".join(f"{name}: {was}, not {now}" for name, (was, now) in differences.items())
        raise LabError(
            f"{folder} contains a run with a different recipe ({changed}). Remove it, or give another --out."
        )
