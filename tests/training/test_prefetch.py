"""Batches made ahead are those that the source makes, and end with the training that reads them."""

import os
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from labkit.errors import LabError
from labkit.text.sources import RandomChunkSource, StatelessSource
from labkit.training.engine import Engine
from labkit.training.loop import fit
from labkit.training.prefetch import MAX_WORKERS, BatchPrefetcher, prefetch_batches
from tests.devices import use_device
from tests.tiny import Counting, TinyModel, tiny_config, tiny_objective, weights_hash

CUDA = torch.device("cuda")


def chunks() -> RandomChunkSource:
    return RandomChunkSource(torch.arange(999).numpy(), batch_size=4, length=8, seed=5)


class CountingAhead(StatelessSource, Counting):
    """`Counting`, which says that it has no state."""


class Pids(StatelessSource):
    """Who makes a batch."""

    def next_batch(self, model: Any, step: int) -> int:
        return os.getpid()


def workers() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_the_batches_are_the_sources_in_order_from_any_step():
    ahead, alone = BatchPrefetcher(chunks(), 12, num_workers=2), chunks()
    for step in [*range(5), 9, 10, 11, 2, 3]:
        for found, expected in zip(ahead.next_batch(None, step), alone.next_batch(None, step), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    ahead.close()


def test_other_processes_make_them_until_it_is_closed():
    before, ahead = workers(), BatchPrefetcher(Pids(), 100, num_workers=2)
    makers = {ahead.next_batch(None, step) for step in range(6)}
    assert len(makers) == 2 and os.getpid() not in makers and makers <= workers()
    ahead.close()
    assert workers() == before


def test_random_numbers_of_the_step_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ahead = BatchPrefetcher(chunks(), 4, num_workers=1)
    ahead.next_batch(None, 0)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    ahead.close()


def test_an_error_is_raised_in_its_own_words():
    class Broken(StatelessSource):
        def next_batch(self, model: Any, step: int) -> Any:
            raise LabError(f"Row {step} is no document.")

    ahead = BatchPrefetcher(Broken(), 9, num_workers=1)
    with pytest.raises(LabError, match=r"^Row 0 is no document\.$"):
        ahead.next_batch(None, 0)
    ahead.close()


def test_workers_are_for_a_gpu_and_a_source_without_state(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    source, rollouts = chunks(), Counting()
    assert prefetch_batches(source, 9, torch.device("cpu")) is source
    assert prefetch_batches(rollouts, 9, CUDA) is rollouts  # says nothing of its state
    found = prefetch_batches(source, 9, CUDA)
    assert isinstance(found, BatchPrefetcher) and found.num_workers == MAX_WORKERS
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for without in (False, True):  # the machine has more cores than this process may use; macOS does not tell
        if without:
            monkeypatch.delattr(os, "sched_getaffinity")
            monkeypatch.setattr(os, "cpu_count", lambda: 8)
        else:
            monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
        shared = prefetch_batches(source, 9, CUDA)
        assert isinstance(shared, BatchPrefetcher) and shared.num_workers == 3


@pytest.mark.parametrize(("source", "calls"), [(CountingAhead(), 0), (Counting(), 6)])
def test_weights_are_gathered_only_for_a_source_that_may_read_them(source, calls, monkeypatch):
    """Counted on one process, where `call_with_weights` gathers nothing."""
    given, call_with_weights = [], Engine.call_with_weights

    def counted(engine, call, *rest):
        given.append(rest)
        return call_with_weights(engine, call, *rest)

    monkeypatch.setattr(Engine, "call_with_weights", counted)
    list(fit(TinyModel(), source, tiny_objective, tiny_config()))
    parts = tiny_config().gradient_accumulation_steps
    assert len(given) == calls * parts and source.asked == list(range(6 * parts))


def test_training_stopped_and_resumed_on_a_gpu_reads_the_same_batches(tmp_path):
    def trained(folder: Path | None, *stops: int) -> str:
        before = workers()
        for stop in [*stops, 6]:
            model = TinyModel(dropout=0.1).to(device)
            for record in fit(model, CountingAhead(), tiny_objective, tiny_config(), folder=folder):
                assert len(workers() - before) >= 1
                if record.step == stop:
                    break
            assert workers() == before
        return weights_hash(model)

    with use_device("simulated cuda") as device:
        assert trained(None) == trained(tmp_path / "run", 1, 3)
