"""Runs in processes of their own: they go on when whoever started them is gone, and can be stopped and resumed.

jobs = Jobs("runs")
jobs.start("mine", ["run", "--preset", "smoke", "--out", "runs/mine"])
jobs.is_running("mine"), jobs.stop("mine"), jobs.log("mine")
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from labkit.errors import LabError
from labkit.files import explain_write_errors, read_json, write_json
from labkit.runs.lock import find_live_process, process_identity

LOG_BYTES = 4000
MOST = 4
"""Processes at once: a machine that makes more runs than that makes none of them."""
NAME = re.compile(r"\w[\w.-]{0,60}")
"""What a new run may be called."""


RunName = str
"""The name of a run's folder."""


def check_run_name(name: Any) -> RunName:
    """The name of a run, once it is known to be no path to anything else. Raises LabError otherwise."""
    plain = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 120
    if not plain or name.startswith(".") or "/" in name or "\\" in name:
        raise LabError(f"{shorten_repr(name)} is not the name of a run.")
    return name


def check_new_run_name(name: Any) -> RunName:
    """A name for a new run, without the blanks around it. Raises LabError for one that a run may not have."""
    name = name.strip() if isinstance(name, str) else name
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise LabError(
            f"{shorten_repr(name)} is not a valid name for a run: use letters, digits, '-', '_' and '.', at most 61 "
            "characters."
        )
    return name


def shorten_repr(value: Any) -> str:
    """A value as a message shows it: as one line that is not too long."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def refuse_imports(arguments: Sequence[str]) -> None:
    """Raises LabError for --import, which runs the code of any file: a page must not be able to ask for that."""
    if any(argument.partition("=")[0] == "--import" for argument in arguments):
        raise LabError("--import runs the code of a file, so only the command line takes it. Start this run there.")


class Jobs:
    """The processes that make the runs in a folder, by the runs' names; what is known of them is on the disk.

    Every method raises LabError for a name that `check_run_name` refuses.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Begin `labkit ARGUMENTS` for the run `name`.

        Raises LabError for --import, when that run has a process already, when `MOST` are at work, and when nothing can
        be written.
        """
        refuse_imports(arguments)
        log_file = self._file(name, "log")
        if self.is_running(name):
            raise LabError(f"{name} is running already. Stop it first, or choose another name.")
        others = [other for other in self.names() if self.is_running(other)]
        if len(others) >= MOST:
            raise LabError(f"{len(others)} runs are running: {', '.join(others)}. Stop one of them, or wait.")
        with explain_write_errors(log_file):
            log_file.parent.mkdir(parents=True, exist_ok=True)
            with log_file.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "labkit", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # ctrl-C in the app's terminal is not meant for it
                )
        about = {**process_identity(psutil.Process(process.pid)), "arguments": list(arguments), "stopped": False}
        write_json(self._file(name, "json"), about)

    def names(self) -> list[str]:
        """The names of all runs that have, or had, a process."""
        return sorted(file.stem for file in self.folder.glob(".jobs/[!.]*.json"))

    def is_running(self, name: str) -> bool:
        """Whether the run's process is at work."""
        return self._process(name) is not None

    def stop(self, name: str) -> None:
        """Ask the run's process to stop after its step, so that the run can be resumed; nothing when there is none."""
        process = self._process(name)
        if process is not None:
            write_json(self._file(name, "json"), {**self._about(name), "stopped": True})
            os.kill(process.pid, signal.SIGINT)

    def stop_requested(self, name: str) -> bool:
        """Whether the run's last process was asked to stop."""
        return bool(self._about(name).get("stopped"))

    def arguments(self, name: str) -> list[str]:
        """What the run's last process was begun with; empty when it never had one."""
        return list(self._about(name).get("arguments", ()))

    def last_output_time(self, name: str) -> float:
        """When the run's last process said anything, as seconds since 1970; 0 when it never had one."""
        files = [file for file in (self._file(name, "log"), self._file(name, "json")) if file.is_file()]
        return max((file.stat().st_mtime for file in files), default=0.0)

    def log(self, name: str) -> str:
        """The last of what the process has said, the newest state of each progress bar only."""
        file = self._file(name, "log")
        if not file.is_file():
            return ""
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - LOG_BYTES))
            text = log.read().decode("utf-8", "ignore")  # a character may be cut where it begins
        return "\n".join(line.rpartition("\r")[2] for line in text.rstrip("\n").split("\n"))

    def move_records(self, name: str, new_name: str) -> None:
        """Let what is known of a run's process be known under another name; of a running one, nothing is."""
        for ending in ("log", "json"):
            file, target = self._file(name, ending), self._file(new_name, ending)
            if file.is_file():
                file.replace(target)

    def forget(self, name: str) -> None:
        """Drop what is known of a run's process."""
        for ending in ("json", "log"):
            self._file(name, ending).unlink(missing_ok=True)

    def _about(self, name: str) -> dict[str, Any]:
        """What is kept of a run's last process; empty where that is nothing, or nothing that can be read."""
        file = self._file(name, "json")
        try:
            known = read_json(file)
        except LabError:
            return {}
        return known if isinstance(known, dict) else {}

    def _process(self, name: str) -> psutil.Process | None:
        known = self._about(name)
        try:
            return find_live_process(known)
        except (KeyError, TypeError, ValueError):
            return None

    def _file(self, name: str, ending: str) -> Path:
        return self.folder / ".jobs" / f"{check_run_name(name)}.{ending}"
