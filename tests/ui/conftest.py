"""A lab for the tests of the tabs."""

import pytest

from labkit.runs.pipeline import run
from labkit.ui.lab import Lab
from tests.tiny_recipe import tiny_recipe


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Lab:
    """A lab with one finished run, `tiny`."""
    folder = tmp_path_factory.mktemp("runs")
    for _ in run(tiny_recipe(preset="smoke"), folder / "tiny"):
        pass
    return Lab(folder)
