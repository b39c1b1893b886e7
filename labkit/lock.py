"""One writer a folder: while a process makes a run, no other changes it. Whoever only reads takes no lock.

    with one_writer(folder):
        ...

RUN/.lock holds the owner: its process number, when it began (a number is given again to another process), and its
machine. The lock of an owner that is gone is taken over, and that is said.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from labkit.errors import LabError
from labkit.files import disk_errors

LOCK = ".lock"


@contextmanager
def one_writer(folder: str | Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made when it is not there, and removed again when nothing came of it.

    Raises LabError when somebody holds it, when nobody knows whether they still do (their process is another
    machine's), and when the folder cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / LOCK
    with disk_errors(folder):
        _take(file)
    try:
        yield
    finally:
        _release(file)
        for path in missing:
            with suppress(OSError):  # something came of it
                path.rmdir()


def writer(folder: str | Path) -> str | None:
    """Who is at work on a folder, as `one_writer` says it; None when nobody is. Takes no lock."""
    file = Path(os.path.realpath(folder)) / LOCK
    try:
        with file.open(encoding="utf-8") as opened:
            owner = _owner(opened)
        return _in_use(owner, file.parent) if owner and _at_work(owner, file) else None
    except OSError:
        return None
    except LabError as unknown:
        return str(unknown)


def _take(file: Path) -> None:
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            opened = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        except FileNotFoundError:  # the last owner has just removed the folder
            continue
        with opened:
            if not _is_first(opened, file):
                continue
            owner = _owner(opened)
            if owner and _at_work(owner, file):
                raise LabError(_in_use(owner, file.parent))
            if owner:
                warnings.warn(
                    f"The process that was at work on {file.parent} (number {owner['pid']}, since {_clock(owner)}) is "
                    f"gone; its lock is taken over.",
                    stacklevel=4,
                )
            opened.seek(0)
            opened.truncate()
            json.dump(_this_process(), opened)
            return


def _release(file: Path) -> None:
    """Remove the lock when it is this process's: not a child's of it, and not one that was taken over."""
    with suppress(OSError), file.open("r+", encoding="utf-8") as opened:
        if _is_first(opened, file) and _owner(opened) == _this_process():
            file.unlink()


def _is_first(opened: TextIO, file: Path) -> bool:
    """Wait until no other process decides who owns the lock; False when the file was removed meanwhile."""
    with suppress(OSError):  # a file system that knows no such locks: two may then take over one dead owner's
        fcntl.flock(opened, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "created": psutil.Process().create_time(), "host": socket.gethostname()}


def _owner(opened: TextIO) -> dict[str, Any] | None:
    """What the lock says; None for one that was never written whole."""
    try:
        owner = json.load(opened)
        return {"pid": int(owner["pid"]), "created": float(owner["created"]), "host": str(owner["host"])}
    except (ValueError, KeyError, TypeError):
        return None


def _at_work(owner: dict[str, Any], file: Path) -> bool:
    if owner["host"] != socket.gethostname():
        raise LabError(
            f"{file.parent} is in use: process {owner['pid']} on {owner['host']}, since {_clock(owner)}, is at work on "
            f"it. Whether it still runs cannot be seen from here; if it does not, remove {file}."
        )
    try:
        process = psutil.Process(owner["pid"])
        same = abs(process.create_time() - owner["created"]) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _in_use(owner: dict[str, Any], folder: Path) -> str:
    if owner["pid"] == os.getpid():
        return f"{folder} is in use: this process is at work on it already. Finish that run, or close() it, first."
    return (
        f"{folder} is in use: another process (number {owner['pid']}, since {_clock(owner)}) is at work on it. Wait "
        f"until it has ended, or stop it."
    )


def _clock(owner: dict[str, Any]) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(owner["created"]))
