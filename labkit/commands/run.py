"""``labkit run``: a whole run, or some of its stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labkit.runs.arguments import RunOptions, parse_run_arguments, planned_parts
from labkit.runs.flags import HELP
from labkit.runs.settings import parse_known_args

if TYPE_CHECKING:
    from labkit.runs.recipe import Recipe


def command(arguments: list[str]) -> int:
    """`labkit run`: its exit code."""
    if not HELP.isdisjoint(arguments):
        return _help([argument for argument in arguments if argument not in HELP])
    options, recipe = parse_run_arguments(arguments)
    from labkit.reporting.terminal import run_with_progress
    from labkit.runs.pipeline import run

    out, build_on = options.folder, None if options.resume else options.build_on
    events = run(recipe, out, options.stages or None, options.resume, build_on)
    stages = ["--stages", *options.stages] if options.stages else []
    go_on = ["run", "--out", str(out), "--resume", *stages]
    return run_with_progress(events, out, lambda: go_on if holds_run_of_recipe(out, recipe) else ["run", *arguments])


def _help(arguments: list[str]) -> int:
    """What --help prints: the options; or the settings of the stages that --plan names."""
    parts, rest = planned_parts(arguments)
    if not parts:
        parse_known_args(RunOptions, "run", ["--help"])
    from labkit.commands.stage_help import print_stage_settings

    print_stage_settings(parts, rest, "labkit run --plan STAGE,STAGE")
    print("labkit run --help lists the other options; labkit recipe --plan … prints a whole recipe as flags.")
    return 0


def holds_run_of_recipe(path: Path, recipe: Recipe) -> bool:
    """Whether the folder holds a run of this recipe; not, where it was stopped before anything was written."""
    from labkit.runs.folder import Run

    return (path / "recipe.json").is_file() and Run.open(path).recipe == recipe
