"""Gradio, imported in half the time: without the stub files for editors (.pyi) that it writes of its components, anew
at each import.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def no_gradio_stub_files() -> Iterator[None]:
    """Gradio's classes have no source file for a while; it writes no stub of a class without one."""
    source: Any = inspect
    getfile = inspect.getfile

    def getfile_of_others(asked: Any) -> str:
        if getattr(asked, "__module__", "").startswith("gradio."):
            raise OSError("source code not available")
        return getfile(asked)

    source.getfile = getfile_of_others
    try:
        yield
    finally:
        source.getfile = getfile
