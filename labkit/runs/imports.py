"""Python files of the user's own, with reward functions (`labkit.stages.rewards.reward_function`) and stages
(`labkit.stages.register`), which `labkit --import FILE` runs before its command.

A run notes which files it was made with; it never imports them by itself, so that no recipe.json runs code.
"""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from labkit.errors import LabError
from labkit.files import absolute_path

IMPORTED: dict[str, ModuleType] = {}
"""The files that this process has imported, by their absolute paths."""


def import_file(path: str | Path) -> None:
    """Run a Python file as a module, once. Raises LabError for what is no such file, and for what the file raises."""
    file = absolute_path(path)
    if str(file) in IMPORTED:
        return
    module_name = f"imported_{len(IMPORTED)}_{file.stem}"  # of no other module, whatever the file is called
    spec = spec_from_file_location(module_name, file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise LabError(f"There is no Python file {path} to import.")
    module = sys.modules[module_name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise LabError(f"{path}{_line(error, file)} cannot be imported: {type(error).__name__}: {error}") from error
    IMPORTED[str(file)] = module


def _line(error: BaseException, file: Path) -> str:
    """Where in the file it was raised: ", line 3"."""
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    lines = [*frames, error.lineno] if isinstance(error, SyntaxError) else frames
    return f", line {lines[-1]}," if lines else ""


def import_flags(files: Sequence[str] | None = None) -> list[str]:
    """The flags that import these files; all that this process has imported when None."""
    return [word for file in (IMPORTED if files is None else files) for word in ("--import", file)]


@contextmanager
def suggest_imports(run: Path, files: Sequence[str]) -> Iterator[None]:
    """Let a LabError end with those of `files`, which the run was made with, that this process has not imported; not
    where it has imported as many, as files may have moved.
    """
    try:
        yield
    except LabError as error:
        missing = [file for file in files if file not in IMPORTED]
        if len(IMPORTED) >= len(files):
            raise
        raise LabError(f"{error} {run} was made with {shlex.join(import_flags(missing))}: add that.") from error
