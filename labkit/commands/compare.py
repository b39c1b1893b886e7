"""``labkit compare RUN RUN``: two runs side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from labkit.commands.options import parse_options
from labkit.runs.arguments import Switch


@dataclass(frozen=True)
class CompareOptions:
    """Compare two runs: where their recipes differ, and every metric of both. A metric is called better or worse only
    beyond two standard errors."""

    first: Annotated[Positional[Path], arg(metavar="RUN_A", help_behavior_hint="")]
    """The folder of the first run."""
    second: Annotated[Positional[Path], arg(metavar="RUN_B", help_behavior_hint="")]
    """The folder of the second run; differences are RUN_B minus RUN_A."""
    json: Switch = False
    """Print the comparison as JSON."""


def command(arguments: list[str]) -> int:
    """`labkit compare`: its exit code."""
    options = parse_options(CompareOptions, "compare", arguments)
    from labkit.reporting.comparison import compare_runs, format_run_comparison

    result = compare_runs(options.first, options.second)
    print(json.dumps(result, indent=2) if options.json else format_run_comparison(result))
    return 0
