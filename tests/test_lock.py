"""One writer a folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from labkit.errors import LabError
from labkit.lock import one_writer

ROOT = Path(__file__).resolve().parents[1]


def held(folder: Path, **other) -> Path:
    """A lock of this process, but for what is said otherwise."""
    owner = {"pid": os.getpid(), "created": psutil.Process().create_time(), "host": socket.gethostname()}
    folder.mkdir(exist_ok=True)
    (folder / ".lock").write_text(json.dumps(owner | other))
    return folder / ".lock"


def test_a_folder_that_nothing_came_of_is_gone(tmp_path):
    with one_writer(tmp_path / "runs" / "new"):
        assert (tmp_path / "runs" / "new" / ".lock").is_file()
    assert not list(tmp_path.iterdir())
    with one_writer(tmp_path / "new"):
        (tmp_path / "new" / "a").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_two_in_one_process_and_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").mkdir()
    with one_writer(tmp_path / "real"), pytest.raises(LabError, match="real is in use: this process"):
        with one_writer(tmp_path / "link"):
            pass
    assert not list((tmp_path / "real").iterdir())


def test_another_process_is_refused_in_words_and_its_death_noticed(tmp_path):
    code = f"""
from labkit.lock import one_writer
with one_writer({str(tmp_path)!r}):
    print("held", flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(LabError, match=rf"in use: another process .number {process.pid}, since 20"):
        with one_writer(tmp_path):
            pass
    process.kill()  # not yet waited for: its number is still taken
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.warns(UserWarning, match=rf"number {process.pid}, since 20.* is gone; its lock is taken over"):
        with one_writer(tmp_path):
            pass
    process.communicate()
    assert not list(tmp_path.iterdir())


def test_a_number_that_was_given_again_is_no_owner(tmp_path):
    held(tmp_path / "run", created=1.0)
    with pytest.warns(UserWarning, match="is gone; its lock is taken over"), one_writer(tmp_path / "run"):
        pass


def test_a_lock_of_another_machine_is_respected(tmp_path):
    lock = held(tmp_path / "run", host="elsewhere")
    with pytest.raises(LabError, match=f"on elsewhere, .*if it does not, remove {lock}"):
        with one_writer(tmp_path / "run"):
            pass
    assert lock.exists()


def test_a_lock_that_was_never_written_whole_is_nobodys(tmp_path):
    (tmp_path / ".lock").write_text('{"pid": 1')
    with one_writer(tmp_path):
        pass


def test_a_child_does_not_give_up_its_parents_lock(tmp_path):
    """A process that is forked inside the block and leaves it by an error holds nothing."""
    with one_writer(tmp_path):
        child = os.fork()
        if not child:
            try:
                raise SystemExit
            finally:
                from labkit.lock import _release

                _release(tmp_path / ".lock")
                os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / ".lock").exists()
