"""What a run's folder is after a command that was refused, that failed anywhere, or that was killed anywhere."""

import errno
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.files import read_json
from labkit.runs.folder import Run
from labkit.runs.pipeline import rerun_stage, run, undo_unfinished_rerun
from labkit.runs.transactions import FolderTransaction
from tests.faults import Killed, Kind, bury, faults, tree
from tests.tiny_run import OTHER, RECIPE, STAGES, make, stub, weights

SHARED_BY_THREE = RECIPE.with_stages(ppo=replace(RECIPE.stages["ppo"], num_generations=3))
POINTS = 8
"""At how many of a command's file operations it is stopped: at random ones, and at the first and the last."""


@pytest.fixture(scope="module")
def stubbed():
    with pytest.MonkeyPatch.context() as patched:
        stub(patched)
        patched.setattr("labkit.reporting.page.write_report", lambda folder: folder / "report.html")
        patched.setattr("labkit.reporting.terminal.format_run_metrics", lambda folder: "")
        yield


@pytest.fixture(scope="module")
def made(stubbed, tmp_path_factory) -> Path:
    """A finished run; beside it, as `half`, one whose pretraining is trained and not measured."""
    path = tmp_path_factory.mktemp("runs") / "made"
    make(RECIPE, path)
    shutil.copytree(path, path.with_name("half"))
    (path.with_name("half") / "pretrain" / "result.json").unlink()
    return path


@pytest.fixture(scope="module")
def straight(made, tmp_path_factory) -> list[dict[str, str]]:
    """The weights that are right: of the recipe, and of the one with another fine-tuning."""
    path = tmp_path_factory.mktemp("runs") / "other"
    make(RECIPE.with_stages(sft=OTHER), path)
    return [weights(made), weights(path)]


def again(path: Path) -> None:
    for _ in rerun_stage(path, "sft", OTHER):
        pass


def resume(path: Path) -> None:
    """What a user does next."""
    assert main(["run", "--preset", "smoke", "--out", str(path), "--resume", "--stages", *STAGES]) == 0


def begun(path: Path) -> None:
    """Fine-tuning made again up to its first step."""
    next(event for event in rerun_stage(path, "sft", OTHER) if event.record)


# Refused


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a run in its place": (lambda path: make(RECIPE, path), "already contains a run"),
    "another recipe": (
        lambda path: make(replace(RECIPE, seed=1), path, resume=True),
        "a different recipe .seed: 0, not 1",
    ),
    "a stage that is not there": (lambda path: make(RECIPE, path, ["grpo"], resume=True), "no stage grpo"),
    "rows longer than the context": (
        lambda path: list(rerun_stage(path, "sft", replace(OTHER, train=replace(OTHER.train, max_length=4096)))),
        "sft.train.max_length is 4096 tokens, but the model's context is 128",
    ),
    "a stage whose forerunner is missing": (
        lambda path: list(rerun_stage(path, "ppo", replace(RECIPE.stages["ppo"], num_generations=3))),
        "ppo builds on reward, and reward is not finished",
    ),
    "nothing to undo": (lambda path: undo_unfinished_rerun(path, "sft"), "sft is not being trained again"),
    "a branch in its place": (lambda path: make(RECIPE, path, ["sft"], build_on=path), "already contains a run"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_command_leaves_the_folder_as_it_was(made, tmp_path, name):
    path = Path(shutil.copytree(made, tmp_path / "run"))
    command, words = REFUSED[name]
    before = tree(path)
    with pytest.raises(LabError, match=words):
        command(path)
    assert tree(path) == before


NEVER_BEGUN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a stage without its forerunner": (lambda path, made: make(RECIPE, path, ["sft"]), "pretrain is not finished"),
    "an annotator whom nobody knows": (
        lambda path, made: make(replace(RECIPE, annotation=replace(RECIPE.annotation, annotator="grumpy")), path, None),
        "no annotator 'grumpy'",
    ),
    "answers that no prompts share": (
        lambda path, made: make(SHARED_BY_THREE, path, None),
        "2 answers cannot be split into 3 per prompt",
    ),
    "a branch of another model": (
        lambda path, made: make(replace(RECIPE, seed=1), path, ["sft"], build_on=made),
        "pretrain of .* would be a different model with a different seed",
    ),
    "a branch of what is not finished": (
        lambda path, made: make(RECIPE, path, ["sft"], build_on=made.with_name("half")),
        "half has not finished pretrain. Resume the run first",
    ),
    "a branch of what is not there": (
        lambda path, made: make(RECIPE, path, ["sft"], build_on=made.with_name("none")), "none contains no run"
    ),
    "a branch whose stage is refused": (
        lambda path, made: make(SHARED_BY_THREE, path, ["reward", "ppo"], build_on=made),
        "2 answers cannot be split into 3 per prompt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "a prepared folder"])
@pytest.mark.parametrize("name", NEVER_BEGUN)
def test_a_run_that_is_refused_was_never_begun(made, tmp_path, name, there):
    path = tmp_path / "runs" / "new"
    if there:
        path.mkdir(parents=True)
        Run.create(path, RECIPE)
    before = tree(tmp_path)
    command, words = NEVER_BEGUN[name]
    with pytest.raises(LabError, match=words):
        command(path, made)
    assert tree(tmp_path) == before


def test_a_refused_resume_keeps_where_its_inputs_were(stubbed, tmp_path):
    """An input that is shown its new place is known there once the run goes on, and not before."""
    text, instructions, moved, path = (tmp_path / name for name in ("t.txt", "i.jsonl", "moved.txt", "run"))
    text.write_text("text")
    instructions.write_text("{}")
    recipe = replace(RECIPE, text=str(text), instructions=str(instructions))
    next(event for event in run(recipe, path) if event.record)
    text.rename(moved)
    before, now = tree(path), replace(recipe, text=str(moved))
    with pytest.raises(LabError, match="sft builds on pretrain, and pretrain is not finished"):
        make(now, path, ["sft"], resume=True)
    assert tree(path) == before
    make(now, path, resume=True)
    assert Run.open(path).original_locations[str(text)] == str(moved) and Run.open(path).stage("sft").finished


def test_a_full_disk_says_what_to_do_next(made, tmp_path, monkeypatch):
    """Before a run is begun there is nothing to resume."""

    def full_disk(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    hindrances = {"files": "free some space and try again", "training.checkpoints": "and resume the run"}
    for hindered, words in hindrances.items():
        with monkeypatch.context() as full, pytest.raises(LabError, match=f"The disk is full: .* {words}"):
            full.setattr(f"labkit.{hindered}.fsync_path", full_disk)
            make(RECIPE, tmp_path / hindered)
    make(RECIPE, tmp_path / "training.checkpoints", resume=True)
    assert weights(tmp_path / "training.checkpoints") == weights(made) and not (tmp_path / "files").exists()


def test_nobody_else_changes_a_run_that_is_made(made, tmp_path):
    path = tmp_path / "run"
    events = run(RECIPE, path, STAGES)
    next(event for event in events if event.record)
    before = tree(path)
    for command in (lambda: make(RECIPE, path, resume=True), lambda: again(path), lambda: make(RECIPE, path)):
        with pytest.raises(LabError, match="run is in use: this process is working on it"):
            command()
    assert tree(path) == before
    assert len(Run.open(path).stage("pretrain").step_records) == 1  # whoever reads needs no lock
    events.close()
    make(RECIPE, path, resume=True)
    assert weights(path) == weights(made)


def test_a_folder_that_is_a_link(made, tmp_path):
    """--out through a link, and --build-on into one: the run is where the link leads, and the link stays."""
    for name, options in {"plain": {}, "branch": {"build_on": made}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}-link").symlink_to(name)
        make(RECIPE, tmp_path / f"{name}-link", ["sft"] if options else STAGES, **options)
        assert (tmp_path / f"{name}-link").is_symlink() and weights(tmp_path / name) == weights(made)
    (tmp_path / "dangling").symlink_to("later")
    make(RECIPE, tmp_path / "dangling")
    assert weights(tmp_path / "later") == weights(made)


# Made again


def test_what_is_made_again_is_kept_until_it_is_finished(made, straight, tmp_path):
    path = Path(shutil.copytree(made, tmp_path / "run"))
    before = tree(path)
    begun(path)
    assert not Run.open(path).stage("sft").finished
    assert [stage["stage"] for stage in read_json(path / "report.json")["stages"]] == ["pretrain"]
    undo_unfinished_rerun(path, "sft")
    assert tree(path) == before
    begun(path)
    with pytest.raises(LabError, match="sft is being trained again and not finished. Finish it first .* --undo"):
        list(rerun_stage(path, "dpo"))
    make(Run.open(path).recipe, path, resume=True)
    assert weights(path) == straight[1] and not list(path.glob(".*"))


# Stopped anywhere


@pytest.mark.parametrize("command", ["run --preset smoke --resume --stages pretrain sft --out", "sft"])
def test_a_killed_transaction_is_rolled_back_before_a_command_reads_it(made, tmp_path, monkeypatch, capsys, command):
    """Killed where the new recipe is written and what it replaces is set aside, but that is not said yet."""
    path = Path(shutil.copytree(made, tmp_path / "run"))
    before = tree(path)
    with monkeypatch.context() as dying:
        dying.setattr(FolderTransaction, "mark_pending", lambda begun: killed())
        dying.setattr(FolderTransaction, "rollback", lambda begun: None)
        with pytest.raises(Killed):
            again(path)
    assert tree(path) != before
    code = main([*command.split(), str(path)])
    said = capsys.readouterr().err
    assert "sft --again was interrupted; its changes were rolled back" in said and "another recipe" not in said
    assert code == (2 if command == "sft" else 0) and (command != "sft" or "sft is finished. To train it again" in said)
    assert tree(path) == before


def killed() -> None:
    raise Killed


def start_new(path: Path, made: Path) -> None:
    pass


def start_made(path: Path, made: Path) -> None:
    shutil.copytree(made, path)


def start_begun(path: Path, made: Path) -> None:
    shutil.copytree(made, path)
    begun(path)


COMMANDS: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path, Path], object]]] = {
    "run": (start_new, lambda path, made: make(RECIPE, path)),
    "again": (start_made, lambda path, made: again(path)),
    "again twice": (start_begun, lambda path, made: again(path)),
    "undo": (start_begun, lambda path, made: undo_unfinished_rerun(path, "sft")),
    "build on": (start_new, lambda path, made: make(RECIPE, path, ["sft"], build_on=made)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["error", "kill"])
@pytest.mark.parametrize("name", COMMANDS)
def test_stopped_anywhere_the_next_resume_ends_with_the_right_weights(made, straight, tmp_path, name, kind: Kind):
    start, command = COMMANDS[name]
    start(tmp_path / "count", made)
    with faults() as counted:
        command(tmp_path / "count", made)
    rng = random.Random(f"{name} {kind}")
    points = {1, counted.count, *rng.sample(range(1, counted.count + 1), min(POINTS, counted.count))}
    for at in sorted(points):
        path = tmp_path / str(at)
        start(path, made)
        with faults(at, kind):
            try:
                command(path, made)
            except (LabError, Killed, OSError) as error:
                assert kind == "kill" or isinstance(error, LabError), (at, error)
        bury(path)
        resume(path)
        assert weights(path) == straight[Run.open(path).recipe.stages["sft"] == OTHER], at
        assert {one.name for one in path.iterdir()} == {one.name for one in made.iterdir()}, at
        stages = [stage["stage"] for stage in read_json(path / "report.json")["stages"]]
        assert stages == list(STAGES) and not list(path.glob("*/checkpoints")), at
        lines = (path / "sft" / "metrics.jsonl").read_text().split("\n")
        assert [json.loads(line)["step"] for line in lines if line] == [1, 2], at


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_at_random_moments(made, straight, tmp_path):
    """SIGKILL while fine-tuning is made again, over and over; then it is finished."""
    path, rng = Path(shutil.copytree(made, tmp_path / "run")), random.Random(0)
    for _ in range(8):
        child = os.fork()
        if not child:
            try:
                again(path)
            finally:
                os._exit(0)
        time.sleep(0.3 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    resume(path)
    assert weights(path) == straight[Run.open(path).recipe.stages["sft"] == OTHER] and not list(path.glob(".*"))


def test_a_finished_stage_without_its_weights_is_named(made, tmp_path, capsys):
    """Nobody is given the model of the stage before it instead."""
    path = Path(shutil.copytree(made, tmp_path / "run"))
    (path / STAGES[-1] / "model.safetensors").unlink()
    gone = r"is finished, but its weights \(model.safetensors\) are gone.*--again"
    with pytest.raises(LabError, match=f"{STAGES[-1]} {gone}"):
        Run.open(path).latest_language_model_stage()
    for command in (["run", "--out", str(path), "--resume"], ["generate", str(path), "--stage", STAGES[-1]]):
        assert main(command) == 2 and "its weights (model.safetensors) are gone" in capsys.readouterr().err
    again(path)  # another stage that is there can be trained again
    (path / "pretrain" / "model.safetensors").unlink()
    assert Run.open(path).stage("sft").model_config()
