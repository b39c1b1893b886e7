"""Shards on the disk, as one process reads them; test_engines.py has several."""

import pytest
import torch
from safetensors.torch import save_file

from labkit.errors import LabError
from labkit.training.sharding import read_shards


def test_one_process_reads_what_several_have_written(tmp_path):
    save_file({"weight": torch.arange(3.0)}, tmp_path / "model-00001-of-00001.safetensors")
    into = {"weight": torch.zeros(3)}
    read_shards(tmp_path, into)
    assert into["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("saved", "words"),
    [({}, "Missing key in checkpoint state_dict: weight"), ({"other": torch.ones(3)}, "Missing key"), (None, "header")],
)
def test_shards_that_cannot_be_read_are_named(saved, words, tmp_path):
    file = tmp_path / "model-00001-of-00001.safetensors"
    if saved is None:
        file.write_bytes(b"no safetensors")
    elif saved:
        save_file(saved, file)
    with pytest.raises(LabError, match=f"Process 0 cannot read or write its shard of {tmp_path}: .*{words}"):
        read_shards(tmp_path, {"weight": torch.zeros(3)})
