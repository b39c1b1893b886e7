"""What is kept in files is what was measured, and is measured again where it is of something else."""

import numpy as np
import pytest

from labkit.files import DamagedFile
from labkit.studies.measuring import kept_arrays


def test_arrays_are_kept_under_their_key(tmp_path):
    file, made = tmp_path / "sub" / "x.safetensors", []

    def make():
        made.append(1)
        return {"scores": np.arange(6.0).reshape(2, 3).T, "gold": np.array([1.5])}  # not in the order of memory

    first = kept_arrays(file, {"policy": "a", "prompts": 3}, make)
    again = kept_arrays(file, {"prompts": 3, "policy": "a"}, make)
    assert len(made) == 1 and again.keys() == first.keys()
    assert np.array_equal(again["scores"], [[0, 3], [1, 4], [2, 5]]) and np.array_equal(
        first["scores"], again["scores"]
    )
    kept_arrays(file, {"policy": "b", "prompts": 3}, make)
    assert len(made) == 2


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(DamagedFile, match="x.safetensors cannot be read.*Remove it to measure again"):
        kept_arrays(tmp_path / "x.safetensors", {}, dict)
