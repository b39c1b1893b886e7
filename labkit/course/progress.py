"""What a student has answered, in one file beside the notebooks' runs: runs/course.json.

Several notebooks may write at once: each reads, changes and replaces the file while it holds a lock beside it. A
damaged file is set aside, which is said, and progress begins anew; one that may not be read is left as it is. What
another version of labkit has written beside what is known here is kept.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.files import DamagedFile, explain_read_errors, explain_write_errors, follow_link, read_object, write_json
from labkit.paths import runs_folder

FILE = "course.json"
LOCK_SECONDS = 10.0
"""How long a notebook waits for another to have written."""


@dataclass(frozen=True)
class ExerciseRecord:
    """What is known of a student's answers to one exercise.

    attempts: answers up to the first right one; one that is told the same as the last is none. mistakes: those
    recognised, by name, with how often. feedback: the last. last: when, in UTC.
    """

    right: bool = False
    attempts: int = 0
    mistakes: dict[str, int] = field(default_factory=dict)
    feedback: str = ""
    last: str = ""


def progress_file() -> Path:
    """Where the notebooks keep the progress: the file course.json in `runs_folder()`."""
    return runs_folder() / FILE


def read_progress(file: Path) -> dict[str, ExerciseRecord]:
    """What was answered, by the exercises' ids; {} when there is no file.

    Raises DamagedFile for one that holds something else, and LabError for one that cannot be read.
    """
    return _records(file, _read(file))


def record_answer(id: str, right: bool, feedback: str, mistake: str = "") -> str:
    """Keep an answer to an exercise. Returns what is to be said of the file, mostly nothing.

    What was right once stays right. Raises LabError when the file cannot be read or written.
    """
    file = follow_link(progress_file())  # the lock is beside the file itself, whatever links lead to it
    with _locked(file):
        note = ""
        try:
            held = _read(file)
            progress = _records(file, held)
        except DamagedFile as error:
            note = f"{error} It is kept as {_set_aside(file)}; progress begins anew."
            held, progress = {"exercises": {}}, {}
        before = progress.get(id, ExerciseRecord())
        if before.right or (before.feedback == feedback and before.attempts):
            return note
        mistakes = dict(before.mistakes)
        if mistake:
            mistakes[mistake] = mistakes.get(mistake, 0) + 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        answered = replace(
            before, right=right, attempts=before.attempts + 1, mistakes=mistakes, feedback=feedback, last=now
        )
        exercises = held["exercises"]
        exercises[id] = exercises.get(id, {}) | asdict(answered)
        write_json(file, held | {"exercises": {one: exercises[one] for one in sorted(exercises)}})
    return note


def _read(file: Path) -> dict[str, Any]:
    """The file's object, with all that it holds."""
    with explain_read_errors(file):
        if not file.exists():
            return {"exercises": {}}
    return read_object(file, exercises=dict)


def _records(file: Path, held: dict[str, Any]) -> dict[str, ExerciseRecord]:
    return {id: _read_record(file, id, record) for id, record in held["exercises"].items()}


def _read_record(file: Path, id: str, held: Any) -> ExerciseRecord:
    kinds = {"right": bool, "attempts": int, "mistakes": dict, "feedback": str, "last": str}
    if not isinstance(held, dict) or any(not isinstance(held.get(name), kind) for name, kind in kinds.items()):
        raise DamagedFile(f"{file} is damaged: what it says of {id!r} is not as labkit writes it.")
    mistakes = held["mistakes"]
    if not all(isinstance(count, int) and 0 <= count < 10**6 for count in (*mistakes.values(), held["attempts"])):
        raise DamagedFile(f"{file} is damaged: the mistakes of {id!r} have no numbers.")
    return ExerciseRecord(held["right"], held["attempts"], mistakes, held["feedback"], held["last"])


def _set_aside(file: Path) -> str:
    """Rename a damaged file to a free name beside it; returns that name."""
    number = 1
    while (aside := file.with_name(f"{file.stem}.damaged-{number}{file.suffix}")).exists():
        number += 1
    with explain_write_errors(file):
        os.rename(file, aside)
    return aside.name


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock beside a file. Raises LabError when another holds it for too long, or it cannot be made."""
    with explain_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + LOCK_SECONDS
        while not _lock(handle):
            if time.monotonic() > until:
                raise LabError(f"{file} is in use by another notebook.")
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows no locks: the file is still replaced whole
        pass
    return True
