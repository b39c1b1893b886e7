"""What the notebooks say of each other."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_the_list_of_all(path):
    """Their numbers have gaps, so each says which there are."""
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    linked = re.findall(r"\[\d\d [^]]+\]\((.+?\.ipynb)\)", first)
    assert linked == [other.name for other in NOTEBOOKS if other != path]
    assert re.findall(r"\*\*(\d\d) ", first) == [path.name[:2]]
