"""How the page is served: to browsers on this machine, with a run's report as a page of its own.

Between the browser and Gradio stands `RequestGuard`. It puts the page's script before Gradio's, which asks for the
language at once, and it refuses, in words, what no handler could answer: text with half a character in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labkit.errors import LabError
from labkit.reporting.page import render_run_report
from labkit.ui.lab import Lab
from labkit.ui.proxies import no_proxies
from labkit.ui.shell import CSS, HEAD, THEME, words

LARGEST = 1_000_000
"""Bytes that a question of a page may have."""
HALF = "This text has a broken character (a lone surrogate), which cannot be stored. Type it again."
SCRIPTS = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class RequestGuard:
    """Puts `HEAD` into the page, and answers what is too large or no text with a line instead of passing it on."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/":
            await self._page(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            await self._question(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gradio's page with our script before all others."""
        start: Message = {}
        parts: list[bytes] = []

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                body = b"".join(parts).replace(b"<head>", b"<head>" + HEAD.encode(), 1)
                headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
                await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
                await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, keep)

    async def _question(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what a page asks when it is text that can be kept, and not too long."""
        if b"json" not in dict(scope["headers"]).get(b"content-type", b"json"):  # a file, say
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more and len(body) <= LARGEST:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        said = rejection_reason(body)
        if said:
            await JSONResponse({"detail": said, "error": said}, 422)(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, again, send)


def rejection_reason(body: bytes) -> str:
    """Why a question of a page, as JSON, is not passed on; empty for one that is."""
    if len(body) > LARGEST:
        return f"This is too long: a page may ask at most {LARGEST:,} bytes at once."
    try:
        json.dumps(json.loads(body or b"null"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return HALF
    except RecursionError:
        return "This is nested too deeply to be read."
    except ValueError:  # no JSON, which is Gradio's to refuse
        return ""
    return ""


def report_routes(lab: Lab) -> list[Route]:
    """The page of a run's report, at report/NAME."""

    def report(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            page = render_run_report(lab.path(name))
        except LabError as error:
            return PlainTextResponse(str(error), 404)
        return HTMLResponse(page, headers=sandbox_headers(page))

    return [Route("/report/{name}", report, methods=["GET"])]


def sandbox_headers(page_html: str) -> dict[str, str]:
    """Headers under which a page runs its own scripts and nothing else, fetches nothing, and is no part of our site."""
    digests = [hashlib.sha256(script.encode()).digest() for script in SCRIPTS.findall(page_html)]
    known = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {known}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-popups"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def serve(blocks: gr.Blocks, lab: Lab, **options: Any) -> None:
    """Open the page for browsers on this machine until ctrl-C; nothing leaves it. Raises LabError for a port in use."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        with no_proxies():
            _, address, _ = blocks.queue(default_concurrency_limit=1).launch(
                theme=THEME,
                css=CSS,
                i18n=words,
                share=False,
                show_error=True,  # what Gradio refuses of a question is said, too
                quiet=True,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                max_file_size=LARGEST,
                prevent_thread_lock=True,
                app_kwargs={"routes": report_routes(lab), "middleware": [Middleware(RequestGuard)]},
                **options,
            )
    except OSError as error:
        if "port" not in str(error):
            raise LabError(f"The app cannot be served: {error}") from error
        place = (
            "The ports from 7860 on are" if options.get("server_port") is None else f"Port {options['server_port']} is"
        )
        raise LabError(f"{place} in use, or may not be used. Choose another one: --port") from error
    print(f"The app runs at {address} (Ctrl-C stops it).", flush=True)
    blocks.block_thread()
