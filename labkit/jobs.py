"""Runs in processes of their own: they go on when whoever started them is gone, and can be stopped and gone on with.

jobs = Jobs("runs")
jobs.start("mine", ["run", "--preset", "smoke", "--out", "runs/mine"])
jobs.running("mine"), jobs.stop("mine"), jobs.log("mine")
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from labkit.errors import LabError
from labkit.files import write_json

LOG_BYTES = 4000


class Jobs:
    """The processes that make the runs in a folder, by the runs' names; what is known of them is on the disk."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Begin `labkit ARGUMENTS` for the run `name`. Raises LabError when that run has a process already."""
        if self.running(name):
            raise LabError(f"{name} is being made already. Stop it first, or choose another name.")
        self._file(name, "log").parent.mkdir(parents=True, exist_ok=True)
        with self._file(name, "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "labkit", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # ctrl-C in the app's terminal is not meant for it
            )
        created = psutil.Process(process.pid).create_time()
        write_json(self._file(name, "json"), {"pid": process.pid, "created": created, "arguments": list(arguments)})

    def running(self, name: str) -> bool:
        """Whether the run's process is at work."""
        return self._process(name) is not None

    def stop(self, name: str) -> None:
        """Ask the run's process to stop after its step, so that the run can be gone on with; nothing when there is
        none.
        """
        process = self._process(name)
        if process is not None:
            os.kill(process.pid, signal.SIGINT)

    def log(self, name: str) -> str:
        """The last of what the process has said, the newest state of each progress bar only."""
        file = self._file(name, "log")
        if not file.is_file():
            return ""
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - LOG_BYTES))
            text = log.read().decode("utf-8", "ignore")  # a character may be cut where it begins
        return "\n".join(line.rpartition("\r")[2] for line in text.rstrip("\n").split("\n"))

    def _process(self, name: str) -> psutil.Process | None:
        file = self._file(name, "json")
        if not file.is_file():
            return None
        known = json.loads(file.read_text(encoding="utf-8"))
        try:
            process = psutil.Process(known["pid"])
            same = abs(process.create_time() - known["created"]) < 1  # else the number was given to another since
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def _file(self, name: str, ending: str) -> Path:
        return self.folder / ".jobs" / f"{name}.{ending}"
