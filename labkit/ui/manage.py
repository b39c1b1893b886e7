"""What may be done to a run: begin it, resume it, give it another name, delete it. Each is checked first, then done."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from labkit.errors import LabError
from labkit.files import absolute_path, explain_write_errors
from labkit.model.transformer import Transformer
from labkit.preferences.store import PreferenceStore
from labkit.runs.arguments import parse_run_arguments
from labkit.runs.jobs import Jobs, RunName, check_new_run_name, refuse_imports, shorten_repr
from labkit.runs.lock import lock_holder
from labkit.runs.pipeline import check_plan
from labkit.runs.plan import PlannedStage, extend_plan, format_plan
from labkit.runs.presets import PRESETS
from labkit.runs.recipe import Recipe
from labkit.stages import DPO, STAGES, stage_kind
from labkit.stages.policy_gradient import PolicyGradientStage
from labkit.stages.registry import DATA_FIELDS
from labkit.stages.reward import AllPairs, PlackettLuce
from labkit.text.tokenizer import MAX_DEFAULT_VOCABULARY
from labkit.ui.lab import Lab, requested_stages, unfinished_stages
from labkit.ui.preferences import export_preferences, run_name_of_source

ENOUGH = 50
"""Votes from which on DPO's metrics begin to mean something."""
CHOSEN = ("--out", "--preset", "--seed", "--build-on", "--stages", "--resume")
"""The flags of `labkit run` that the form gives itself."""
SEEDS = 2**32
LIMITS = {
    "steps": 100_000, "batch_size": 1024, "max_length": 8192, "width": 4096, "depth": 64, "encoder_depth": 64,
    "context": 8192, "intermediate_size": 16_384, "num_experts": 256,
    "num_generations": 64, "gradient_accumulation_steps": 64, "rollout_batches": 64,
}  # fmt: skip
"""The largest number that a page may ask of a setting, by the last part of its name; `LARGEST` of any other."""
LARGEST = 1_000_000
PARAMETERS = 300_000_000
"""Of a model that a page may ask for, at most."""
ANSWERS = 100_000
"""Of the world's prompts that a page may have annotated (prompts x num_generations), at most."""
TOKENS = 2**17
"""Of one batch that a page may ask for (batch_size x max_length), at most."""
ROLLOUT_TOKENS = 8 * TOKENS
"""Of the batches that are drawn together and held until the last of them is learnt from, at most."""
HELP = ("-h", "--help", "--tyro")
"""How flags begin that print something, or write files, instead of setting anything."""


def available_stage_names(lab: Lab | None = None, preset_or_run: Any = None) -> list[str]:
    """The stages that a page can ask for: those of the usual plan, every other kind that there is, and those that the
    plan of a run has which a new one is built on.
    """
    its_own: list[str] = []
    if lab is not None and isinstance(preset_or_run, str) and preset_or_run not in PRESETS:
        with suppress(LabError):
            its_own = [one.name for one in lab.open(preset_or_run).recipe.plan]
    return list(dict.fromkeys([*Recipe().stages, *STAGES, *its_own]))


def start_run(
    lab: Lab,
    jobs: Jobs,
    name: str,
    preset_or_run: str,
    stages: Sequence[str] = (),
    preset_seed: float = 0,
    extra_flags: str = "",
) -> RunName:
    """Begin a run in a process of its own; its name.

    preset_or_run: a preset, or a run whose recipe is taken, and whose stages before those of `stages` are built on.
    stages: to make; empty for all. One that the plan has not is added to it, before the flags are read, which may set
    it; `dpo-strict@sft` says what it comes after. preset_seed: of a preset's run. extra_flags: as on a command line,
    --plan too. Raises LabError for a name that is no plain folder name, or is taken, for a run to start from without
    stages, for flags that the others are, for a file outside of `lab.inputs`, and, before any process is begun, for
    settings that make no recipe, or one that asks for more than a page may.
    """
    arguments = run_arguments(lab, name, preset_or_run, stages, preset_seed, extra_flags)
    name = check_new_run_name(name)
    jobs.start(name, ["run", *arguments])
    return name


def run_arguments(
    lab: Lab, name: str, preset_or_run: str, stages: Sequence[str], preset_seed: float, extra_flags: str
) -> list[str]:
    """The arguments of `labkit run` that `start_run` begins a run with, checked as it says."""
    name = check_new_run_name(name)
    if name in lab.all_run_names() or (lab.folder / name).exists():
        raise LabError(f"There is a run {name} already. Choose another name, or resume that one.")
    _check_stages(lab, preset_or_run, stages)
    is_preset = isinstance(preset_or_run, str) and preset_or_run in PRESETS
    if not is_preset and not stages:
        raise LabError(
            f"Choose the stages to train; {name} takes what comes before them from {shorten_repr(preset_or_run)}."
        )
    flags = _flags(extra_flags)
    _check_files(lab, flags)
    if not isinstance(preset_seed, int | float) or not math.isfinite(preset_seed) or not 0 <= preset_seed < SEEDS:
        raise LabError(f"A seed must be a whole number from 0 to {SEEDS - 1}, not {shorten_repr(preset_seed)}.")
    preset = ["--preset", preset_or_run, "--seed", str(int(preset_seed))]
    what = preset if is_preset else ["--build-on", str(lab.path(preset_or_run))]
    names = [stage.partition("@")[0] for stage in stages]
    chosen = ["--stages", *names] if stages else []
    arguments = _planned(["--out", str(lab.folder / name), *what, *chosen], stages, flags)
    _, recipe = parse_run_arguments(arguments)
    _check_other_runs(lab, recipe)
    check_plan(recipe, names or None, None if is_preset else lab.path(preset_or_run))
    _check_size(recipe)
    return arguments


def _check_stages(lab: Lab, preset_or_run: Any, stages: Any) -> None:
    """Raises LabError for what is no list of names of stages, each with or without what it comes after (ppo@dpo)."""
    try:
        if not isinstance(stages, list | tuple):
            raise TypeError
        for stage in stages:
            stage_kind(stage.partition("@")[0])
    except (LabError, AttributeError, TypeError):
        known = ", ".join(available_stage_names(lab, preset_or_run))
        raise LabError(f"{shorten_repr(stages)} are not stages; the stages are {known}.") from None


def _planned(arguments: list[str], stages: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments with the flags, and with a plan that has all the stages, where the one that they start from, or
    that the flags name, has not.
    """
    plan, others = _part_plan(flags)
    given = [] if plan is None else ["--plan", plan]
    if not stages:
        return [*arguments, *given, *others]
    _, recipe = parse_run_arguments([*arguments, *given])
    extended = extend_plan(recipe.plan, stages)
    if extended != format_plan(recipe.plan):
        given = ["--plan", extended]
    return [*arguments, *given, *others]


def _part_plan(flags: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of --plan among the flags, the last if it stands there twice, and the other flags."""
    plan, others, left = None, list[str](), list(flags)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name == "--plan" and (equals or left):
            plan = value if equals else left.pop(0)
        else:
            others.append(f"{name}{equals}{value}")
    return plan, others


def _check_other_runs(lab: Lab, recipe: Recipe) -> None:
    """Raises LabError for a stage of a run that is not one of the page's."""
    mine = {lab.path(name).resolve() for name in lab.all_run_names()}
    for place in recipe.other_run_stages:
        if lab.inputs is not None and Path(place).parent.resolve() not in mine:
            raise LabError(f"{place} is not a stage of a run in {lab.folder}. Only the command line can use it.")


def _check_size(recipe: Recipe) -> None:
    """Raises LabError for a model, or a batch of one of its stages, that is larger than a page may ask for."""
    model = dataclasses.replace(recipe.model, vocabulary=recipe.tokenizer.vocabulary or MAX_DEFAULT_VOCABULARY)
    parameters = model.min_parameter_count
    if parameters <= PARAMETERS:  # so that it can be built, without weights, and counted
        with torch.device("meta"):
            parameters = sum(weights.numel() for weights in Transformer(model).parameters())
    if parameters > PARAMETERS:
        raise LabError(
            f"A model of {parameters:,} parameters is above this page's limit, {PARAMETERS:,}. Choose a smaller "
            f"model.width, model.depth or tokenizer.vocabulary, or use the command line."
        )
    annotation = recipe.annotation
    answers = (annotation.prompts + annotation.held_out) * annotation.num_generations
    if answers > ANSWERS:
        raise LabError(
            f"{answers:,} annotated answers are above this page's limit, {ANSWERS:,}. Lower annotation.prompts, "
            f"annotation.held_out or annotation.num_generations, or use the command line."
        )
    for name, stage in recipe.stages.items():
        train = stage.train
        listed = annotation.format == "rankings" and isinstance(getattr(stage, "loss", None), AllPairs | PlackettLuce)
        rows = train.batch_size * (annotation.num_generations if listed else 1)
        if rows * train.max_length > TOKENS:
            raise LabError(
                f"{name}: {rows:,} rows of {train.max_length:,} tokens are above this page's limit, "
                f"{TOKENS:,} tokens. Lower {name}.train.batch_size, or use the command line."
            )
        batches = stage.batches_per_rollout if isinstance(stage, PolicyGradientStage) else 1
        if batches * rows * train.max_length > ROLLOUT_TOKENS:
            raise LabError(
                f"{name}: a rollout of {batches:,} batches of {rows:,} rows of {train.max_length:,} tokens is above "
                f"this page's limit, {ROLLOUT_TOKENS:,} tokens. Lower {name}.train.batch_size, "
                f"{name}.train.gradient_accumulation_steps or {name}.rollout_batches, or use the command line."
            )


def _flags(more: str) -> list[str]:
    """Further settings, as `labkit run` takes them. Raises LabError as `start_run` does."""
    try:
        if "\0" in more:
            raise ValueError("there is a null character")
        flags = shlex.split(more)
    except (ValueError, AttributeError, TypeError) as error:
        raise LabError(f"The settings cannot be read: {error}.") from error
    refuse_imports(flags)
    spelled = {flag: flag.partition("=")[0].replace("_", "-") for flag in flags}
    twice = [flag for flag, plain in spelled.items() if plain in CHOSEN]
    helps = [flag for flag in flags if flag.startswith(HELP)]
    if helps:
        raise LabError(f"{', '.join(helps)} is not a setting; remove it. `labkit recipe` lists all settings.")
    if twice:
        raise LabError(f"{', '.join(twice)} is set by the fields above; remove it from “More settings”.")
    setting = ""
    for flag in flags:
        value = flag
        if flag.startswith("--"):
            setting, _, value = flag.partition("=")
        most = LIMITS.get(setting.lstrip("-").replace("-", "_").rpartition(".")[2], LARGEST)
        if _number(value) > most:
            raise LabError(f"{setting} {value} is above this page's limit, {most:,}. Use the command line.")
    return flags


def _check_files(lab: Lab, flags: Sequence[str]) -> None:
    """Raises LabError for a file to train on that lies outside of the folder of the app, or is hidden in it."""
    if lab.inputs is None:
        return
    inside = lab.inputs.resolve()
    for flag, after in itertools.pairwise([*flags, ""]):
        name, _, behind = flag.partition("=")
        if name.lstrip("-") not in DATA_FIELDS:
            continue
        value = behind or after
        file = absolute_path(value)
        if not file.is_relative_to(inside) or any(part.startswith(".") for part in file.relative_to(inside).parts):
            raise LabError(
                f"{value} is outside of the folder that the app was started in, or hidden there. Copy it into that "
                f"folder, or start the app with --any-file."
            )


def _number(text: str) -> float:
    """A text as a number; 0 for one that is none."""
    try:
        return abs(float(text))
    except ValueError:
        return 0.0


def resume_run(lab: Lab, jobs: Jobs, name: str) -> RunName:
    """Resume a run that was stopped, with the stages that it was asked for; its name.

    Raises LabError when nothing is left to train, and for a run that is running or comes with labkit.
    """
    run = lab.open(name)
    check_idle(lab, jobs, name)
    if not unfinished_stages(jobs, run):
        raise LabError(f"{name} is finished. To train a stage of it again, start a new run from it.")
    asked = requested_stages(jobs, run)
    chosen = ["--stages", *asked] if asked != list(run.recipe.stages) else []
    jobs.start(name, ["run", "--out", str(run.path), "--resume", *chosen])
    return name


def voted_runs(lab: Lab, store: PreferenceStore) -> list[tuple[str, int]]:
    """The runs with a fine-tuned model, each with how many votes prefer one of its answers or another to it; first
    those that were voted on most.
    """
    counts = Counter[str]()
    for sources, count in store.decisive_votes_by_source_pair().items():
        counts.update(dict.fromkeys({run_name_of_source(source) for source in sources}, count))
    tuned = [name for name in lab.runs_with_model_failed_last() if lab.open(name).latest_sft_stage()]
    return sorted([(name, counts[name]) for name in tuned], key=lambda found: -found[1])


class StartedRun(NamedTuple):
    """The name of a run that was begun, and what to know of it, as a sentence."""

    name: str
    message: str


def train_on_votes(lab: Lab, jobs: Jobs, store: PreferenceStore, name: str) -> StartedRun:
    """Begin DPO on the votes, from a run's fine-tuned model, as a new run.

    Raises LabError when no vote prefers one answer, or the run has no fine-tuned model.
    """
    base = lab.open(name)
    tuned = base.latest_sft_stage()
    if tuned is None or not tuned.finished:
        raise LabError(f"{name} has no fine-tuned model yet that could be trained on votes. Choose another run.")
    new, folder, kept = _claim(lab, name)
    with _removed_on_failure(folder), _removed_on_failure(kept), explain_write_errors(kept):
        votes = export_preferences(store, kept)
        pairs = votes.read_bytes().count(b"\n")
        kept_stages = [*base.recipe.ancestors(tuned.name), tuned.name]
        before = [one for one in base.recipe.plan if one.name in kept_stages]
        plan = (*before, PlannedStage(DPO.kind, _for_votes(base.recipe, pairs, tuned.model_config().context)))
        base.branch(folder, dataclasses.replace(base.recipe, preferences=str(votes), plan=plan), kept_stages)
        jobs.start(new, ["run", "--out", str(folder), "--resume", "--stages", DPO.kind])
    if pairs >= ENOUGH:
        return StartedRun(new, f"{new} is trained on the votes that prefer an answer: {pairs}.")
    return StartedRun(
        new,
        f"{new} is trained on the votes that prefer an answer: {pairs}. Too few votes: it will overfit. Collect "
        f"{ENOUGH} or more before you trust its metrics.",
    )


def _claim(lab: Lab, name: str) -> tuple[str, Path, Path]:
    """A name that nobody has for what learns from a run's votes, its folder, and the folder of the votes.

    Both are made here, so that two who ask at once get two. A run that was renamed reads its votes under its old name.
    """
    for number in itertools.count(1):
        new = f"{name[:50]}-votes-{number}"
        folder, kept = lab.folder / new, lab.folder / ".votes" / new
        if folder.exists():
            continue
        with explain_write_errors(kept), suppress(FileExistsError):
            kept.mkdir(parents=True)
            with _removed_on_failure(kept):
                folder.mkdir()
                return new, folder, kept
    raise AssertionError("a number is infinite")


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Take a folder that was made just now away again when what it was made for fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _for_votes(recipe: Recipe, pairs: int, context: int) -> DPO:
    """DPO for so many pairs, in rows as long as the model reads: people's prompts are longer than the world's."""
    known = next((one.stage for one in recipe.plan if isinstance(one.stage, DPO)), DPO())
    train = known.train
    rows = min(train.batch_size, max(2, pairs // 2))
    steps = max(20, min(train.steps, 6 * pairs // rows))
    length = context
    few = dataclasses.replace(train, batch_size=rows, steps=steps, max_length=length, checkpoint_every=10)
    return dataclasses.replace(known, train=few)


def rename_run(lab: Lab, jobs: Jobs, name: str, new_name: str) -> RunName:
    """Give a run another name; the new one.

    Raises LabError for a name that no run may have, or one has, and for a run that is running or comes with labkit.
    """
    new_name = check_new_run_name(new_name)
    path = check_idle(lab, jobs, name)
    if new_name in (*lab.all_run_names(), *jobs.names()) or (lab.folder / new_name).exists():
        raise LabError(f"There is a run {new_name} already. Choose another name.")
    with explain_write_errors(path):
        if path.exists():  # else it never began
            path.rename(lab.folder / new_name)
        jobs.move_records(name, new_name)
    return new_name


def delete_run(lab: Lab, jobs: Jobs, name: str, typed_name: Any) -> None:
    """Delete a run, with all that it made. typed_name: its name, typed again.

    It is set aside first, at once, so that a kill leaves all of it or nothing in sight. Raises LabError when it is not
    confirmed, and for a run that is running or comes with labkit.
    """
    path = check_idle(lab, jobs, name)
    if not isinstance(typed_name, str) or typed_name.strip() != name:
        raise LabError(f"To delete {name}, type its name. Nothing was deleted.")
    aside = lab.folder / f".{name}.deleted"
    with explain_write_errors(path):
        shutil.rmtree(aside, ignore_errors=True)
        if path.is_symlink():  # what it leads to is not ours
            path.unlink()
        elif path.exists():
            path.rename(aside)
            shutil.rmtree(aside)
        jobs.forget(name)


def check_idle(lab: Lab, jobs: Jobs, name: str) -> Path:
    """The folder of a run that may be changed; of one that failed to start, where it would be.

    Raises LabError for one that is running, here or where its command was given, or comes with labkit.
    """
    path = lab.folder / name if name in runs_without_folder(lab, jobs) else lab.path(name)
    if path == lab.demo:
        raise LabError(f"{name} comes with labkit and cannot be changed. Start a new run from it.")
    if jobs.is_running(name):
        raise LabError(f"{name} is running. Stop it first.")
    at_work = lock_holder(path)
    if at_work:
        raise LabError(at_work)
    if not os.access(lab.folder, os.W_OK):
        raise LabError(f"{lab.folder} cannot be written to, so {name} was not changed.")
    return path


def runs_without_folder(lab: Lab, jobs: Jobs) -> list[str]:
    """The runs that have no folder with a recipe, but had a process: they are just starting, or failed to."""
    begun = lab.all_run_names()
    return [name for name in jobs.names() if name not in begun]
