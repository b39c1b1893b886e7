"""Batches made ahead by worker processes, while a GPU computes.

Making a batch of documents is Python's work, tens of milliseconds a batch: on a GPU longer than the step itself. A
source without state gives the batch of any step to any process, so workers make those of the next steps meanwhile, and
the batches are the same. On a CPU the workers would take the cores from the model, so there each step makes its own.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from labkit.errors import LabError
from labkit.launcher import local_process_count
from labkit.training.config import BatchSource

MAX_WORKERS = 8
"""More were never needed: 8 make a batch of 60 ms every 8 ms."""


class _BatchOfStep(Dataset[Any]):
    """Item n is the source's batch n, or the LabError that it raised."""

    def __init__(self, source: BatchSource):
        self.source = source

    def __getitem__(self, step: int) -> Any:
        try:
            return self.source.next_batch(None, step)
        except LabError as error:
            return error


class BatchPrefetcher:
    """The batches of a source without state, made ahead in `num_workers` forked processes. total: how many batches
    there are in all. Leave it with `close`.
    """

    def __init__(self, source: BatchSource, total: int, num_workers: int, pin_memory: bool = False):
        self.source, self.total, self.num_workers, self.pin_memory = source, total, num_workers, pin_memory
        self.batches: Iterator[Any] | None = None
        self.next_index = 0

    def next_batch(self, unused_model: Any, step: int) -> Any:
        """The batch of this number; in order they come from the workers. Raises what the source raises."""
        if self.batches is None or step != self.next_index:
            self.batches = self._start(step)
        batch, self.next_index = next(self.batches), step + 1
        if isinstance(batch, LabError):
            raise batch
        return batch

    def close(self) -> None:
        """End the workers."""
        self.batches = None

    def _start(self, first: int) -> Iterator[Any]:
        loader = DataLoader(
            _BatchOfStep(self.source),
            batch_size=None,
            sampler=range(first, self.total),
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=self.pin_memory,
            worker_init_fn=_ignore_signals,
            multiprocessing_context="fork",  # a source holds functions, which cannot be pickled
            generator=torch.Generator(),  # its own, so that a step's random numbers stay those of the step
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)  # the workers compute on the CPU alone
            return iter(loader)


def prefetch_batches(source: BatchSource, total: int, device: torch.device) -> BatchSource | BatchPrefetcher:
    """What `fit` takes its batches from: the source itself on a CPU and where batches depend on the model, else workers
    that ask it ahead.
    """
    if device.type == "cpu" or not getattr(source, "stateless", False) or not hasattr(os, "fork"):
        return source
    workers = max(1, min(MAX_WORKERS, _usable_cores() // local_process_count() - 1))
    return BatchPrefetcher(source, total, workers, pin_memory=device.type == "cuda" and torch.cuda.is_available())


def _usable_cores() -> int:
    """How many cores this process may run on: a batch system or container may give it a few of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """The main process decides when to stop, and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
