"""A folder is changed as a whole or not at all, whatever fails and wherever the process is killed."""

from contextlib import suppress
from pathlib import Path

import pytest

from labkit.errors import LabError
from labkit.files import write_text
from labkit.runs.transactions import (
    begin_replacement,
    commit_pending_transactions,
    pending_transactions,
    recover_transactions,
    transaction,
)
from tests.faults import Killed, Kind, faults, tree


def old(folder: Path) -> Path:
    """A run in small: a recipe, and two stages of which the second builds on the first."""
    for name in ("recipe.json", "one/result.json", "one/weights", "two/result.json", "two/weights"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"old {name}")
    return folder


def begin(folder: Path) -> None:
    """Make stage one again: up to where its new weights are being made."""
    begun = begin_replacement(folder, "one --again", ["one", "two", "three"], ["recipe.json"], "one/result.json")
    try:
        write_text(folder / "recipe.json", "new")
        begun.mark_pending()
    except BaseException:
        begun.rollback()
        raise


def make(folder: Path) -> None:
    write_text(folder / "one" / "weights", "new")
    write_text(folder / "one" / "result.json", "new")
    commit_pending_transactions(folder, "one/result.json")


def points(folder: Path, action) -> int:
    with faults() as counted:
        action(folder)
    return counted.count


def after(folder: Path, action, at: int, kind: Kind) -> dict[str, str]:
    """What is in the folder once the action has failed at its `at`-th operation, and the next writer has come."""
    with faults(at, kind), suppress(LabError, Killed):
        action(folder)
    recover_transactions(folder)
    return tree(folder)


@pytest.fixture
def states(tmp_path):
    """The folder before, while it is made anew, and after."""
    before, during, done = (old(tmp_path / name) for name in ("before", "during", "done"))
    begin(during)
    begin(done)
    make(done)
    return tree(before), tree(during), tree(done)


def test_replaced_and_finished(states, tmp_path):
    before, during, done = states
    assert "two" not in done and done["one/weights"] != before["one/weights"] and len(done) == 5
    assert {".aside-1/one/weights", ".aside-1/two/weights", ".aside-1/recipe.json"} <= during.keys()
    folder = old(tmp_path / "again")
    begin(folder)
    pending_transactions(folder)[-1].rollback()
    assert tree(folder) == before


@pytest.mark.parametrize("kind", ["error", "kill"])
def test_setting_aside_stopped_anywhere_is_the_old_state_or_the_new(states, tmp_path, kind):
    before, during, _ = states
    for at in range(1, points(old(tmp_path / "count"), begin) + 1):
        assert after(old(tmp_path / str(at)), begin, at, kind) in (before, during), at


@pytest.mark.parametrize("kind", ["error", "kill"])
def test_undo_stopped_anywhere_ends_as_undone(states, tmp_path, kind):
    before, during, _ = states

    def undo(folder: Path) -> None:
        pending_transactions(folder)[-1].rollback()

    begin(old(tmp_path / "count"))
    for at in range(1, points(tmp_path / "count", undo) + 1):
        folder = old(tmp_path / str(at))
        begin(folder)
        assert after(folder, undo, at, kind) in (before, during), at


@pytest.mark.parametrize("kind", ["error", "kill"])
def test_a_new_stage_stopped_anywhere_can_be_gone_on_with(states, tmp_path, kind):
    """Before its result stands, the old is still aside; from then on nothing of it is left."""
    begin(old(tmp_path / "count"))
    for at in range(1, points(tmp_path / "count", make) + 1):
        folder = old(tmp_path / str(at))
        begin(folder)
        left = after(folder, make, at, kind)
        assert (left == states[2]) == ("one/result.json" in left) != (".aside-1/one/weights" in left), at
        make(folder)
        assert tree(folder) == states[2]


@pytest.mark.parametrize("kind", ["error", "kill"])
def test_a_new_folder_stopped_anywhere_is_as_it_was(tmp_path, kind):
    def fill(folder: Path) -> None:
        with transaction(folder, "a new run", ["recipe.json", "one"]):
            write_text(folder / "recipe.json", "new")
            write_text(folder / "one" / "weights", "new")

    def prepared(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text("old")
        return tmp_path / name

    before = tree(prepared("before"))
    done = prepared("done")
    for at in range(1, points(done, fill) + 1):
        assert after(prepared(str(at)), fill, at, kind) in (before, tree(done)), at


@pytest.mark.parametrize("kind", ["error", "kill"])
def test_undo_through_a_link_stopped_anywhere_ends_as_undone(tmp_path, kind):
    def linked(name: str) -> Path:
        folder = old(tmp_path / name)
        (folder / "recipe.json").rename(tmp_path / f"{name}.json")
        (folder / "recipe.json").symlink_to(tmp_path / f"{name}.json")
        return folder

    first = linked("first")
    before = tree(first)
    begin(first)
    assert tree(first)["recipe.json"] != before["recipe.json"]
    count = points(first, lambda folder: pending_transactions(folder)[-1].rollback())
    assert tree(first) == before and (first / "recipe.json").is_symlink()
    for at in range(1, count + 1):
        folder = linked(f"{at}")
        begin(folder)
        after(folder, lambda folder: pending_transactions(folder)[-1].rollback(), at, kind)
        for one in pending_transactions(folder):
            one.rollback()
        assert tree(folder) == before and (folder / "recipe.json").is_symlink(), at


def test_what_is_made_anew_can_be_made_anew(tmp_path):
    """Each undo takes the last one back; when the stage is finished nothing of either is left."""
    folder = old(tmp_path / "run")
    begin(folder)
    write_text(folder / "one" / "weights", "half")
    half = tree(folder)
    begin(folder)
    pending_transactions(folder)[-1].rollback()
    assert tree(folder) == half
    begin(folder)
    make(folder)
    assert not pending_transactions(folder) and {path.name for path in folder.iterdir()} == {"recipe.json", "one"}


@pytest.mark.parametrize("kind", ["error", "kill"])
@pytest.mark.parametrize("opened", ["--again", "a new run"])
def test_what_was_written_through_a_link_that_led_nowhere_is_removed_and_the_link_stays(tmp_path, kind, opened):
    def prepared(name: str) -> Path:
        folder = old(tmp_path / name)
        (tmp_path / f"{name}-outside").mkdir()
        (folder / "report.json").symlink_to(tmp_path / f"{name}-outside" / "report.json")
        (folder / "three").symlink_to(tmp_path / f"{name}-disk")
        return folder

    def links(folder: Path) -> list[bool]:
        paths = [folder / "report.json", folder / "three"]
        return [path.is_symlink() for path in paths] + [path.exists() for path in paths]

    def change(folder: Path) -> None:
        if opened == "a new run":
            with suppress(LabError), transaction(folder, opened, ["recipe.json", "report.json"]):
                write_text(folder / "report.json", "new")
                raise LabError("refused")
            return
        begun = begin_replacement(folder, "one", ["one", "three"], ["report.json"], "one/result.json")
        write_text(folder / "report.json", "new")
        write_text(folder / "three" / "weights", "new")
        begun.mark_pending()
        begun.rollback()

    before = tree(prepared("before"))
    for at in range(0, points(prepared("count"), change) + 1):
        folder = prepared(f"{at}")
        after(folder, change, at, kind)
        for one in pending_transactions(folder):
            one.rollback()
        assert tree(folder) == before and links(folder) == [True, True, False, False], at
        assert list((tmp_path / f"{at}-outside").iterdir()) == [], at


def test_a_kill_while_writing_through_a_link_leaves_nothing_beside_what_it_leads_to(tmp_path):
    def linked(name: str) -> Path:
        folder = old(tmp_path / name)
        (tmp_path / f"{name}-outside").mkdir()
        for file in ("recipe.json", "one/weights"):
            target = tmp_path / f"{name}-outside" / Path(file).name
            (folder / file).rename(target)
            (folder / file).symlink_to(target)
        return folder

    def write(folder: Path) -> None:
        write_text(folder / "recipe.json", "new")
        write_text(folder / "one" / "weights", "new")

    for at in range(1, points(linked("count"), write) + 1):
        after(linked(f"{at}"), write, at, "kill")
        assert {path.name for path in (tmp_path / f"{at}-outside").iterdir()} == {"recipe.json", "weights"}, at


def test_what_was_done_is_said(tmp_path):
    """A kill before anything was moved, or after all was, has nothing to say; between, that all is as it was."""
    said: list[list[str]] = []
    for at in range(1, points(old(tmp_path / "count"), begin) + 1):
        folder = old(tmp_path / str(at))
        with faults(at, "kill"), suppress(Killed):
            begin(folder)
        said.append([words.removeprefix(f"{folder}: ") for words in recover_transactions(folder)])
        assert recover_transactions(folder) == []
    assert said[0] == [] and ["one --again was interrupted; its changes were rolled back."] in said
