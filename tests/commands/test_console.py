"""What a terminal without UTF-8 shows in place of labkit's signs."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import labkit
from labkit.commands.console import ASCII_MARKS, configure_standard_streams
from tests.commands.test_main import PLAIN, ROOT

SOURCE = Path(labkit.__file__).parent
PRINTING = ("commands", "course", "evaluation", "hub", "preferences", "runs", "stages", "training")
"""The rooms whose words a terminal shows; the app, the report and the notebooks are always UTF-8."""
TEXTS = ("notebook_01.py", "notebook_02.py", "gguf_tokenizer.py")
"""Where signs are data: texts of exercises, and SentencePiece's blank."""
MEANT = {"\ufeff", "\ufffd", "\uff0d", "\uff1d"}
"""A byte order mark, what stands for no character, and full-width signs: looked for, not printed."""


def signs(file: Path) -> set[str]:
    """Those outside of ASCII in a file's strings, docstrings too, as some are printed by --help."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {sign for text in texts for sign in text if not sign.isascii()} - MEANT


def test_every_sign_that_is_printed_has_an_ascii_mark():
    files = [file for room in PRINTING for file in sorted((SOURCE / room).rglob("*.py")) if file.name not in TEXTS]
    without = {(file.name, sign) for file in files for sign in signs(file) if sign not in ASCII_MARKS}
    assert not without and len(files) > 50
    assert all(not sign.isascii() and mark.isascii() and mark for sign, mark in ASCII_MARKS.items())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk", "utf-8"])
def test_a_sign_that_cannot_be_shown_becomes_its_mark(encoding, monkeypatch):
    """A letter of somebody's text that cannot be shown stays a ?, and what can be shown is shown."""
    text, raw = "✓ right, ✗ wrong · … → λ Größe 你", io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    configure_standard_streams()
    print(text, end="", flush=True)
    shown = raw.getvalue().decode(encoding)
    if encoding == "utf-8":
        assert shown == text
    if encoding == "ascii":
        assert shown == "v right, x wrong . ... -> lambda Gr??e ?"
    if encoding == "latin-1":
        assert shown == "v right, x wrong · ... -> lambda Größe ?"
    if encoding == "gbk":
        assert shown.startswith("v right, x wrong · … → λ Gr") and shown.endswith("e 你")


@pytest.mark.parametrize("command", [["course"], ["course", "--help"], ["course", "--solutions", "07"], ["--help"]])
def test_an_ascii_terminal_gets_no_question_marks_for_signs(command, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "course.json").write_text(
        '{"exercises": {"00.2": {"right": true, "attempts": 1, "mistakes": {}, "feedback": "", "last": ""}}}'
    )
    ended = subprocess.run(
        [sys.executable, "-m", "labkit", *command],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), **PLAIN}, capture_output=True, timeout=120,
    )  # fmt: skip
    said = ended.stdout.decode("ascii")
    assert ended.returncode == 0 and ended.stderr == b""
    listed = "00  The whole recipe        . v . . .    1 of 5 right"
    assert listed in said if command == ["course"] else "?" not in said.replace("?\n", "").replace("? ", "")
