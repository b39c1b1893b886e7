"""The finished stages that others read while they are trained, checked before anything is read or written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labkit.errors import LabError
from labkit.machine import warn_once
from labkit.runs.folder import Run, open_other_run_stage
from labkit.runs.plan import NO_POLICY, is_other_run_stage


def check_needed_stages(run: Run, stages: Sequence[str]) -> None:
    """Raises LabError where one of `stages`, which are to be trained, builds on a stage that is neither finished nor
    among them, whose weights cannot be found, or which is another run's judge. Stages of other runs that they read, and
    that the run was not begun with, are noted among its inputs.
    """
    _note_other_run_stages(run, stages)
    for name in stages:
        after = run.recipe.predecessor(name)
        if is_other_run_stage(after) and run.recipe.stages[name].policy:
            if not run.other_run_stage(str(after)).config.policy:
                raise LabError(NO_POLICY.format(name, after))
        for need in run.recipe.dependencies(name):
            if need not in stages and not run.stage(need).finished:
                raise LabError(
                    f"{run.path}: {name} builds on {need}, and {need} is not finished. Resume the run, or "
                    f"train {need} first."
                )
    for need in _stages_read(run, stages):
        run.stage(need).check_weights_are_there()


def _note_other_run_stages(run: Run, stages: Sequence[str]) -> None:
    """Note the hash and the place of each stage of another run that one of `stages` reads and that was named after the
    run was begun: with a stage that was added, or with other settings.
    """
    plan = {one.name: one for one in run.recipe.plan}
    read = [place for name in stages for place in (plan[name].after, *plan[name].stage.teacher_stages)]
    for place in filter(is_other_run_stage, read):
        if place is not None and place not in run.inputs:
            _, folder = open_other_run_stage(place)
            run.inputs[place] = folder.weights_hash
            run.original_locations[place] = str(Path(place).absolute())


def warn_of_missing_weights(run: Run, stages: Sequence[str]) -> None:
    """Warn of each of these finished stages whose weights cannot be found; see `check_needed_stages`."""
    for name in stages:
        try:
            run.stage(name).check_weights_are_there()
        except LabError as error:
            warn_once(f"{error} No stage that is trained now reads them.")


def _stages_read(run: Run, stages: Sequence[str]) -> list[str]:
    """The finished stages whose models are read while `stages` are trained and measured, in order."""
    read = {need for name in stages for need in _models_read(run, name)} - {*stages}
    return [name for name in run.recipe.stages if name in read]


def _models_read(run: Run, stage: str) -> set[str]:
    """The stages whose models this one reads: those that it cannot do without, but for the one whose answers were
    compared where the preferences are there; and a reward model that measures it, where there is one.
    """
    builds_on = run.recipe.stage_dependencies[stage]
    read = {*builds_on.required_stages}
    kept = [(run.path / "preferences" / f"{split}.jsonl").is_file() for split in ("train", "validation")]
    if all(kept) and builds_on.annotated_stage != builds_on.predecessor:
        read.discard(str(builds_on.annotated_stage))
    judge = builds_on.reward_stage
    return read | ({judge} if judge is not None and run.stage(judge).trained else set())
