"""``labkit demo``: rebuild the run that comes with labkit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labkit.commands.options import parse_options
from labkit.runs.arguments import Folder


@dataclass(frozen=True)
class DemoOptions:
    """Rebuild data/demo, the finished run that the app opens on: a copy of a run of the default recipe, with weights
    rounded to bfloat16 and shorter logs.

    Takes as long as the default run; that run itself stays in its folder.
    """

    run: Folder = Path("runs/demo")
    """The run to copy; it is started, or resumed, if it is not finished."""
    out: Folder = None
    """Where to write the copy, instead of data/demo."""


def command(arguments: list[str]) -> int:
    """`labkit demo`: its exit code."""
    options = parse_options(DemoOptions, "demo", arguments)
    from labkit.paths import demo_folder
    from labkit.reporting.terminal import run_with_progress
    from labkit.runs.pipeline import run
    from labkit.runs.presets import make_recipe
    from labkit.runs.shipped import make_demo_run

    assert options.run is not None
    stopped = run_with_progress(
        run(make_recipe("lab"), options.run, resume=True), options.run, lambda: ["demo", *arguments]
    )
    if stopped:
        return stopped
    made = make_demo_run(options.run, options.out or demo_folder())
    print(f"The rebuilt run is in {made.path}.")
    return 0
