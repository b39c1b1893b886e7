"""Errors and kills at chosen file operations, and what a folder holds: for tests of what is never half done."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

OPERATIONS: list[tuple[Any, str]] = [
    (os, name) for name in ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync")
]
OPERATIONS += [(shutil, name) for name in ("rmtree", "copytree", "copy", "copy2")]
OPERATIONS += [(Path, name) for name in ("write_text", "touch", "chmod")]

WRITE_TEXT, COPIES = Path.write_text, (shutil.copy, shutil.copy2)
"""What can stop in the middle of a file."""

Kind = Literal["error", "kill"]


class Killed(BaseException):
    """What a test sees where a process would be gone."""


class Faults:
    """Counts file operations, and lets one of them fail, a write in the middle of the file: with an error, after which
    all works again, or with a kill, after which the process changes nothing any more.
    """

    def __init__(self, at: int = 0, kind: Kind = "error"):
        self.at, self.kind, self.count, self.dead = at, kind, 0, False

    def before(self) -> None:
        if self.dead:
            raise Killed
        self.count += 1
        if self.count == self.at and self.kind == "kill":
            self.dead = True
            raise Killed
        if self.count == self.at:
            raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def faults(at: int = 0, kind: Kind = "error") -> Iterator[Faults]:
    """Let the `at`-th file operation of the block fail; at=0 only counts."""
    counted = Faults(at, kind)
    real = [(owner, name, getattr(owner, name)) for owner, name in OPERATIONS]

    def wrapped(operation: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            alive = not counted.dead
            try:
                counted.before()
            except OSError:
                if kwargs.get("ignore_errors"):
                    return None
                tear(operation, args)
                raise
            except Killed:
                if alive:
                    tear(operation, args)
                raise
            return operation(*args, **kwargs)

        return call

    for owner, name, operation in real:
        setattr(owner, name, wrapped(operation))
    try:
        yield counted
    finally:
        for owner, name, operation in real:
            setattr(owner, name, operation)


def tear(operation: Any, args: Sequence[Any]) -> None:
    """Leave half of the file that an operation was to write."""
    if operation is WRITE_TEXT:
        WRITE_TEXT(args[0], args[1][: len(args[1]) // 2], encoding="utf-8")
    elif operation in COPIES:
        Path(args[1]).write_bytes(Path(args[0]).read_bytes()[: Path(args[0]).stat().st_size // 2])


@contextmanager
def without_root_rights() -> Iterator[None]:
    """Root reads everything: then the block is somebody else's."""
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder, with a hash of what is there; {} for none."""
    if not folder.exists():
        return {}
    found = {".": "folder"}
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = content
    return found


def bury(folder: Path) -> None:
    """Let the lock that a test's kill has left be that of a process that is gone."""
    lock = folder / ".lock"
    if lock.exists() and lock.stat().st_size:
        lock.write_text(json.dumps({**json.loads(lock.read_text()), "created": 0.0, "ticks": 0}))
