"""A real browser, and the app as `python app.py` starts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.workers import free_port

ROOT = Path(__file__).resolve().parents[2]
STARTS = 90
"""Seconds that a server may take to answer, on a machine that does something else too."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        message = "there is no Chromium here: apt-get install chromium"
        if os.environ.get("CI") == "true":  # where nothing is left out
            pytest.fail(message)
        pytest.skip(message)
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=options)
        yield started
        started.close()


class Server:
    """A process that serves pages on this machine."""

    def __init__(self, command: list[str], port: int, log: Path):
        self.port, self.url, self.log = port, f"http://127.0.0.1:{port}", log
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def wait(self, path: str = "/") -> Server:
        """Return when it answers. Fails with what it said when it has ended, or takes too long."""
        until = time.monotonic() + STARTS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url + path, timeout=5).close()
                return self
            except OSError:
                time.sleep(0.1)
        pytest.fail(f"it does not answer: {self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """As pulling the plug would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


class App(Server):
    """The app on the runs in a folder."""

    def __init__(self, runs: Path):
        port = free_port()
        self.runs = runs
        command = [sys.executable, str(ROOT / "app.py"), "--runs", str(runs), "--port", str(port)]
        super().__init__(command, port, runs.parent / f"app-{port}.log")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app on an empty folder of runs: what a newcomer sees."""
    folder = tmp_path_factory.mktemp("app") / "runs"
    folder.mkdir()
    started = App(folder)
    started.wait()
    yield started
    started.stop()


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Opens a page as somebody of their own: opened(url, locale="zh-CN", …).

    No page may have asked anything of another machine, or have failed in its scripts.
    """
    contexts, asked, broken = [], [], []

    def open_page(url: str, **options: object) -> Page:
        asked_for: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(**asked_for)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    outside = [url for url in asked if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))]
    assert not outside and not broken
