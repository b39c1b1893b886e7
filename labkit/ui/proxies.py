"""An environment without its proxies, for as long as Gradio is imported and started.

Gradio makes a client when it is imported, which fails behind a proxy of a kind that it cannot use, and asks its own
address when it starts, which no proxy can know. What is started later (a run that reads a data set of the hub) has the
proxies again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@contextmanager
def no_proxies() -> Iterator[None]:
    """Forget the proxies of the environment for a while."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.lower() in PROXIES}
    try:
        yield
    finally:
        os.environ.update(kept)
