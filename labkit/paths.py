"""Where the files that come with labkit are, and where the notebooks' runs go."""

import sys
from pathlib import Path

from labkit.errors import LabError


def data_folder() -> Path:
    """The ``data/`` folder: of the checkout when there is one, else what the wheel installed.

    Raises LabError when neither holds ``world/``.
    """
    places = (Path(__file__).resolve().parents[1] / "data", Path(sys.prefix) / "share" / "labkit" / "data")
    for place in places:
        if (place / "world").is_dir():
            return place
    looked = " or ".join(str(place) for place in places)
    raise LabError(f"labkit's data/world folder is not in {looked}; reinstall labkit, or run from a checkout.")


def demo_folder() -> Path:
    """The folder of the finished run that comes with labkit; see `labkit.runs.shipped`."""
    return data_folder() / "demo"


def runs_folder() -> Path:
    """Where runs are kept: runs/ in the working directory, or beside it for a notebook, which works in notebooks/."""
    return Path("..") / "runs" if Path.cwd().name == "notebooks" else Path("runs")
