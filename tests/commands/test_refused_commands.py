"""Each command, given a folder that is not its own: it is refused in words, and every file is as it was."""

import json
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.paths import demo_folder
from labkit.runs.lock import process_identity
from labkit.runs.shipped import make_demo_run
from tests.faults import tree
from tests.tiny_run import RECIPE, make, stub

PRECIOUS = (
    "thesis.tex", "thesis.tex.partial", "sub/b.partial", "sub/c.old/d", "model.old/weights", "model.partial/weights",
    ".aside-7/mine", ".hidden",
)  # fmt: skip
"""Files of somebody else, with names that a program that clears up after itself could take for its own."""


@pytest.fixture(scope="module")
def stubbed():
    with pytest.MonkeyPatch.context() as patched:
        stub(patched)
        yield


@pytest.fixture(scope="module")
def made(stubbed, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "made"
    make(RECIPE, path)
    return path


@pytest.fixture
def work(made, tmp_path, monkeypatch) -> Path:
    """A working directory with a finished run in RUN, one that another process is at work on in BUSY, and other folders
    that hold no run.
    """
    for name in ("RUN", "BUSY"):
        shutil.copytree(made, tmp_path / name)
    owner = {**process_identity(psutil.Process(os.getppid())), "host": socket.gethostname()}
    (tmp_path / "BUSY" / ".lock").write_text(json.dumps(owner))
    for name in PRECIOUS:
        (tmp_path / "FOREIGN" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "FOREIGN" / name).write_text(f"precious {name}")
    for name in ("recipe.json", "tokenizer.json"):  # of a cook, and of another program
        (tmp_path / name.upper()).mkdir()
        (tmp_path / name.upper() / name).write_text('{"eggs": 3}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS = """
run --preset smoke --out {}
run --preset smoke --out {} --resume
run --preset smoke --out {} --build-on RUN --stages sft
run --preset smoke --out {}/run.json
pretrain {}
sft {} --train.muon-lr 0.02
sft {} --again
sft {} --undo
report {}
import RUN {} --preset smoke
demo --run {}
"""
READ_ONLY = """
run --preset smoke --out NEW --build-on {} --stages sft
chat {}
generate {}
decode-compare {}
compare {} RUN
compare RUN {}
recipe {}
export {} NEW
import {} NEW --preset smoke
"""


def refused(work: Path, command: Sequence[str], capsys) -> str:
    """What a command says that is refused and changes nothing."""
    before = tree(work)
    try:
        assert main(command) == 2
    except SystemExit as ended:
        raise AssertionError(f"{command} is no command of labkit") from ended
    assert tree(work) == before
    return capsys.readouterr().err


@pytest.mark.parametrize("folder", ["FOREIGN", "FOREIGN/sub", "RECIPE.JSON", "TOKENIZER.JSON"])
@pytest.mark.parametrize("command", [*COMMANDS.strip().splitlines(), *READ_ONLY.strip().splitlines()])
def test_a_folder_of_somebody_else_is_left_as_it_is(work, command, folder, capsys):
    if command.endswith("run.json"):
        (work / folder / "run.json").write_text("a file")
    assert "labkit: " in refused(work, command.format(folder).split(), capsys)


@pytest.mark.parametrize("command", [line for line in COMMANDS.strip().splitlines() if not line.endswith("run.json")])
def test_a_run_that_another_process_is_at_work_on_is_left_as_it_is(work, command, capsys):
    assert "BUSY is in use: another process" in refused(work, command.format("BUSY").split(), capsys)


def test_what_is_taken_away_is_put_into_no_folder_of_somebody_else(work, capsys):
    assert "FOREIGN is not empty" in refused(work, ["export", "RUN", "FOREIGN"], capsys)
    before = tree(work)
    with pytest.raises(LabError, match="FOREIGN contains something other than a run"):
        make_demo_run(demo_folder(), "FOREIGN")
    assert tree(work) == before
