import errno
import json

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from labkit import checkpoints
from labkit.checkpoints import Checkpoints, disk_errors, journal, read_lines, write_json, write_model
from labkit.errors import LabError
from labkit.train import fit
from tests.tiny import Counting, TinyModel, tiny_config, tiny_objective, weights_hash


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_write_json_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "a.json"
    write_json(path, {"a": "é"})
    monkeypatch.setattr(checkpoints, "sync", full_disk)
    with pytest.raises(LabError, match="The disk is full: .*a.json could not be written"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_errors_of_safetensors_are_said_in_words_too(tmp_path):
    """What safetensors raises for a full disk is an exception of its own."""
    with pytest.raises(LabError, match="The disk is full"), disk_errors(tmp_path / "model.safetensors"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(LabError, match="b could not be written: .*Permission denied"), disk_errors(tmp_path / "b"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(LabError, match="could not be written"):
        write_json(tmp_path / "run" / "recipe.json", {})


def test_shared_weights_are_written_once_and_come_back_shared(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    first, second = Tied(), Tied()
    write_model(tmp_path / "model.safetensors", first)
    Checkpoints(tmp_path / "c").save(1, first, {}, {"step": 1})
    saved = Checkpoints(tmp_path / "c").latest()
    assert saved is not None
    saved.load_model(second)
    assert torch.equal(first.head.weight, second.head.weight) and second.head.weight is second.embedding.weight


@pytest.mark.parametrize("hindered", ["save_model", "save_file", "sync", "_digest"])
def test_disk_full_while_a_checkpoint_is_written_loses_nothing(tmp_path, monkeypatch, hindered):
    """The run stops in words; the checkpoint before is whole; with room again it ends with the same weights."""
    config, model = tiny_config(), TinyModel()
    with pytest.raises(LabError, match="The disk is full: .*step-00000004 could not be written"):
        for record in fit(model, Counting(), tiny_objective, config, folder=tmp_path):
            if record.step == 3:
                monkeypatch.setattr(checkpoints, hindered, full_disk)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    resumed = TinyModel(seed=4)
    assert [r.step for r in fit(resumed, Counting(), tiny_objective, config, folder=tmp_path)] == [3, 4, 5, 6]
    straight = TinyModel()
    list(fit(straight, Counting(), tiny_objective, config))
    assert weights_hash(resumed) == weights_hash(straight)


def test_disk_full_in_the_journal(tmp_path):
    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, text):
            full_disk()

    with pytest.raises(LabError, match="The disk is full: .*metrics.jsonl"), disk_errors(tmp_path / "metrics.jsonl"):
        Full(None).write("x")


def test_leftovers_of_a_kill_are_removed(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(2, TinyModel(), {}, {"step": 2})
    (tmp_path / "step-00000004.partial").mkdir()
    (tmp_path / "step-00000004.partial" / "model.safetensors").write_text("half")
    latest = kept.latest()
    assert latest is not None and latest.state["step"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_none_is_whole(tmp_path):
    kept = Checkpoints(tmp_path)
    assert kept.latest() is None
    kept.save(1, TinyModel(), {}, {"step": 1})
    (kept.at(1) / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="step-00000001 is damaged"):
        assert kept.latest() is None
    kept.save(1, TinyModel(), {}, {"step": 1})  # takes the damaged one's place
    assert kept.latest() is not None


def test_journal_drops_what_is_made_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with journal(path, 0) as write:
        for step in (1, 2, 3):
            write({"step": step})
        assert len(list(read_lines(path))) == 3  # at once, not at the end
    with path.open("a") as file:
        file.write('{"step": 4')
    with journal(path, 2) as write:
        write({"step": 3, "again": True})
    assert list(read_lines(path)) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_no_journal_no_lines(tmp_path):
    assert list(read_lines(tmp_path / "none.jsonl")) == []
