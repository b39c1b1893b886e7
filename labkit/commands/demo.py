"""``labkit demo``: make the run again that comes with labkit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.commands.options import parse
from labkit.runs.arguments import Folder

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class DemoOptions:
    """Make data/demo again, the finished run that the app opens on: a run of the default recipe, made small.

    As long as the default run takes; the run itself stays where it was made.
    """

    run: Folder = Path("runs/demo")
    """The run to make it from; made, or resumed, unless it is finished."""
    out: Folder = None
    """Where to write it, instead of data/demo."""


def command(arguments: list[str]) -> int:
    """`labkit demo`: its exit code."""
    options = parse(DemoOptions, "demo", arguments)
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
    print(f"The run to look at is in {made.path}.")
    return 0
