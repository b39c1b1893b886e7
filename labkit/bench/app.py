"""How long the app lets its user wait, in a real browser: from the command to the first page, from there to what a
model says, and from a click to the drawn attention of 64 tokens.

labkit bench app --json
"""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.paths import data_folder

TEXT = " ".join((["The", "dog", "saw", "the", "cat", "and", "the", "bird."] * 8)[:56])
"""64 tokens with the marks before and after it: 57 words of the world, a few of two tokens."""


def run(repeats: int = 3) -> dict[str, float]:
    """Medians in seconds over `repeats` starts of the app: {"first_page", "first_answer", "attention", "tokens"}.

    Raises LabError where there is no checkout, no Playwright or no Chromium.
    """
    app, chromium = data_folder().parent / "app.py", shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise LabError(
            "labkit bench app drives a browser: pip install -e '.[test]', apt-get install chromium."
        ) from None
    if not app.is_file() or chromium is None:
        raise LabError("labkit bench app needs a checkout with app.py, and Chromium: apt-get install chromium.")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        found = [_once(app, browser) for _ in range(repeats)]
        browser.close()
    return {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}


def _once(app: Path, browser: Any) -> dict[str, float]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with tempfile.TemporaryDirectory() as runs:
        start = time.perf_counter()
        command = [sys.executable, str(app), "--runs", runs, "--port", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return _timed(browser, f"http://127.0.0.1:{port}", start, server)
        finally:
            server.terminate()
            server.wait()


def _timed(browser: Any, url: str, start: float, server: subprocess.Popen[bytes]) -> dict[str, float]:
    while server.poll() is None and not _answers(url):
        time.sleep(0.05)
    page = browser.new_page()
    page.goto(url)
    page.get_by_role("tab").first.wait_for()
    shown = time.perf_counter()
    page.locator("labkit-attention .grid button").first.wait_for()
    answered = time.perf_counter()
    tokens = page.locator("labkit-attention .column.left .token")
    before = tokens.count()
    page.locator("#attention-text textarea").fill(TEXT)
    clicked = time.perf_counter()
    page.locator("#attention-look").click()
    page.wait_for_function(
        "n => document.querySelector('labkit-attention').shadowRoot.querySelectorAll('.left .token').length > n",
        arg=before,
    )
    drawn = time.perf_counter()
    found = {"first_page": shown - start, "first_answer": answered - shown, "attention": drawn - clicked}
    count = tokens.count()
    page.close()
    return {**found, "tokens": count}


def _answers(url: str) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(url, timeout=5).close()
        return True
    return False
