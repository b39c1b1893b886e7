"""The option --import, which every command takes: a Python file with rewards and stages of the user's own.

It runs that file, so a terminal alone takes it: no page of the app, and no recipe.
"""

from __future__ import annotations

from labkit.errors import LabError
from labkit.runs.imports import import_file

HELP = """Option of every command:
  --import FILE.py              run this file first; its reward functions and stages are then known"""


def take_import_options(arguments: list[str]) -> list[str]:
    """The arguments without --import, whose files are imported. Raises LabError for one that cannot be."""
    rest, given = [], iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name == "--import":
            file = value if equals else next(given, "")
            if not file:
                raise LabError("--import needs a Python file: --import rewards.py.")
            import_file(file)
        else:
            rest.append(argument)
    return rest
