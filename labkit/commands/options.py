"""The options that several commands have, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import FlagCreatePairsOff, Positional, arg

from labkit.configs import Range, check_fields
from labkit.runs import flags

T = TypeVar("T")
RunFolder = Annotated[Positional[Path], arg(metavar="RUN", help_behavior_hint="")]
Stage = Annotated[str | None, arg(metavar="STAGE", help_behavior_hint="")]
Draft = Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="")]
Text = Annotated[str, arg(metavar="TEXT", help_behavior_hint="")]
Stops = Annotated[tuple[str, ...], arg(metavar="TEXT [TEXT ...]", help_behavior_hint="")]
NewTokens = Annotated[int, Range(1, 2**20)]
TopP = Annotated[float, Range(0, 1, exclude_low=True)]


def parse_options(options: type[T], command: str, arguments: list[str], description: str | None = None) -> T:
    """A command's options. description: what --help says first, in place of the docstring of `options`.

    Raises LabError for flags that do not exist, for one that has another name now (``options.older_names``, {name:
    name before}), and for values that their types refuse.
    """
    older_names: Mapping[str, str] = getattr(options, "older_names", {})
    flags.refuse_renamed_flags({f"--{before}": f"--{name}" for name, before in older_names.items()}, arguments)
    prog, config = f"labkit {command}", (FlagCreatePairsOff,)
    parsed: T = flags.parse_flags(options, prog, arguments, config=config, description=description)
    check_fields(parsed, flags=True)
    return parsed
