"""Processes that train together, with the environment that a launcher gives them."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tests.engines", "tests.limited", "labkit.training.distributed", "torch._dynamo", "torch._inductor.compile_fx"]
)
"""Forks of a process that has imported these save the seconds of imports of each (of the last two, which the first
optimizer and the first compiled step import, too); nothing was computed in it.
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Worker:
    """`python -m module arguments` in a fork, to be asked as a subprocess.Popen is."""

    def __init__(self, module: str, arguments: Sequence[str], environment: dict[str, str]):
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        self._process = FORKS.Process(
            target=_execute, args=(module, list(arguments), environment, self._out, self._err), daemon=True
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has printed, once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        said, error = (file.read_text() if file.exists() else "" for file in (self._out, self._err))
        return said, error


def _execute(module: str, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start(module: str, arguments: Sequence[str], processes: int = 2, **environment: str) -> list[Worker]:
    """`python -m module` so many times, each with its rank in the environment variables that torchrun sets."""
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    quiet = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    started = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
        ranks = {**shared, **own} if processes > 1 else {}
        started.append(Worker(module, arguments, {**os.environ, **ranks, **quiet, **environment}))
    return started


def finish(started: Sequence[Worker], timeout: float = 300) -> list[str]:
    """What each has printed, once all have ended well; as soon as one of them fails, what it said."""
    until = time.monotonic() + timeout
    while any(process.poll() is None for process in started):
        failed = [process for process in started if process.poll()]
        if failed or time.monotonic() > until:
            for process in started:
                process.kill()
            assert failed, f"Not all of the processes have ended after {timeout} seconds."
            raise AssertionError(failed[0].communicate()[1][-3000:])
        time.sleep(0.01)
    said = [process.communicate() for process in started]
    for process, (_, error) in zip(started, said, strict=True):
        assert process.returncode == 0, error[-3000:]
    return [printed for printed, _ in said]
