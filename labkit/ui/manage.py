"""What may be done to a run: begin it, resume it, give it another name, delete it. Each is checked first, then done."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.files import disk_errors
from labkit.jobs import Jobs, check_new_name, shortened
from labkit.preferences.store import Store
from labkit.recipe import PRESETS, Recipe
from labkit.runs import Run
from labkit.ui.lab import Lab
from labkit.ui.preferences import export

ENOUGH = 50
"""Votes from which on DPO's measures begin to mean something."""
CHOSEN = ("--out", "--preset", "--seed", "--build-on", "--stages", "--resume")
"""The flags of `labkit run` that the form gives itself."""
SEEDS = 2**32
LIMITS = {"steps": 100_000, "rows": 1024, "length": 8192, "width": 4096, "depth": 64, "context": 8192, "hidden": 16_384}
"""The largest number that a page may ask of a setting, by the last part of its name; `LARGEST` of any other."""
LARGEST = 1_000_000


def begin(
    lab: Lab, jobs: Jobs, name: str, source: str, stages: Sequence[str] = (), seed: float = 0, more: str = ""
) -> str:
    """Begin a run in a process of its own; its name.

    source: a preset, or a run whose recipe is taken, and whose stages before those of `stages` are built on. stages: to
    make; empty for all. seed: of a preset's run. more: flags as on the command line. Raises LabError for a name that is
    no plain folder name, or is taken, for a run as source without stages, and for flags that the others are, or that
    ask for more than a page may.
    """
    name = check_new_name(name)
    if name in lab.all_names() or (lab.folder / name).exists():
        raise LabError(f"There is a run {name} already. Choose another name, or resume that one.")
    known = list(Recipe().stages)
    if not isinstance(stages, list | tuple) or any(stage not in known for stage in stages):
        raise LabError(f"{shortened(stages)} are not stages; the stages are {', '.join(known)}.")
    is_preset = isinstance(source, str) and source in PRESETS
    if not is_preset and not stages:
        raise LabError(f"Choose the stages to train; {name} takes what comes before them from {shortened(source)}.")
    flags = _flags(more)
    if not isinstance(seed, int | float) or not math.isfinite(seed) or not 0 <= seed < SEEDS:
        raise LabError(f"A seed is a whole number from 0 to {SEEDS - 1}, not {shortened(seed)}.")
    preset = ["--preset", source, "--seed", str(int(seed))]
    what = preset if is_preset else ["--build-on", str(lab.path(source))]
    chosen = ["--stages", *stages] if stages else []
    jobs.start(name, ["run", "--out", str(lab.folder / name), *what, *chosen, *flags])
    return name


def _flags(more: str) -> list[str]:
    """Further settings, as `labkit run` takes them. Raises LabError as `begin` does."""
    try:
        flags = shlex.split(more)
    except (ValueError, AttributeError, TypeError) as error:
        raise LabError(f"The settings cannot be read: {error}.") from error
    spelled = {flag: flag.partition("=")[0].replace("_", "-") for flag in flags}
    twice = [flag for flag, plain in spelled.items() if plain in CHOSEN]
    if twice:
        raise LabError(f"{', '.join(twice)} is chosen by the fields above; leave it out of the further settings.")
    setting = ""
    for flag in flags:
        value = flag
        if flag.startswith("--"):
            setting, _, value = flag.partition("=")
        most = LIMITS.get(setting.replace("_", "-").rpartition(".")[2].lstrip("-"), LARGEST)
        if _number(value) > most:
            raise LabError(f"{setting} {value} is more than a page may ask for, {most:,}. The command line takes it.")
    return flags


def _number(text: str) -> float:
    """A text as a number; 0 for one that is none."""
    try:
        return abs(float(text))
    except ValueError:
        return 0.0


def asked_stages(jobs: Jobs, run: Run) -> list[str]:
    """The stages that a run is to have: those that its last process was asked for, or all of its recipe."""
    flags = jobs.arguments(run.path.name)
    named: list[str] = []
    if "--stages" in flags:
        after = flags[flags.index("--stages") + 1 :]
        named = list(itertools.takewhile(lambda flag: not flag.startswith("--"), after))
    return [stage for stage in run.recipe.stages if not named or stage in named]


def unfinished(jobs: Jobs, run: Run) -> list[str]:
    """The stages that were asked for and are not finished."""
    return [name for name in asked_stages(jobs, run) if not run.stage(name).finished]


def resume(lab: Lab, jobs: Jobs, name: str) -> str:
    """Resume a run that was stopped, with the stages that it was asked for; its name.

    Raises LabError when nothing is left to train, and for the run that comes with labkit.
    """
    run = lab.run(name)
    _check_ours(lab, name)
    if not unfinished(jobs, run):
        raise LabError(f"{name} is finished. To train a stage of it again, begin a new run that builds on it.")
    asked = asked_stages(jobs, run)
    chosen = ["--stages", *asked] if asked != list(run.recipe.stages) else []
    jobs.start(name, ["run", "--out", str(run.path), "--resume", *chosen])
    return name


def train_on_votes(lab: Lab, jobs: Jobs, store: Store, name: str) -> tuple[str, str]:
    """Begin DPO on the votes, from a run's fine-tuned model, as a new run; its name, and what to know of it.

    Raises LabError when no vote prefers one answer, or the run has no fine-tuned model.
    """
    base = lab.run(name)
    if "sft" not in base.recipe.stages or not base.stage("sft").finished:
        raise LabError(f"{name} has no fine-tuned model yet to learn from votes. Choose another run.")
    names = (f"{name[:50]}-votes-{number}" for number in itertools.count(1))
    new = next(free for free in names if not (lab.folder / free).exists())
    folder = lab.folder / ".votes" / new
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        votes = export(store, folder)
    pairs = sum(1 for _ in votes.open(encoding="utf-8"))
    train = base.recipe.dpo.train
    rows = min(train.rows, max(2, pairs // 2))
    few = dataclasses.replace(train, rows=rows, steps=max(20, min(train.steps, 6 * pairs // rows)), checkpoint_every=10)
    recipe = dataclasses.replace(
        base.recipe, preferences=str(votes), dpo=dataclasses.replace(base.recipe.dpo, train=few)
    )
    branched = base.branch(lab.folder / new, recipe, ["pretrain", "sft"])
    jobs.start(new, ["run", "--out", str(branched.path), "--resume", "--stages", "dpo"])
    if pairs >= ENOUGH:
        return new, f"{new} learns from {pairs} votes."
    return new, (
        f"{new} learns from {pairs} votes. Too few votes: it will overfit. Collect {ENOUGH} or more before you believe "
        f"the measures."
    )


def rename(lab: Lab, jobs: Jobs, name: str, new: str) -> str:
    """Give a run another name; the new one.

    Raises LabError for a name that no run may have, or one has, and for a run that is running or comes with labkit.
    """
    new = check_new_name(new)
    check_idle(lab, jobs, name)
    if new in lab.all_names() or (lab.folder / new).exists():
        raise LabError(f"There is a run {new} already. Choose another name.")
    path = lab.path(name)
    with disk_errors(path):
        path.rename(lab.folder / new)
        jobs.rename(name, new)
    return new


def delete(lab: Lab, jobs: Jobs, name: str, confirmed: Any) -> None:
    """Delete a run, with all that it made. confirmed: its name, typed again.

    It is set aside first, at once, so that a kill leaves all of it or nothing in sight. Raises LabError when it is not
    confirmed, and for a run that is running or comes with labkit.
    """
    check_idle(lab, jobs, name)
    if not isinstance(confirmed, str) or confirmed.strip() != name:
        raise LabError(f"To delete {name}, type its name. Nothing was deleted.")
    path = lab.path(name)
    aside = lab.folder / f".{name}.deleted"
    with disk_errors(path):
        shutil.rmtree(aside, ignore_errors=True)
        if path.is_symlink():  # what it leads to is not ours
            path.unlink()
        else:
            path.rename(aside)
            shutil.rmtree(aside)
        jobs.forget(name)


def check_idle(lab: Lab, jobs: Jobs, name: str) -> Path:
    """The folder of a run that may be changed. Raises LabError for one that is running or comes with labkit."""
    path = lab.path(name)
    _check_ours(lab, name)
    if jobs.running(name):
        raise LabError(f"{name} is running. Stop it first.")
    if not os.access(lab.folder, os.W_OK):
        raise LabError(f"{lab.folder} cannot be written to, so {name} stays as it is.")
    return path


def _check_ours(lab: Lab, name: str) -> None:
    if lab.shipped(name):
        raise LabError(f"{name} comes with labkit and stays as it is. Begin a new run that builds on it.")
