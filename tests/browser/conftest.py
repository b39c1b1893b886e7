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
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Error, Page, Request, expect, sync_playwright

from tests.workers import free_port

ROOT = Path(__file__).resolve().parents[2]
Started = TypeVar("Started", bound="Server")
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

    def wait(self, path: str) -> None:
        """Until it answers. Fails with what it said when it has ended, or takes too long."""
        until = time.monotonic() + STARTS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url + path, timeout=5).close()
                return
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


def answered(server: Started, path: str = "/") -> Iterator[Started]:
    """The server for as long as it is used, once it answers; stopped also when it does not."""
    try:
        server.wait(path)
        yield server
    finally:
        server.stop()


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
    yield from answered(started)


Opened = Callable[..., Page]
SIZE: Any = {"width": 1280, "height": 900}


class Watched:
    """Pages of which none may ask anything of another machine, or fail in its scripts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: list[str] = []

    def add(self, page: Page) -> Page:
        page.set_default_timeout(60_000)
        page.on("request", self._ask)
        page.on("pageerror", self._break)
        return page

    def leave(self, page: Page) -> None:
        page.remove_listener("request", self._ask)
        page.remove_listener("pageerror", self._break)

    def check(self) -> None:
        ours = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
        assert not [url for url in self.asked if not url.startswith(ours)] and not self.broken

    def _ask(self, request: Request) -> None:
        self.asked.append(request.url)

    def _break(self, error: Error) -> None:
        self.broken.append(str(error))


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Opens a page as somebody of their own: opened(url, locale="zh-CN", …)."""
    contexts, watched = [], Watched()

    def open_page(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": SIZE, **options})
        contexts.append(context)
        page = watched.add(context.new_page())
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    watched.check()


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[Page]:
    """The page that `visited` goes to addresses with."""
    context = browser.new_context(viewport=SIZE)
    yield context.new_page()
    context.close()


@pytest.fixture
def visited(window: Page) -> Iterator[Opened]:
    """Goes to an address as somebody who was never there, in the page that the test before had: visited(url,
    color_scheme="dark", …). Its scripts are compiled already, so this is a third cheaper than a new page.
    """
    watched = Watched()
    watched.add(window)

    def visit(url: str, viewport: Any = SIZE, color_scheme: Any = None) -> Page:
        window.set_viewport_size(viewport)
        window.emulate_media(color_scheme=color_scheme or "null")
        window.goto(url)
        return window

    yield visit
    watched.leave(window)
    window.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    window.context.clear_cookies()
    for other in window.context.pages:
        if other is not window:
            other.close()
    window.goto("about:blank")
    watched.check()
