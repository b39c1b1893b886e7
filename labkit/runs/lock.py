"""One writer a folder: while a process makes a run, no other changes it. Whoever only reads takes no lock.

    with exclusive_lock(folder):
        ...

The owner holds a file lock (flock) on RUN/.lock as long as it is at work; the system drops it with the process. The
file says who that is: the process's number, when it began (a number is given again to another process), and its
machine. That is for messages, and decides where a file system knows no such locks. The lock of an owner that is gone
is taken over, and that is said.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from labkit.errors import LabError
from labkit.files import explain_write_errors

LOCK_FILE = ".lock"
CLOCK_TOLERANCE_SECONDS = 60.0
"""Seconds by which the time at which a process began may seem to move, where it is only known by the clock."""


@contextmanager
def exclusive_lock(folder: str | Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made when it is not there, and removed again when nothing came of it.

    Raises LabError when somebody holds it, when nobody knows whether they still do (their process is another
    machine's), and when the folder cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    file, owner = folder / LOCK_FILE, os.getpid()
    try:
        with explain_write_errors(folder):
            held = _take(file)
        with held:
            try:
                yield
            finally:
                if os.getpid() == owner:  # and no child that was forked inside the block
                    _release(held, file)
    finally:
        for path in missing if os.getpid() == owner else ():
            with suppress(OSError):  # something came of it
                path.rmdir()


def lock_holder(folder: str | Path) -> str | None:
    """Who is at work on a folder, as `exclusive_lock` says it; None when nobody is. Takes no lock."""
    file = Path(os.path.realpath(folder)) / LOCK_FILE
    try:
        with file.open(encoding="utf-8") as opened:
            owner = _owner(opened)
        return _in_use(owner, file.parent) if owner and _at_work(owner, file) else None
    except OSError:
        return None
    except LabError as unknown:
        return str(unknown)


def process_identity(process: psutil.Process) -> dict[str, Any]:
    """What tells a process from a later one of the same number: when it began, in seconds since 1970; on Linux, in
    ticks since which start of the machine, too, which stay as they are when the clock is set.
    """
    about: dict[str, Any] = {"pid": process.pid, "created": process.create_time()}
    with suppress(OSError, ValueError, IndexError):
        after_name = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        about["ticks"], about["boot"] = int(after_name[19]), _boot()
    return about


def find_live_process(identity: Mapping[str, Any]) -> psutil.Process | None:
    """The process that `process_identity` has told of, if it is at work. Raises TypeError or ValueError for what tells
    of none.
    """
    try:
        process = psutil.Process(identity["pid"])
        now = process_identity(process)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    if "ticks" in identity and "ticks" in now:
        same = (identity["ticks"], identity.get("boot")) == (now["ticks"], now["boot"])
    else:  # what an older labkit wrote, or another system
        same = abs(now["created"] - identity["created"]) < CLOCK_TOLERANCE_SECONDS
    return process if same else None


def _boot() -> str:
    """Which start of the machine this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _take(file: Path) -> TextIO:
    """The lock's file, opened, locked, and this process's."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            opened = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        except FileNotFoundError:  # the last owner has just removed the folder
            continue
        try:
            free = _lock(opened)
            if not _is_there(opened, file):  # its owner has just removed it
                opened.close()
                continue
            _claim(opened, file, free)
            return opened
        except BaseException:
            opened.close()
            raise


def _lock(opened: TextIO) -> bool:
    """Whether the file is locked for us; False when another holds it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # else a file system that knows no such locks: what is written in the file decides
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _is_there(opened: TextIO, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _claim(opened: TextIO, file: Path, free: bool) -> None:
    """Write into the lock that it is ours. Raises LabError when it is another's, and leaves none that says nothing."""
    owner = _owner(opened)
    if not free or (owner and _at_work(owner, file)):
        raise LabError(_in_use(owner, file.parent))
    try:
        opened.seek(0)
        opened.truncate()
        json.dump({**process_identity(psutil.Process()), "host": socket.gethostname()}, opened)
        opened.flush()
    except OSError:
        with suppress(OSError):
            file.unlink()
        raise
    if owner:
        warnings.warn(
            f"The process that was working on {file.parent} (PID {owner['pid']}, since {_clock(owner)}) has ended; its "
            "lock is taken over.",
            stacklevel=6,
        )


def _release(held: TextIO, file: Path) -> None:
    """Remove the lock's file; one that was moved away with its folder says nothing any more."""
    with suppress(OSError):
        if _is_there(held, file):
            file.unlink()
        else:
            os.ftruncate(held.fileno(), 0)


def _owner(opened: TextIO) -> dict[str, Any] | None:
    """What the lock says; None for one that was never written whole."""
    try:
        owner = json.load(opened)
        known = {"pid": int(owner["pid"]), "created": float(owner["created"]), "host": str(owner["host"])}
        return {**known, **{name: owner[name] for name in ("ticks", "boot") if name in owner}}
    except (ValueError, KeyError, TypeError):
        return None


def _at_work(owner: dict[str, Any], file: Path) -> bool:
    if owner["host"] != socket.gethostname():
        raise LabError(
            f"{file.parent} is in use: process {owner['pid']} on {owner['host']}, since {_clock(owner)}, is working on "
            f"it. Whether it still runs cannot be seen from here; if it does not, remove {file}."
        )
    return find_live_process(owner) is not None


def _in_use(owner: dict[str, Any] | None, folder: Path) -> str:
    if owner is None:
        return f"{folder} is in use: another process is working on it. Wait until it has ended, or stop it."
    if owner["pid"] == os.getpid():
        return f"{folder} is in use: this process is working on it already. Finish that run, or close() it, first."
    return (
        f"{folder} is in use: another process (PID {owner['pid']}, since {_clock(owner)}) is working on it. Wait until "
        "it has ended, or stop it."
    )


def _clock(owner: dict[str, Any]) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(owner["created"]))
