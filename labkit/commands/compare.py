"""``labkit compare RUN RUN``: two runs side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from labkit.commands.options import parse
from labkit.runs.arguments import Switch

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class CompareOptions:
    """Two runs side by side: where their recipes differ, and every measure of either."""

    first: Annotated[Positional[Path], arg(metavar="RUN_A", help_behavior_hint="")]
    """The folder of one run."""
    second: Annotated[Positional[Path], arg(metavar="RUN_B", help_behavior_hint="")]
    """The folder of another; differences are counted from the first to it."""
    json: Switch = False
    """Print it as JSON."""


def command(arguments: list[str]) -> int:
    """`labkit compare`: its exit code."""
    options = parse(CompareOptions, "compare", arguments)
    from labkit.reporting.comparison import compare_runs, comparison_table

    result = compare_runs(options.first, options.second)
    print(json.dumps(result, indent=2) if options.json else comparison_table(result))
    return 0
