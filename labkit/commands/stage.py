"""``labkit pretrain RUN``, ``labkit sft RUN`` …: one stage of a run."""

from __future__ import annotations

import inspect
import shlex
from dataclasses import dataclass
from pathlib import Path

from labkit.commands.options import RunFolder, parse_options
from labkit.commands.run import holds_run_of_recipe
from labkit.commands.stage_descriptions import stage_descriptions
from labkit.errors import LabError
from labkit.runs.arguments import Switch, default_preset
from labkit.runs.settings import override_config


@dataclass(frozen=True)
class StageOptions:
    """Train this one stage of a run: start it, resume it, or with --again train it again.

    Every field of the stage can be set too, as --train.steps 500. `labkit STAGE RUN --help` lists them, with the values
    of a run that has this stage; labkit run --plan STAGE --help with those of a new run.
    """

    run: RunFolder
    """The run's folder. A new folder starts a run of the preset in the environment variable LABKIT_PRESET (lab when it
    is not set)."""
    again: Switch = False
    """Train this stage again. Its old results, and those of the stages built on it, are kept until the new one is
    finished, then deleted."""
    undo: Switch = False
    """Undo an --again that is not finished, and restore the results from before it."""


def _description(name: str) -> str:
    """What --help says of a stage of this name before its flags."""
    kind = stage_descriptions()[name.partition("-")[0]]
    about = f"{kind.title}. {kind.about} train.batch_size counts {kind.batch_unit}."
    return f"{about}\n\n{inspect.cleandoc(StageOptions.__doc__ or '').replace('STAGE', name)}"


def command(name: str, arguments: list[str]) -> int:
    """`labkit STAGE RUN`: its exit code. name: of the stage."""
    folder, *after = arguments or ["--help"]
    if folder in ("-h", "--help"):
        parse_options(StageOptions, name, ["--help"], _description(name))
    if folder.startswith("-"):
        raise LabError(f"name the run's folder first: labkit {name} RUN …")
    from labkit.reporting.terminal import run_with_progress
    from labkit.runs.folder import Run
    from labkit.runs.pipeline import recover_run_folder, rerun_stage, run, undo_unfinished_rerun
    from labkit.runs.plan import extend_plan
    from labkit.runs.presets import make_recipe

    path, command = Path(folder), f"labkit {name} {shlex.quote(folder)}"
    if "--undo" in after:
        undo_unfinished_rerun(path, name)
        print(f"{path / name} is restored to what it was before --again.")
        return 0
    fresh = not recover_run_folder(path).exists() or Run.is_unused(path)
    recipe = make_recipe(default_preset()) if fresh else Run.open(path).recipe
    if name not in recipe.stages:
        raise LabError(
            f"{path} has no stage {name}; it has {', '.join(recipe.stages)}. To train it in a new run, "
            f"which begins with copies of these: labkit run --out NEW --build-on {shlex.quote(folder)} --plan "
            f"{shlex.quote(extend_plan(recipe.plan, [name]))} --stages {name}"
        )
    rest = [argument for argument in after if argument != "--again"]
    before = recipe.stages[name]
    config = override_config(before, rest, f"{name} {folder}") if rest else before
    asked = recipe.with_stages(**{name: config})

    def go_on() -> list[str]:
        """The same command, without what is done already."""
        left = holds_run_of_recipe(path, asked) and not Run.open(path).stage(name).finished
        return [name, folder] if left else [name, *arguments]

    if fresh:
        return run_with_progress(run(asked, path, [name]), path, go_on)
    stage = Run.open(path).stage(name)
    if "--again" in after or (config != before and not stage.exists):
        return run_with_progress(rerun_stage(path, name, config), path, go_on)
    if stage.finished:
        raise LabError(
            f"{stage.path} is finished. To train it again and delete the stages built on it: {command} --again"
        )
    if config != before:
        raise LabError(f"{stage.path} was started with other settings. To train it again with these, add --again.")
    return run_with_progress(run(recipe, path, [name], resume=True), path, go_on)
