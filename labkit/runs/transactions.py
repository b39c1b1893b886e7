"""A run's folder is changed as a whole, or not at all: transactions, as a database has them, over files and folders.

    with transaction(folder, "a new run", names) as made:  # an error before `made.commit()` rolls everything back
        ...write...
        made.commit()

    made = begin_replacement(folder, "sft --again", ["sft", "reward"], ["recipe.json"], "sft/result.json")
    made.mark_pending()
    ...write what takes their place...
    commit_pending_transactions(folder, "sft/result.json")

What is replaced is kept in RUN/.aside-1 until the transaction is committed. After a kill at any moment,
`recover_transactions`, which the next writer calls, rolls back or commits; the phase in .aside-1/state.json decides:

    "taking"       the old files are being moved aside: rolled back
    "taken"        pending, the new files are being written: left so; committed where the completion file is there
    "returning"    the old files are being put back: rolled back

A link stays a link. Where it led to no file, a rollback removes the file that was written there.

What a commit removes is renamed to ..aside-1.labkit-partial first. Transactions may lie on each other: a stage that is
being made again can itself be made again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os.path import lexists
from pathlib import Path
from typing import Any

from labkit.files import (
    PARTIAL,
    atomic_replace,
    explain_write_errors,
    follow_link,
    fsync_path,
    hidden_sibling,
    read_json,
    write_json,
)

ASIDE, STATE = ".aside-", "state.json"
KEYS = {"doing", "until", "files", "folders", "absent", "phase"}
"""The keys that every state.json has; those that came later may be missing."""
PREPARING, PENDING, ROLLING_BACK = "taking", "taken", "returning"
"""The phases of a transaction, as state.json says them."""


class FolderTransaction:
    """A change of a run's folder that is neither committed nor rolled back. path: RUN/.aside-N, where what it replaces
    is kept; state: the content of its state.json.
    """

    def __init__(self, path: Path, state: dict[str, Any]):
        self.path, self.state, self.folder = path, state, path.parent

    @property
    def description(self) -> str:
        """What it does, for messages: "sft --again"."""
        return self.state["doing"]

    @property
    def completion_file(self) -> str | None:
        """The file of the run's folder whose presence says that what replaces the old files is complete; None where
        only `commit` says so.
        """
        return self.state["until"]

    def mark_pending(self) -> None:
        """The old files are moved aside: from now on a kill does not roll back, and the transaction stays pending."""
        self._save(PENDING)

    def commit(self) -> None:
        """Keep what is new: remove what was set aside."""
        if self.path.exists():
            with explain_write_errors(self.path):
                left = hidden_sibling(self.path, PARTIAL)
                shutil.rmtree(left, ignore_errors=True)
                os.rename(self.path, left)
                fsync_path(self.folder)
                shutil.rmtree(left)

    def rollback(self) -> None:
        """Put back what was set aside, in place of whatever is there now."""
        if not self.path.exists():
            return
        if self.state["phase"] != PREPARING:  # from which a kill leads back as well, and a full disk writes nothing
            self._save(ROLLING_BACK)
        files, folders = ([n for n in self.state[kind] if lexists(self.path / n)] for kind in ("files", "folders"))
        with explain_write_errors(self.folder):
            for name in [*self.state["absent"], *folders]:
                remove_path(self.folder / name)
            for name in self.state.get("dangling_links", ()):
                remove_path(follow_link(self.folder / name))
            for name in files:  # the recipe first: weights never stand under another's
                _put_back(self.path / name, self.folder / name)
            for name in folders:
                os.rename(self.path / name, self.folder / name)
            fsync_path(self.folder)
        self.commit()

    def _save(self, phase: str) -> None:
        self.state["phase"] = phase
        write_json(self.path / STATE, self.state)


@contextmanager
def transaction(folder: Path, description: str, names: Sequence[str]) -> Iterator[FolderTransaction]:
    """A transaction that writes the files and folders `names`, of which only files may be there now: whatever is raised
    before `commit` rolls it back.
    """
    begun = _begin(folder, _state(folder, description, [], names))
    try:
        yield begun
    except BaseException:
        begun.rollback()
        raise
    begun.commit()


def begin_replacement(
    folder: Path, description: str, folders_to_move: Sequence[str], files_to_copy: Sequence[str], completion_file: str
) -> FolderTransaction:
    """Move `folders_to_move` aside and copy `files_to_copy`, which are to be written anew; those that are not there are
    remembered as absent. Call `mark_pending` once the folder is in its new state; it then stays pending until
    `completion_file` is written and `commit_pending_transactions` is called with it.
    """
    begun = _begin(folder, _state(folder, description, folders_to_move, files_to_copy, completion_file))
    with explain_write_errors(folder):
        for name in begun.state["folders"]:
            os.rename(folder / name, begun.path / name)
        fsync_path(folder)
    return begun


def _state(
    folder: Path,
    description: str,
    folders_to_move: Sequence[str],
    files_to_copy: Sequence[str],
    completion_file: str | None = None,
) -> dict[str, Any]:
    """The content of state.json for these folders and files, of which any may not be there."""
    return {
        "doing": description,
        "until": completion_file,
        "files": [name for name in files_to_copy if (folder / name).exists()],
        "folders": [name for name in folders_to_move if lexists(folder / name)],
        "absent": [name for name in (*folders_to_move, *files_to_copy) if not lexists(folder / name)],
        "dangling_links": [name for name in files_to_copy if _is_dangling_link(folder / name)],
        "phase": PREPARING,
    }


def _begin(folder: Path, state: dict[str, Any]) -> FolderTransaction:
    """RUN/.aside-N with copies of the files, whole or not there."""
    number = 1 + max((int(path.name.removeprefix(ASIDE)) for path in _asides(folder)), default=0)
    path = folder / f"{ASIDE}{number}"
    partial, begun = hidden_sibling(path, PARTIAL), FolderTransaction(path, state)
    with explain_write_errors(path):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for name in state["files"]:
                shutil.copy2(folder / name, partial / name)
            write_json(partial / STATE, begun.state)
            os.rename(partial, path)
            fsync_path(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return begun


def pending_transactions(folder: Path) -> list[FolderTransaction]:
    """The transactions whose new files are being written, the latest last."""
    return [one for one in open_transactions(folder) if one.state["phase"] == PENDING]


def recover_transactions(folder: Path) -> list[str]:
    """After a kill: commit the transactions that are complete and roll back those that were interrupted. Returns what
    was done, in words.

    To be called by whoever holds the folder's lock. Files that labkit has not made are left alone.
    """
    said = []
    with explain_write_errors(folder):
        for left in [*folder.glob(f".*{PARTIAL}"), *folder.glob(f"*/.*{PARTIAL}")]:
            remove_path(left)
        for link in [path for path in [*folder.glob("*"), *folder.glob("*/*")] if path.is_symlink()]:
            remove_path(hidden_sibling(follow_link(link), PARTIAL))  # what is written through it is written there
    for one in reversed(open_transactions(folder)):
        phase, file = one.state["phase"], one.completion_file
        if file is not None and phase == PENDING and (folder / file).exists():
            commit_pending_transactions(folder, file)
            said.append(f"{folder}: {one.description} was stopped when it was complete; what it replaced is removed.")
            break
        if phase in (PREPARING, ROLLING_BACK):
            one.rollback()
            said.append(f"{folder}: {one.description} was interrupted; its changes were rolled back.")
    return said


def commit_pending_transactions(folder: Path, completion_file: str) -> None:
    """Commit the pending transaction that `completion_file`, which is there now, completes, and all others that are
    pending with it.
    """
    found = pending_transactions(folder)
    if any(one.completion_file == completion_file for one in found):
        for one in found:
            one.commit()


def open_transactions(folder: Path) -> list[FolderTransaction]:
    """The transactions that are neither committed nor rolled back, the latest last."""
    found = [(path, read_json(path / STATE)) for path in _asides(folder) if (path / STATE).exists()]
    return [FolderTransaction(path, state) for path, state in found if isinstance(state, dict) and KEYS <= state.keys()]


def _asides(folder: Path) -> list[Path]:
    found = [path for path in folder.glob(f"{ASIDE}*") if path.name.removeprefix(ASIDE).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(ASIDE)))


def _is_dangling_link(path: Path) -> bool:
    """Whether it is a link to what is not there."""
    return lexists(path) and not path.exists()


def _put_back(kept: Path, file: Path) -> None:
    """Let a file be what was kept of it; by a rename, which needs no room on the disk, where it is no link."""
    if file.is_symlink():
        with atomic_replace(file) as partial:
            shutil.copyfile(kept, partial)
    else:
        os.replace(kept, file)


def remove_path(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
