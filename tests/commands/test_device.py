"""The option --device: where it may stand, what it reaches, and what is said to go on with."""

import os

import pytest

from labkit.commands.device import take_device_option
from labkit.errors import LabError
from labkit.machine import default_device
from labkit.reporting.terminal import _command


@pytest.mark.parametrize("given", [["--device", "cpu", "run", "--resume"], ["run", "--device=cpu", "--resume"]])
def test_it_stands_anywhere_and_chooses_for_all_that_follows(given, monkeypatch):
    monkeypatch.setenv("LABKIT_DEVICE", "")
    assert take_device_option(given) == ["run", "--resume"]
    assert os.environ["LABKIT_DEVICE"] == "cpu" == default_device().type
    assert _command(["run", "--resume"]) == "labkit run --resume --device cpu"


def test_what_is_refused_leaves_the_choice_as_it_was(monkeypatch):
    monkeypatch.setenv("LABKIT_DEVICE", "cpu")
    for given in ("tpu", "cpu:0", ""):
        with pytest.raises(LabError, match="no device|needs a value"):
            take_device_option(["chat", "--device", given])
        assert os.environ["LABKIT_DEVICE"] == "cpu"
