"""A run's folder is changed as a whole, or not at all.

    with transaction(folder, "a new run", names) as change:  # an error before `change.commit()` leaves all as it was
        ...write...
        change.commit()

    change = set_aside(folder, "sft --again", ["sft", "reward"], ["recipe.json"], until="sft/result.json")
    change.mark_moved()
    ...write what takes their place...
    commit_pending(folder, "sft/result.json")

What is replaced stays in RUN/.aside-1 until its successor is whole. A kill at any moment leaves a state from which
`recover`, which the next writer calls, goes back to the old or on to the new; .aside-1/state.json says which:

    taking      things are moved aside: back
    taken       the new is being made: left as it is
    returning   the old is put back: go on with that

What is kept no more is renamed to ..aside-1.labkit-partial first, and then removed.

Several may lie on each other: what was being made anew can itself be made anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labkit.files import PARTIAL, beside, explain_write_errors, read_json, sync, write_json

ASIDE, STATE = ".aside-", "state.json"
KNOWN = {"doing", "until", "files", "folders", "absent", "phase"}
"""What is said of a change in its state.json."""


class FolderTransaction:
    """What was set aside in `path` (RUN/.aside-N), and what is known of it."""

    def __init__(self, path: Path, state: dict[str, Any]):
        self.path, self.state, self.folder = path, state, path.parent

    @property
    def doing(self) -> str:
        """What the change is, for messages."""
        return self.state["doing"]

    @property
    def completion_file(self) -> str | None:
        """The file, of the run's folder, whose presence says that what takes the old's place is whole."""
        return self.state["until"]

    def mark_moved(self) -> None:
        """From now on a kill does not undo the change."""
        self._save("taken")

    def commit(self) -> None:
        """What is new stays: remove what was set aside."""
        if self.path.exists():
            with explain_write_errors(self.path):
                left = beside(self.path, PARTIAL)
                shutil.rmtree(left, ignore_errors=True)
                os.rename(self.path, left)
                sync(self.folder)
                shutil.rmtree(left)

    def rollback(self) -> None:
        """Put back what was set aside, in place of whatever is there now."""
        if not self.path.exists():
            return
        if self.state["phase"] != "taking":  # from which a kill leads back as well, and a full disk writes nothing
            self._save("returning")
        files, folders = ([n for n in self.state[kind] if (self.path / n).exists()] for kind in ("files", "folders"))
        with explain_write_errors(self.folder):
            for name in [*self.state["absent"], *folders]:
                remove(self.folder / name)
            for name in files:  # the recipe first: weights never stand under another's
                os.replace(self.path / name, self.folder / name)
            for name in folders:
                os.rename(self.path / name, self.folder / name)
            sync(self.folder)
        self.commit()

    def _save(self, phase: str) -> None:
        self.state["phase"] = phase
        write_json(self.path / STATE, self.state)


@contextmanager
def transaction(folder: Path, doing: str, names: Sequence[str]) -> Iterator[FolderTransaction]:
    """A change that writes these files and folders, of which only files are there now: whatever is raised before
    `commit` undoes it.
    """
    files = [name for name in names if (folder / name).exists()]
    change = _begin(folder, _state(doing, files, [], [name for name in names if name not in files]))
    try:
        yield change
    except BaseException:
        change.rollback()
        raise
    change.commit()


def set_aside(folder: Path, doing: str, folders: Sequence[str], files: Sequence[str], until: str) -> FolderTransaction:
    """Move `folders` aside and copy `files`, which are to be written anew; those that are not there are remembered as
    such. `FolderTransaction.mark_moved` says that the folder is in its new state, until the file `until` stands in it.
    """
    there = [name for name in (*folders, *files) if (folder / name).exists()]
    absent = [name for name in (*folders, *files) if name not in there]
    moved = [name for name in folders if name in there]
    change = _begin(folder, _state(doing, [name for name in files if name in there], moved, absent, until))
    with explain_write_errors(folder):
        for name in moved:
            os.rename(folder / name, change.path / name)
        sync(folder)
    return change


def _state(
    doing: str, files: list[str], folders: list[str], absent: list[str], until: str | None = None
) -> dict[str, Any]:
    return {"doing": doing, "until": until, "files": files, "folders": folders, "absent": absent, "phase": "taking"}


def _begin(folder: Path, state: dict[str, Any]) -> FolderTransaction:
    """RUN/.aside-N with copies of the files, whole or not there."""
    number = 1 + max((int(path.name.removeprefix(ASIDE)) for path in _asides(folder)), default=0)
    path = folder / f"{ASIDE}{number}"
    partial, change = beside(path, PARTIAL), FolderTransaction(path, state)
    with explain_write_errors(path):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for name in state["files"]:
                shutil.copy2(folder / name, partial / name)
            write_json(partial / STATE, change.state)
            os.rename(partial, path)
            sync(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return change


def pending(folder: Path) -> list[FolderTransaction]:
    """The changes whose new state is being made, the latest last."""
    return [change for change in unsettled(folder) if change.state["phase"] == "taken"]


def recover(folder: Path) -> list[str]:
    """Bring what a kill has left half done to its old or new state; what was done, in words.

    To be called by whoever holds the folder's lock. What labkit has not made is left alone.
    """
    said = []
    with explain_write_errors(folder):
        for left in [*folder.glob(f".*{PARTIAL}"), *folder.glob(f"*/.*{PARTIAL}")]:
            remove(left)
    for change in reversed(unsettled(folder)):
        if (
            change.completion_file is not None
            and change.state["phase"] == "taken"
            and (folder / change.completion_file).exists()
        ):
            commit_pending(folder, change.completion_file)
            said.append(f"{folder}: {change.doing} was stopped when it was whole; what it replaced is removed.")
            break
        if change.state["phase"] in ("taking", "returning"):
            change.rollback()
            said.append(f"{folder}: {change.doing} was stopped half-way; all is as it was before.")
    return said


def commit_pending(folder: Path, made: str) -> None:
    """Remove what waits for the file `made`, which stands now, and whatever lies beneath it or on it."""
    changes = pending(folder)
    if any(change.completion_file == made for change in changes):
        for change in changes:
            change.commit()


def unsettled(folder: Path) -> list[FolderTransaction]:
    """The changes that are neither kept nor undone, the latest last."""
    found = [(path, read_json(path / STATE)) for path in _asides(folder) if (path / STATE).exists()]
    return [
        FolderTransaction(path, state) for path, state in found if isinstance(state, dict) and KNOWN <= state.keys()
    ]


def _asides(folder: Path) -> list[Path]:
    found = [path for path in folder.glob(f"{ASIDE}*") if path.name.removeprefix(ASIDE).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(ASIDE)))


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
