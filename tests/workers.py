"""Processes that train together, started as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(module: str, arguments: Sequence[str], processes: int = 2, **environment: str) -> list[subprocess.Popen]:
    """`python -m module` so many times, each with its rank in the environment variables that torchrun sets."""
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    quiet = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    started = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
        command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
        ranks = {**shared, **own} if processes > 1 else {}
        env: Mapping[str, str] = {**os.environ, **ranks, **quiet, **environment}
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return started


def finish(started: Sequence[subprocess.Popen], timeout: float = 300) -> list[str]:
    """What each has printed, once all have ended well."""
    said: list[Any] = []
    for process in started:
        said.append(process.communicate(timeout=timeout))
    for process, (_, error) in zip(started, said, strict=True):
        assert process.returncode == 0, error[-3000:]
    return [printed for printed, _ in said]
