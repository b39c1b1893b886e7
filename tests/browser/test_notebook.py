"""The viewers in a notebook, in a JupyterLab that runs on this machine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import ROOT, Opened, Server, answered, free_port

NOTEBOOK = "12_look_compare_choose.ipynb"


@pytest.fixture
def jupyter(tmp_path: Path) -> Iterator[Server]:
    """JupyterLab in a folder that holds the notebook, down to the last of its viewers; nbmake executes the rest."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = json.loads((ROOT / "notebooks" / NOTEBOOK).read_text(encoding="utf-8"))
    last = max(at for at, cell in enumerate(notebook["cells"]) if "TextsViewer(" in "".join(cell["source"]))
    notebook["cells"] = notebook["cells"][: last + 1]
    (folder / NOTEBOOK).write_text(json.dumps(notebook), encoding="utf-8")
    port = free_port()
    options = ["--no-browser", "--allow-root", f"--port={port}", f"--ServerApp.root_dir={folder}"]
    options += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--LabApp.news_url="]
    started = Server([sys.executable, "-m", "jupyterlab", *options], port, tmp_path / "jupyter.log")
    yield from answered(started, "/lab")


@pytest.mark.slow
def test_the_viewers_show_in_jupyterlab(jupyter: Server, opened: Opened):
    page = opened(f"{jupyter.url}/lab/tree/{NOTEBOOK}?reset")
    page.get_by_role("heading", name="Look, compare, choose").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)  # asked before, it may run nothing
    page.get_by_text("Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    last, failed = page.locator(".jp-CodeCell .jp-InputPrompt").last, page.locator("[data-mime-type*=error]").first
    ended = last.filter(has_text=re.compile(r"\[\d+\]:"))
    ended.or_(failed).first.wait_for(timeout=240_000)  # torch is loaded meanwhile
    wrong = page.locator("[data-mime-type*=stderr], [data-mime-type*=error]").all_inner_texts()
    heads = page.locator("labkit-attention .grid button")
    expect(heads, f"the notebook said {wrong}").to_have_count(8)
    heads.nth(2).click()
    expect(heads.nth(2)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("labkit-texts .column")).to_have_count(3, timeout=120_000)
    without = page.locator("labkit-attention [data-panel=without]")
    expect(without.locator("tbody tr").first).to_be_visible(timeout=240_000)  # asked while all cells ran
    expect(page.locator("labkit-attention .notice")).to_be_hidden()
