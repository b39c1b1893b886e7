import errno
import io
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from labkit.errors import LabError
from labkit.files import read_jsonl
from labkit.training import checkpoints
from labkit.training.checkpoints import Checkpoints, open_metrics_log
from labkit.training.loop import fit
from tests.tiny import Counting, TinyModel, tiny_config, tiny_objective, weights_hash


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_shared_weights_are_written_once_and_come_back_shared(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    first, second = Tied(), Tied()
    Checkpoints(tmp_path / "c").save(1, first, {}, {"step": 1})
    saved = Checkpoints(tmp_path / "c").latest()
    assert saved is not None
    saved.load_model(second)
    assert torch.equal(first.head.weight, second.head.weight) and second.head.weight is second.embedding.weight


@pytest.mark.parametrize(
    "hindered",
    ["training.checkpoints.save_model", "training.checkpoints.save_file", "files.fsync_path", "files.os.rename"],
)
def test_disk_full_while_a_checkpoint_is_written_loses_nothing(tmp_path, monkeypatch, hindered):
    """The run stops in words; the checkpoint before is whole; with room again it ends with the same weights."""
    config, model = tiny_config(), TinyModel()
    with pytest.raises(LabError, match="The disk is full: .*step-00000004 could not be written"):
        for record in fit(model, Counting(), tiny_objective, config, folder=tmp_path):
            if record.step == 3:
                monkeypatch.setattr(f"labkit.{hindered}", full_disk)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    resumed = TinyModel(seed=4)
    assert [r.step for r in fit(resumed, Counting(), tiny_objective, config, folder=tmp_path)] == [3, 4, 5, 6]
    straight = TinyModel()
    list(fit(straight, Counting(), tiny_objective, config))
    assert weights_hash(resumed) == weights_hash(straight)


class NearlyFull(io.FileIO):
    """A file on a disk that takes `room` bytes more."""

    room = 0

    def write(self, data):
        if not NearlyFull.room:
            full_disk()
        taken = min(len(data), NearlyFull.room)
        NearlyFull.room -= taken
        return super().write(data[:taken])


def test_disk_full_in_the_journal(tmp_path, monkeypatch):
    """The run stops in words, in the middle of a line, and goes on from the step before it."""
    monkeypatch.setattr(checkpoints, "open_to_append", lambda path: NearlyFull(path, "ab"))
    NearlyFull.room, config = 10_000, tiny_config(checkpoint_every=1)
    with pytest.raises(LabError, match="The disk is full: .*metrics.jsonl could not be written"):
        for record in fit(TinyModel(), Counting(), tiny_objective, config, folder=tmp_path):
            if record.step == 3:
                NearlyFull.room = 20
    monkeypatch.undo()
    torn = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    assert len(torn) == 4 and len(torn[-1]) == 20
    assert [r.step for r in fit(TinyModel(), Counting(), tiny_objective, config, folder=tmp_path)] == [4, 5, 6]
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_stands_on_records_that_are_on_the_disk(tmp_path, monkeypatch):
    """Every record up to a checkpoint's step is brought to the disk before the checkpoint has its name."""
    synced: list[str] = []
    monkeypatch.setattr(checkpoints, "fsync_path", lambda path: synced.append(f"{len(read_jsonl(path))} records"))
    rename = os.rename

    def named(old, new):
        synced.append(Path(new).name)
        rename(old, new)

    monkeypatch.setattr(os, "rename", named)
    list(fit(TinyModel(), Counting(), tiny_objective, tiny_config(), folder=tmp_path))
    assert synced[:6] == [
        "2 records", "step-00000002", "4 records", "step-00000004", "6 records", "step-00000006"
    ]  # fmt: skip


def test_records_that_a_power_cut_took_are_missed_aloud(tmp_path):
    config = tiny_config()
    next(record for record in fit(TinyModel(), Counting(), tiny_objective, config, folder=tmp_path) if record.step == 5)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + b"\0" * 40)
    with pytest.warns(UserWarning, match="metrics.jsonl lacks 2 of the 5 steps .* .the first is step 4"):
        list(fit(TinyModel(), Counting(), tiny_objective, config, folder=tmp_path))


def test_leftovers_of_a_kill_are_removed(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(2, TinyModel(), {}, {"step": 2})
    (tmp_path / ".step-00000004.labkit-partial").mkdir()
    (tmp_path / ".step-00000004.labkit-partial" / "model.safetensors").write_text("half")
    latest = kept.latest()
    assert latest is not None and latest.state["step"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_none_is_whole(tmp_path):
    kept = Checkpoints(tmp_path)
    assert kept.latest() is None
    kept.save(1, TinyModel(), {}, {"step": 1})
    (kept.checkpoint_path(1) / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="step-00000001 is damaged"):
        assert kept.latest() is None
    kept.save(1, TinyModel(), {}, {"step": 1})  # takes the damaged one's place
    assert kept.latest() is not None


def test_journal_drops_what_is_made_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open_metrics_log(path, 0) as log:
        for step in (1, 2, 3):
            log.write({"step": step})
        assert len(list(read_jsonl(path))) == 3  # at once, not at the end
    with path.open("a") as file:
        file.write('{"step": 4')
    with open_metrics_log(path, 2) as log:
        log.write({"step": 3, "again": True})
    assert list(read_jsonl(path)) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_a_line_of_the_journal_that_is_no_record_is_said(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n3\n{"stop": 2}\n["step"]\n{"step": "4"}\n{"step": 2}\n')
    with pytest.warns(UserWarning, match="metrics.jsonl: 4 of its lines are not step records and are skipped"):
        with open_metrics_log(path, 2):
            pass
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]
