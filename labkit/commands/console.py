"""The terminal as people have it: without UTF-8, without an input, an output, or anything at all."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

ASCII_MARKS = {
    "✓": "v", "✗": "x", "·": ".", "…": "...", "×": "x", "±": "+/-", "√": "sqrt", "₀": "0", "²": "^2",
    "–": "-", "—": "-", "−": "-", "→": "->", "←": "<-", "≤": "<=", "≥": ">=",
    "“": '"', "”": '"', "‘": "'", "’": "'",
    "─": "-", "│": "|", "┃": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+",
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "η": "eta", "θ": "theta", "κ": "kappa",
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ω": "omega",
}  # fmt: skip
"""What stands for the signs of labkit's own words on a terminal that cannot show them."""


def _ascii_marks(error: UnicodeError) -> tuple[str, int]:
    """An error handler of Python's codecs: ASCII for the signs of labkit's own words, "?" for all else."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII_MARKS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("labkit-ascii-marks", _ascii_marks)


def configure_standard_streams() -> None:
    """Let standard input and output take every sign, and be there.

    What the terminal cannot show becomes an ASCII mark (v for ✓) or "?", and what it sends that is no text becomes a
    replacement character; an ASCII terminal is taken to send UTF-8, as all that do today. A stream that was closed
    becomes an empty one: else the next file that is opened would get its number, and what is printed would be written
    there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # a notebook or a test has put something else there
            ascii_input = name == "stdin" and stream.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968")
            errors = "replace" if name == "stdin" else "labkit-ascii-marks"
            stream.reconfigure(encoding="utf-8" if ascii_input else stream.encoding, errors=errors)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print a warning that is meant for the user as a line, without the place in the code that it comes from."""
    before = warnings.showwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if category is UserWarning:
            print(f"labkit: {message}", file=sys.stderr)
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
