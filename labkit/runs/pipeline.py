"""The whole recipe as one generator of events: tokenizer, then each stage trained and measured, then the report.

    for event in run(make_recipe("smoke"), "runs/first"):
        print(event.stage, event.phase, event.steps_done, event.total)

Command line, app, notebooks and tests read the same events. Stopping is `break`; going on is `resume=True`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from labkit import machine
from labkit.errors import LabError
from labkit.evaluation.samples import sample_answers
from labkit.files import DiskFull, follow_link
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer
from labkit.runs.folder import Run, run_file_names
from labkit.runs.imports import suggest_imports
from labkit.runs.kept_texts import check_kept_texts
from labkit.runs.locked import lock_and_open_run, lock_and_recover_run_folder
from labkit.runs.needed_stages import check_needed_stages, warn_of_missing_weights
from labkit.runs.prepare import models_on, prepare_inputs
from labkit.runs.recipe import Recipe
from labkit.runs.stage_folder import StageFolder
from labkit.runs.transactions import FolderTransaction, commit_pending_transactions, remove_path, transaction
from labkit.stages import Stage, StageInputs
from labkit.stages.doctor import Doctor, Finding
from labkit.stages.registry import DATA_FIELDS
from labkit.text.reading.files import find_files
from labkit.training.config import BatchSource, StepRecord, StopTraining
from labkit.training.engine import call_on_device
from labkit.training.loop import fit
from labkit.training.processes import accelerator, initial_device, shards_models


class Progress(NamedTuple):
    """One event of a run.

    stage: "tokenizer", a stage's name, or what was read (text, instructions, preferences). phase: "read" (with the
    record of the reading as `result`), "prepare", "train" (one event a step, with its `record`), "advice" (what the
    doctor found, with a `Finding` as `result`), "evaluate" (before it begins), "finished" (with the stage's `result`,
    its entry in the report) or "skipped" (it was finished before). steps_done, total_steps: steps.
    """

    stage: str
    phase: Literal["read", "prepare", "train", "advice", "evaluate", "finished", "skipped"]
    steps_done: int = 0
    total_steps: int = 0
    record: StepRecord | None = None
    result: dict[str, Any] | None = None


class BoundStage(NamedTuple):
    """A stage of a run, as it is made or measured. predecessor: what it begins with; see `Recipe.predecessor`."""

    name: str
    config: Stage
    predecessor: str | None
    folder: StageFolder
    fingerprint: str
    inputs: StageInputs


def run(
    recipe: Recipe,
    path: str | Path,
    stages: Sequence[str] | None = None,
    resume: bool = False,
    build_on: str | Path | None = None,
) -> Generator[Progress, None, None]:
    """Make `recipe` in the folder `path`: all of its stages, or those named.

    resume: continue the run in the folder from its last checkpoint; finished stages are kept. An empty folder, or
    none, is begun anew. build_on: begin with what the run in that folder has made of the stages before those named.

    The folder is this process's alone until the generator ends or is closed (or `StopTraining` is thrown into it, by
    every process after the same step, which saves a checkpoint). Whatever can be refused is refused before
    the first step, and leaves the folder as it was: raises LabError for a folder in use (without `resume`), of another
    recipe or another process's, for a stage that the recipe has not or whose forerunner is missing, and all that the
    stages raise.
    """
    path, chosen = Path(path), _chosen(recipe, stages)
    with _alone(path), ExitStack() as stack:
        opened, begun = _opened(recipe, path, resume, build_on, chosen, stack)
        try:
            yield from _made(opened, chosen, lambda: _keep(opened, begun))
        except (GeneratorExit, KeyboardInterrupt, StopTraining):  # stopped, not refused: what is there can be resumed
            if begun is not None:
                begun.commit()
            raise


def check_plan(recipe: Recipe, stages: Sequence[str] | None = None, build_on: str | Path | None = None) -> None:
    """Raises LabError for what `run` would refuse of a new run before it reads anything: inputs that are not there, a
    stage that the recipe has not or whose forerunner nobody makes, and a run to build on whose stages are not finished
    or would be others.
    """
    chosen = _chosen(recipe, stages)
    for field in DATA_FIELDS:
        if getattr(recipe, field) is not None:
            find_files(getattr(recipe, field))
    before = _before(recipe, chosen)
    if build_on is not None:
        Run.open(build_on).check_branch(recipe, before)
    elif before:
        raise LabError(
            f"{', '.join(chosen)} needs {', '.join(before)} first. Train these stages too, or name a run to start from."
        )


def _made(opened: Run, chosen: Sequence[str], ready: Callable[[], object]) -> Iterator[Progress]:
    """The tokenizer and those of the stages that are not finished; see `_stage` for `ready`."""
    start = time.perf_counter()
    yield Progress("tokenizer", "prepare")
    unfinished = [name for name in chosen if not opened.stage(name).finished]
    check_needed_stages(opened, unfinished)
    for name in unfinished:
        opened.stage(name).check_weights_are_there()
    warn_of_missing_weights(opened, [name for name in chosen if name not in unfinished])
    with _unchanged_if_refused(opened):
        stage_inputs = prepare_inputs(opened)
        for name, record in opened.reading.items():
            yield Progress(name, "read", result=record)
        stages = [bind_stage(opened, name, stage_inputs) for name in chosen]
        _check(opened, [stage for stage in stages if stage.name in unfinished])
    spent = time.perf_counter() - start
    for stage in stages:
        if stage.folder.finished:
            if accelerator().is_main_process:
                stage.folder.clear_checkpoints()  # a kill may have come before that
            yield Progress(stage.name, "skipped", result=stage.folder.result)
            continue
        yield from _stage(opened, stage, spent, ready)
        spent = 0.0
    if accelerator().is_main_process:
        ready()
        opened.refresh_report()


def rerun_stage(path: str | Path, stage: str, config: Stage | None = None) -> Generator[Progress, None, None]:
    """Make one stage of a run again, with another config when one is given, and drop the stages that build on it.

    What was there is set aside before the first step, and removed when the stage is finished; until then
    `undo_unfinished_rerun` brings it back. Raises LabError, with the folder as it was, for all that `run` refuses, and
    while another stage is being made again.
    """
    path = Path(path)
    with _alone(path):
        opened = Run.open(path)
        opened.stage(stage)
        opened.check_no_other_rerun(stage)
        opened.check_same_recipe(opened.recipe)
        torch.set_num_threads(opened.threads)
        if config is not None:
            opened.recipe = opened.recipe.with_stages(**{stage: config})
        start = time.perf_counter()
        yield Progress("tokenizer", "prepare")
        check_needed_stages(opened, [stage])
        with _unchanged_if_refused(opened):
            made = bind_stage(opened, stage, prepare_inputs(opened))
            _check(opened, [made], from_start=[stage])
        spent = time.perf_counter() - start
        yield from _stage(opened, made, spent, lambda: opened.begin_rerun(stage))


def undo_unfinished_rerun(path: str | Path, stage: str) -> None:
    """Bring back what `rerun_stage` has set aside. Raises LabError when the stage is not being made again."""
    with lock_and_open_run(path) as opened:
        opened.undo_unfinished_rerun(stage)


def recover_run_folder(path: Path) -> Path:
    """A run's folder, once its transactions are recovered after a kill: a command reads a run after that.

    Raises LabError as `labkit.runs.folder.lock_and_recover_run_folder` does.
    """
    if accelerator().is_main_process and path.exists():
        with lock_and_recover_run_folder(path):
            pass
    accelerator().wait_for_everyone()
    return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the folder's lock, one for all processes of a command; they read the folder once it is recovered."""
    with lock_and_recover_run_folder(path) if accelerator().is_main_process else nullcontext():
        accelerator().wait_for_everyone()
        yield


@contextmanager
def _resumable() -> Iterator[None]:
    """A disk that is full now hinders a run that can be resumed."""
    try:
        yield
    except DiskFull as error:
        raise DiskFull(error.path, "resume the run") from error


def _opened(
    recipe: Recipe, path: Path, resume: bool, build_on: str | Path | None, chosen: Sequence[str], stack: ExitStack
) -> tuple[Run, FolderTransaction | None]:
    """The run, and for one that is just begun the transaction that removes it again unless it is committed."""
    main, begun = accelerator().is_main_process, None
    if main and not (resume and path.exists() and not Run.is_unused(path)):
        Run.check_unused(path)
        begun = stack.enter_context(transaction(path, "a new run", run_file_names(recipe)))
        opened = Run.create(path, recipe) if build_on is None else _branched(Path(build_on), path, recipe, chosen)
    accelerator().wait_for_everyone()
    if not main and not (path / "recipe.json").is_file():
        raise LabError(
            f"Process {accelerator().process_index} finds no run in {path}, where the first process has one: the "
            "folder of a run must be on a file system that all machines share."
        )
    if begun is None:
        opened = Run.open(path)
        opened.check_same_recipe(recipe)
    torch.set_num_threads(opened.threads)
    return opened, begun


def _branched(source: Path, path: Path, recipe: Recipe, chosen: Sequence[str]) -> Run:
    return Run.open(source).branch(path, recipe, _before(recipe, chosen))


def _before(recipe: Recipe, chosen: Sequence[str]) -> list[str]:
    """The stages that those chosen build on, and that are not among them."""
    needed = {name for stage in chosen for name in recipe.ancestors(stage)} - set(chosen)
    return [name for name in recipe.stages if name in needed]


def _keep(run: Run, begun: FolderTransaction | None) -> None:
    """Nothing is left to refuse: a new run stays, and what is known now of the inputs and their places is written."""
    saved = Run.open(run.path)
    if (run.inputs, run.original_locations) != (saved.inputs, saved.original_locations):
        run.save_recipe()
    if begun is not None:
        begun.commit()


def bind_stage(run: Run, stage_name: str, stage_inputs: StageInputs) -> BoundStage:
    """A stage of a run with all that it is given."""
    recipe, after = run.recipe, run.recipe.predecessor(stage_name)
    bound = stage_inputs.for_stage(after, recipe.preceding_reward_stage(stage_name))
    return BoundStage(
        stage_name, recipe.stages[stage_name], after, run.stage(stage_name), recipe.fingerprint(stage_name), bound
    )


def _check(run: Run, stages: Sequence[BoundStage], from_start: Sequence[str] = ()) -> None:
    """Raises LabError for all that can be known of what was read to hinder one of the stages, before any of them is
    begun. from_start: see `check_kept_texts`.
    """
    if stages and (texts := stages[0].inputs.texts) is not None:
        check_kept_texts(run, texts, [stage.name for stage in stages], from_start)
    for stage in stages:
        for root in filter(None, run.recipe.model_ancestors(stage.name)):
            _check_context(stage, root, run.other_run_stage(root).model_config().context)
        with suggest_imports(run.path, run.imports):
            stage.config.check(stage.inputs, run.recipe.evaluation)


def _check_context(stage: BoundStage, root: str, context: int) -> None:
    if stage.config.train.max_length > context:
        raise LabError(
            f"{stage.name}.train.max_length is {stage.config.train.max_length} tokens, but the context of {root} is "
            f"{context}. Lower {stage.name}.train.max_length."
        )


@contextmanager
def _unchanged_if_refused(run: Run) -> Iterator[None]:
    """Remove what an error leaves new in a run's folder: what was made to be read by a stage that is now refused."""
    paths = [run.path / name for name in run_file_names(run.recipe)]
    new = [path for path in paths if not path.exists()]
    try:
        yield
    except Exception:
        if accelerator().is_main_process:
            for path in new:
                remove_path(follow_link(path))  # a link that led to no file stays
        raise


def evaluate_finished_stage(run: Run, stage_name: str, stage_inputs: StageInputs) -> dict[str, Any]:
    """The metrics and samples of a finished stage, taken of the weights that are in its folder now."""
    stage = bind_stage(run, stage_name, stage_inputs)
    folder = stage.folder
    assert folder.result is not None
    found = _measure(run, stage, folder.model() if folder.generates_text else folder.reward_model())
    known = {
        stage_name: folder.result["metrics"][stage_name]
        for stage_name in ("untrained_loss",)
        if stage_name in folder.result["metrics"]
    }
    return {**found, "metrics": known | found["metrics"]}


def _chosen(recipe: Recipe, stages: Sequence[str] | None) -> list[str]:
    unknown = [name for name in stages or [] if name not in recipe.stages]
    if unknown:
        planned = {one.name: one.stage.reads for one in recipe.plan}
        reads = dict.fromkeys(planned[name] for name in unknown if name in planned)
        reason = f" (on real text it takes {' and '.join(f'--{field}' for field in reads)})" if reads else ""
        raise LabError(f"This recipe has no stage {', '.join(unknown)}; it has {', '.join(recipe.stages)}{reason}.")
    return [name for name in recipe.stages if stages is None or name in stages]


def _stage(run: Run, stage: BoundStage, preparation: float, ready: Callable[[], object]) -> Iterator[Progress]:
    """Train and measure one stage. preparation: seconds, counted as part of it. ready: called when nothing is left to
    refuse, before the folder is changed.
    """
    name, config, folder, steps = stage.name, stage.config, stage.folder, stage.config.train.steps
    machine.reset_peak_memory_stats()
    clock = _Clock(preparation)
    yield Progress(name, "prepare", 0, steps)
    with clock, _unchanged_if_refused(run):
        given = models_on(run, stage.inputs, initial_device())
        model = config.initial_model(given).to(initial_device())
        source = config.source(given, model)
        untrained = call_on_device(model, lambda one: config.validation_loss(one, given, run.recipe.evaluation))
    if accelerator().is_main_process:
        ready()
    accelerator().wait_for_everyone()
    with _resumable():
        doctor, records = Doctor(name, config, untrained, folder.step_records), _train(run, stage, model, source)
        for record in records:
            try:
                yield Progress(name, "train", record.step, steps, record)
                yield from _advice(name, steps, doctor(record.to_dict()))
            except StopTraining as stop:
                records.throw(stop)
        del records, source  # with what they hold on the device
        yield Progress(name, "evaluate", steps, steps)
        if accelerator().is_main_process:
            with clock:
                result_model = config.result_model(model)
                folder.save_model(result_model)
                measured = _measure_alone(run, stage, result_model)
            measured["metrics"] = ({} if untrained is None else {"untrained_loss": untrained}) | measured["metrics"]
            yield from _advice(name, steps, doctor.finish(measured["metrics"]))
            measured |= {"advice": [one._asdict() for one in doctor.findings]} if doctor.findings else {}
            seconds = round(clock.seconds + _training_seconds(folder), 2)
            result = {"stage": name, "after": stage.predecessor, "seconds": seconds}
            folder.write_result_and_clear_checkpoints(result | _cost(config, model, folder) | measured)
            run.write_report(machine.describe_machine() | {"matrix_peak": _peak()})
            commit_pending_transactions(run.path, f"{name}/result.json")
    accelerator().wait_for_everyone()
    yield Progress(name, "finished", steps, steps, result=folder.result)


def _advice(stage_name: str, steps: int, findings: Sequence[Finding]) -> Iterator[Progress]:
    for found in findings:
        yield Progress(stage_name, "advice", found.step, steps, result=found._asdict())


def _train(run: Run, stage: BoundStage, model: nn.Module, source: BatchSource) -> Generator[StepRecord, None, None]:
    """`fit` with all that the run knows."""

    def validate(trained: Any, step: int) -> dict[str, float]:
        loss = stage.config.validation_loss(trained, stage.inputs, run.recipe.evaluation)
        return {} if loss is None else {"validation_loss": loss}

    return fit(
        model,
        source,
        stage.config.objective,
        stage.config.train,
        folder=stage.folder.path,
        evaluate=validate if stage.config.train.evaluate_every else None,
        recipe_fingerprint=stage.fingerprint,
        seed=run.recipe.seed,
    )


def _measure_alone(run: Run, stage: BoundStage, result_model: Transformer | RewardModel) -> dict[str, Any]:
    """`_measure` by the main process. A model that was sharded is on its CPU now: it is measured on the device where
    that has room for it, the one before it and a reward model, else on the CPU.
    """
    if not shards_models():
        return _measure(run, stage, result_model)
    device, needed = machine.default_device(), 4 * sum(p.nbytes for p in result_model.parameters())
    if needed > machine.free_memory_bytes(device):
        machine.warn_once(f"{device} has no room for the whole models: they are measured on the CPU, which is slower.")
        device = torch.device("cpu")
    return _measure(run, stage._replace(inputs=models_on(run, stage.inputs, device)), result_model.to(device))


def _measure(run: Run, stage: BoundStage, result_model: Transformer | RewardModel) -> dict[str, Any]:
    """The stage's metrics, and its answers to the five prompts that every stage of the run is asked."""
    evaluation, stage_inputs = run.recipe.evaluation, stage.inputs
    metrics = stage.config.evaluate(result_model, stage_inputs, evaluation)
    if isinstance(result_model, RewardModel) or not stage.config.policy:
        return {"metrics": metrics}
    known = [data for one in run.recipe.stages.values() if (data := one.eval_data(stage_inputs)) is not None]
    if not known:
        return {"metrics": metrics}
    answers = sample_answers(result_model, stage_inputs.tokenizer, known[-1], evaluation, stage.config.chat)
    return {"metrics": metrics, "samples": [answer._asdict() for answer in answers]}


def _cost(stage: Stage, model: nn.Module, folder: StageFolder) -> dict[str, Any]:
    """What training took. mfu: share of the machine's measured matrix peak while training (PaLM, appendix B)."""
    seconds, records = _training_seconds(folder), folder.step_records
    known = "tokens" in records[-1]  # a step's, as a mean of what it counts
    tokens = round(sum(r["tokens"] * r["counted"] for r in records)) if known else stage.train.total_tokens
    flops = stage.flops(model, tokens)
    return {
        "training_seconds": round(seconds, 2),
        "tokens": tokens,
        "flops": flops,
        "mfu": flops / max(seconds, 1e-9) / (_peak() * accelerator().num_processes),
        "peak_memory_mb": round(machine.peak_memory_mb(), 1),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


@functools.cache
def _peak() -> float:
    return machine.peak_matmul_flops()


def _training_seconds(folder: StageFolder) -> float:
    """Seconds in the stage's optimization steps, before a stop and after it."""
    records = folder.step_records
    return records[-1]["seconds"] if records else 0.0


class _Clock:
    """Adds up the seconds inside its `with` blocks, so that what a consumer does with events does not count."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self.start
