"""A run's folder for the one process that changes it: locked, and recovered from a kill."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.runs.folder import Run
from labkit.runs.lock import exclusive_lock
from labkit.runs.transactions import recover_transactions


@contextmanager
def lock_and_recover_run_folder(path: str | Path) -> Iterator[None]:
    """Be the one writer of a run's folder, and recover its transactions after a kill, with a warning that says how.

    Whoever changes a run reads it inside of this block. Raises LabError, with the folder as it was, while somebody else
    is at work on it, and for a folder that is neither a run's nor free for one.
    """
    path = Path(path)
    Run.check_not_foreign(path)
    with exclusive_lock(path):
        for words in recover_transactions(path):
            warnings.warn(words, stacklevel=3)
        yield


@contextmanager
def lock_and_open_run(path: str | Path) -> Iterator[Run]:
    """The run in a folder, to be changed: see `lock_and_recover_run_folder`. Raises LabError when there is none."""
    Run.open(path)
    with lock_and_recover_run_folder(path):
        yield Run.open(path)
