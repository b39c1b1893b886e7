"""The processes of `labkit bench align`: each trains one stage with one library, some steps at a time, when told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil

from labkit.errors import LabError


class Turn(NamedTuple):
    """What some steps took, on average: seconds by the clock, and seconds of the processor's time, all threads."""

    seconds: float
    processor_seconds: float


class TrainingDone(Exception):
    """Raised out of the training loop of a process that is told to end."""


class TurnTaker:
    """In a training process: counts steps, and after those that were asked for reports and waits to be asked again.

    warm_up: steps that are taken first, and not reported. base: resident bytes before anything was loaded.
    """

    def __init__(self, warm_up: int, base: int):
        self.asked, self.left, self.base = warm_up, warm_up, base
        self.warm = False
        self.start = self._now()
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a trainer prints is not an answer

    def step_done(self) -> None:
        """Called after each step. Raises TrainingDone when no more are wanted."""
        self.left -= 1
        if self.left:
            return
        taken = [(after - before) / self.asked for before, after in zip(self.start, self._now(), strict=True)]
        self._answer(taken if self.warm else "ready")
        self.warm = True
        self.asked = self.left = int(sys.stdin.readline() or 0)
        if not self.asked:
            from labkit.machine import peak_memory_mb

            peak = peak_memory_mb()
            self._answer({"peak_mb": round(peak), "training_mb": round(peak - self.base / 1e6)})
            raise TrainingDone
        self.start = self._now()

    def _answer(self, found: Any) -> None:
        print(json.dumps(found), file=self.answers, flush=True)

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


class TrainingProcess:
    """In the bench: one such process. Leave it with `end` or `close`."""

    def __init__(self, name: str, arguments: list[str], path: list[Path]):
        """arguments: of `labkit.bench.align_worker`. path: folders in which it looks for modules first."""
        self.name = name
        self.errors: IO[bytes] = tempfile.TemporaryFile()
        folders = [*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "labkit.bench.align_worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), "TOKENIZERS_PARALLELISM": "false"},
        )

    def wait_until_ready(self) -> None:
        """Returns after the first steps. Raises LabError when the process ends before."""
        self._answer()

    def take(self, steps: int) -> Turn:
        """Let it take so many steps. Raises LabError when it ends instead."""
        self._ask(steps)
        return Turn(*self._answer())

    def end(self) -> dict[str, int]:
        """Let it end; its peak memory in MB: {"peak_mb", "training_mb"}, the latter beyond that of the imports."""
        self._ask(0)
        memory = self._answer()
        self.process.wait()
        self.errors.close()
        return memory

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def _ask(self, steps: int) -> None:
        assert self.process.stdin is not None
        try:
            print(steps, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace")[-2000:]
        raise LabError(f"{self.name}: the training process ended with exit code {code}: {said}")


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return psutil.Process().memory_info().rss
