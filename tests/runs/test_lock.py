"""One writer a folder."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from labkit.errors import LabError
from labkit.runs import lock
from labkit.runs.lock import exclusive_lock, find_live_process, process_identity

ROOT = Path(__file__).resolve().parents[2]


def held(folder: Path, **other) -> Path:
    """A lock of this process, but for what is said otherwise."""
    owner = {**process_identity(psutil.Process()), "host": socket.gethostname()}
    folder.mkdir(exist_ok=True)
    (folder / ".lock").write_text(json.dumps(owner | other))
    return folder / ".lock"


def test_a_folder_that_nothing_came_of_is_gone(tmp_path):
    with exclusive_lock(tmp_path / "runs" / "new"):
        assert (tmp_path / "runs" / "new" / ".lock").is_file()
    assert not list(tmp_path.iterdir())
    with exclusive_lock(tmp_path / "new"):
        (tmp_path / "new" / "a").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_two_in_one_process_and_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").mkdir()
    with exclusive_lock(tmp_path / "real"), pytest.raises(LabError, match="real is in use: this process"):
        with exclusive_lock(tmp_path / "link"):
            pass
    assert not list((tmp_path / "real").iterdir())


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of the folder `run`."""
    held = f"with exclusive_lock({str(tmp_path / 'run')!r}): print('held', flush=True); input()"
    code = f"from labkit.runs.lock import exclusive_lock\n{held}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_in_words_and_its_death_noticed(other, tmp_path):
    with pytest.raises(LabError, match=rf"in use: another process .PID {other.pid}, since 20"):
        with exclusive_lock(tmp_path / "run"):
            pass
    other.kill()  # not yet waited for: its number is still taken
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with pytest.warns(UserWarning, match=rf"PID {other.pid}, since 20.* has ended; its lock is taken over"):
        with exclusive_lock(tmp_path / "run"):
            pass
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("seconds", [-3600, -1, 1, 86_400])
def test_an_owner_at_work_keeps_its_lock_when_the_clock_is_set(other, tmp_path, monkeypatch, seconds):
    """By what it wrote, where there are no file locks, and by the file lock, whatever is written there."""
    created = psutil.Process.create_time
    with monkeypatch.context() as changed:
        changed.setattr(psutil.Process, "create_time", lambda process: created(process) + seconds)
        assert lock.lock_holder(tmp_path / "run")
        changed.setattr(lock.fcntl, "flock", no_locks)
        with pytest.raises(LabError, match=f"PID {other.pid}"), exclusive_lock(tmp_path / "run"):
            pass
    (tmp_path / "run" / ".lock").write_text("{}")
    with (
        pytest.raises(LabError, match="run is in use: another process is working on it"),
        exclusive_lock(tmp_path / "run"),
    ):
        pass


def no_locks(*given):
    raise OSError(errno.ENOLCK, "No locks available")


def test_where_there_are_no_file_locks_a_dead_owner_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    held(tmp_path / "run", ticks=1)
    with pytest.warns(UserWarning, match="has ended; its lock is taken over"), exclusive_lock(tmp_path / "run"):
        pass
    with exclusive_lock(tmp_path / "run"), pytest.raises(LabError, match="in use: this process"):
        with exclusive_lock(tmp_path / "run"):
            pass


@pytest.mark.parametrize("other", [{"created": 1.0, "ticks": 1}, {"boot": "another start of the machine"}])
def test_a_number_that_was_given_again_is_no_owner(tmp_path, other):
    held(tmp_path / "run", **other)
    with pytest.warns(UserWarning, match="has ended; its lock is taken over"), exclusive_lock(tmp_path / "run"):
        pass


def test_an_owner_of_an_older_labkit_is_known_by_the_clock(tmp_path):
    now = psutil.Process().create_time()
    assert find_live_process({"pid": os.getpid(), "created": now + 5}) and not find_live_process(
        {"pid": os.getpid(), "created": now - 3600}
    )


@pytest.mark.parametrize("hindered", ["labkit.runs.lock.json.dump", "pathlib.Path.mkdir"])
def test_a_full_disk_leaves_no_folder_and_no_empty_lock(tmp_path, monkeypatch, hindered):
    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hindered, full_disk)
    with pytest.raises(LabError, match="The disk is full"), exclusive_lock(tmp_path / "runs" / "new"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_moved_with_its_folder_is_nobodys(tmp_path):
    with exclusive_lock(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "other")
    with exclusive_lock(tmp_path / "other"):
        pass


def test_a_lock_of_another_machine_is_respected(tmp_path):
    lock = held(tmp_path / "run", host="elsewhere")
    with pytest.raises(LabError, match=f"on elsewhere, .*if it does not, remove {lock}"):
        with exclusive_lock(tmp_path / "run"):
            pass
    assert lock.exists()


def test_a_lock_that_was_never_written_whole_is_nobodys(tmp_path):
    (tmp_path / ".lock").write_text('{"pid": 1')
    with exclusive_lock(tmp_path):
        pass


def test_a_child_does_not_give_up_its_parents_lock(tmp_path):
    """A process that is forked inside the block and leaves it by an error holds nothing."""
    holding = exclusive_lock(tmp_path)
    with holding:
        child = os.fork()
        if not child:
            try:
                holding.__exit__(SystemExit, SystemExit(), None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / ".lock").exists()
        with pytest.raises(LabError, match="in use"), exclusive_lock(tmp_path):
            pass
