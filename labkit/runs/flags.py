"""Flags, read by tyro; what it refuses is said in a line, as all else that labkit refuses."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import threading
import typing
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import tyro

from labkit.errors import LabError

HELP = frozenset({"-h", "--help"})
"""The flags that ask for help."""
ONE = threading.Lock()
"""Held while tyro reads flags: what it says goes to the process's one stderr."""


def parse_flags(kind: Any, prog: str, arguments: Sequence[str], **settings: Any) -> Any:
    """What `tyro.cli` makes of the arguments. Raises LabError, which names the flag, for what it refuses."""
    _refuse_positional_flags(kind, prog, arguments)
    said = io.StringIO()
    try:
        with ONE, redirect_stderr(said), _one_line(HELP.isdisjoint(arguments)):
            return tyro.cli(kind, prog=prog, args=arguments, **settings)
    except SystemExit as ended:
        if not ended.code:
            raise
        _refuse_typographic_flags(arguments)
        raise LabError(format_tyro_error(said.getvalue(), prog, kind.__name__)) from None


def _refuse_positional_flags(kind: Any, prog: str, arguments: Sequence[str]) -> None:
    """Raises LabError for --NAME, where NAME is an argument that stands without a flag."""
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [field.name for field in dataclasses.fields(kind)]
    metavars = {name: _positional_metavar(name, hints[name]) for name in names}
    positional = {f"--{name}": metavar for name, metavar in metavars.items() if metavar}
    for flag in (argument.partition("=")[0] for argument in arguments):
        if flag in positional:
            usage = " ".join([prog, *positional.values()])
            raise LabError(f"{flag} is not an option: {positional[flag]} stands without one, as in {usage}.")


def _positional_metavar(name: str, hint: Any) -> str | None:
    """What a positional argument is called in the usage; None for one that has a flag."""
    marks = getattr(hint, "__metadata__", ())
    if tyro.conf.Positional not in marks:
        return None
    return next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), name.upper())


_FLAG = re.compile(
    r"(?P<dashes>[-\u2010-\u2015\u2212\uff0d]+)(?P<name>[^\W\d][^\s=\uff1d]*)((?P<sign>[=\uff1d])(?P<value>.*))?",
    re.DOTALL,
)
"""A flag, its dashes and its = of any kind: \uff0d and \uff1d are full-width, as Chinese keyboards type them."""


def _refuse_typographic_flags(arguments: Sequence[str]) -> None:
    """Raises LabError for a flag whose dashes, name or = are full-width, or as a word processor sets them."""
    for argument in arguments:
        found = _FLAG.fullmatch(argument)
        if found and not f"{found['dashes']}{found['name']}{found['sign'] or ''}".isascii():
            value = f"={found['value']}" if found["sign"] else ""
            meant = f"--{unicodedata.normalize('NFKC', found['name'])}{value}"
            raise LabError(f"{argument} is not typed with the ASCII signs - and =. Type {meant}")


def refuse_renamed_flags(renamed: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Raises LabError for a flag that has another name now; renamed: {flag before: flag now}, with "_" or "-"."""
    now = {before.replace("_", "-"): flag.replace("_", "-") for before, flag in renamed.items()}
    now |= {_negated(before): _negated(flag) for before, flag in now.items()}
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in now:
            raise LabError(f"{flag} is now called {now[flag]}.")


def _negated(flag: str) -> str:
    """The flag that says no: --annotation.ties -> --annotation.no-ties."""
    head, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{head}{dot}no-{name}"


def format_tyro_error(tyro_output: str, prog: str, class_name: str) -> str:
    """What tyro says in a box (tyro_output), as a line: the flag's name, what it takes, and what it was given.
    class_name: of the dataclass whose fields are the flags.
    """
    lines = [line.strip("│ ") for line in tyro_output.strip().splitlines()][1:]  # under the box's title
    lines = [line for line in lines if line.strip("─-╰╯")]  # a console without these signs has "-" for all of them
    first, *more = lines or [tyro_output.strip()]
    failed = re.fullmatch(r"Error parsing (.*?): (.*)", first)
    choice = re.fullmatch(r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)\.", first)
    without = re.fullmatch(r"Missing value for argument '(.*)'\..*", first)
    if failed:
        return _failed(failed[1], failed[2], more, class_name)
    if choice:
        known = ", ".join(one.strip(" '") for one in choice[3].split(","))
        return f"{choice[2]} can be {known}, not {choice[1]}."
    if without:
        return f"{without[1]} needs a value; one that begins with a dash stands behind =: {without[1]}=-1"
    if first.startswith("Unrecognized options: "):
        return _unknown(first.partition(": ")[2].split(", "), more, prog)
    if first.startswith("Missing from "):
        names = [line for line in more if re.fullmatch(r"--[\w.-]+ \S+|[\w.\[\]-]+", line)]
        return f"{prog} needs {' and '.join(names)}. {prog} --help says more."
    return " ".join([first, *more])


def _failed(where: str, why: str, more: Sequence[str], class_name: str) -> str:
    """A value that its flag does not take, or a setting that its dataclass refuses; `where` is then its path, or the
    class itself.
    """
    kinds = {"{None}": "None", "INT": "a whole number", "FLOAT": "a number"}
    takes = next((line for line in more if line.startswith(f"{where} ")), "")
    wanted = [words for kind, words in kinds.items() if kind in f"{takes} {why}"]  # a flag may show another metavar
    if where.startswith("--") and wanted:
        return f"{where} must be {' or '.join(wanted)}, not {_given(why)}."
    path = "" if where == class_name else f"{where}.".replace("_", "-")
    setting = re.fullmatch(r"\w+: (\w+)( must be .*)", why)
    if setting:
        return f"--{path}{setting[1].replace('_', '-')}{setting[2]}"
    return why if not path else f"--{path.removesuffix('.')}: {re.sub(r'^[A-Za-z]+Config: ', '', why)}"


def _given(why: str) -> str:
    """The value in a message: "invalid literal for int() with base 10: 'abc'" → "'abc'"; so of "… from ['abc']."."""
    return why.partition("[")[2].partition("]")[0] or why.rpartition(": ")[2]


def _unknown(words: Sequence[str], more: Sequence[str], prog: str) -> str:
    named = ", ".join(word for word in words if word.startswith("-"))
    similar = " or ".join(dict.fromkeys(line.split()[0] for line in more if re.match(r"--[\w.-]+ ", line)))
    if named and similar:
        return f"There is no option {named}. Did you mean {similar}?"
    if named:
        return f"There is no option {named}. {prog} --help lists those that there are."
    return f"No option takes {', '.join(words)}. {prog} --help lists those that there are."


@contextmanager
def _one_line(wide: bool) -> Iterator[None]:
    """Let tyro break no line of what it says."""
    before = os.environ.get("COLUMNS")
    if wide:
        os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        if wide:
            os.environ.pop("COLUMNS")
            os.environ.update({} if before is None else {"COLUMNS": before})
