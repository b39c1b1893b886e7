"""Where labkit finds its own files."""

import sys
from pathlib import Path

import pytest

from labkit import paths
from labkit.errors import LabError


def test_a_checkout_uses_its_own_data_folder():
    assert paths.data_folder() == Path(paths.__file__).resolve().parents[1] / "data"


def test_an_installed_wheel_uses_the_shared_folder(tmp_path, monkeypatch):
    (tmp_path / "share/labkit/data/world").mkdir(parents=True)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages/labkit/paths.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert paths.data_folder() == tmp_path / "share/labkit/data"


def test_missing_data_is_said_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "labkit/paths.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(LabError, match="reinstall labkit"):
        paths.data_folder()
