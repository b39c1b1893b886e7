"""`fit`: the only optimisation loop. Every stage is a source of batches and an objective, handed to it.

    for record in fit(model, source, objective, TrainConfig(steps=100)):
        print(record.step, record.loss)

Stopping is `break`. With a folder the run can also be killed: the next `fit` on that folder goes on from the last
checkpoint and ends, on one process, with the very weights of a run that was never stopped. That needs three things:
the batch and the dropout of a step depend on (seed, step) alone; kernels add up in a fixed order (torch's
deterministic algorithms, which cost nothing measurable here); and the number of threads, which changes how sums are
split, is kept with the checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch import Tensor, nn

from labkit.configs import to_dict
from labkit.errors import LabError
from labkit.machine import autocast, compile_or_eager, float_for_sums, is_out_of_memory, uses_bf16, warn_once
from labkit.model.initial import renamed_weights_older_names
from labkit.training.checkpoints import Checkpoint, Checkpoints, MetricsLog, checkpoint_tensors, open_metrics_log
from labkit.training.config import (
    BatchSource,
    Evaluate,
    Objective,
    StepRecord,
    StopTraining,
    TrainConfig,
    build_optimizer,
    fingerprint,
)
from labkit.training.engine import make_parallel_engine
from labkit.training.prefetch import BatchPrefetcher, prefetch_batches
from labkit.training.processes import accelerator
from labkit.training.sharding import local_shard


def fit(
    model: nn.Module,
    source: BatchSource,
    objective: Objective,
    config: TrainConfig,
    *,
    folder: str | Path | None = None,
    evaluate: Evaluate | None = None,
    recipe_fingerprint: str = "",
    seed: int = 0,
) -> Generator[StepRecord, None, None]:
    """Train `model` in place; yields a StepRecord after each optimizer step.

    The gradient of a step is that of sum(loss_sum) / sum(count) over its `gradient_accumulation_steps` batches and all
    processes: of one big batch. Step s takes the source's batches s n … s n + n - 1, n of them.

    folder: where metrics.jsonl and checkpoints/ go; a run found there goes on from its last checkpoint. Without it
    nothing is written. recipe_fingerprint: a hash of what the run is; a folder of another one is refused. evaluate:
    called every `evaluate_every` steps and after the last. seed: of dropout; the source has its own.

    Raises LabError when the loss or gradient is not a number (the model and the checkpoints keep the last good
    weights), when no label counts, when the disk is full and when the folder is of another recipe.

    On several processes (see `labkit.training.engine`) all of them come here, and end together. By FSDP2 the weights
    are back in `model` at the end only, on the main process's CPU: after a `break`, or an error, they are in the last
    checkpoint. A `break` saves one only where no process needs the others for it; to stop all after the same step,
    throw `StopTraining`.
    """
    with _explain_memory(config):
        loop = _Loop(model, source, objective, config, Path(folder) if folder else None, recipe_fingerprint, seed)
    loop.model.train()
    try:
        with loop.journal():
            for step in range(loop.step, config.steps):
                with _explain_memory(config):
                    record = loop.take(step)
                last = loop.step == config.steps
                if evaluate and (last or (config.evaluate_every and loop.step % config.evaluate_every == 0)):
                    record.metrics.update(loop.engine.call_with_weights(_evaluated, evaluate, loop.step))
                loop.record(record)
                if last or (config.checkpoint_every and loop.step % config.checkpoint_every == 0):
                    loop.save()
                yield record
        loop.optimizer.state.clear()  # before the weights are gathered
        loop.engine.gather_full_weights_to_main_process()
    except GeneratorExit:  # `break`: between two steps, so the weights are whole
        loop.save(together=False)
        raise
    except StopTraining:
        loop.save()
        raise
    finally:
        loop.close()
        model.eval()


class _Loop:
    """The state of one `fit`: what a step changes, and what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource,
        objective: Objective,
        config: TrainConfig,
        folder: Path | None,
        recipe_fingerprint: str,
        seed: int,
    ):
        self.seed = seed
        self.source, self.config, self.folder = source, config, folder
        own_fingerprint = fingerprint({**to_dict(config, legacy_names=True), "seed": seed})
        self.recipe_fingerprint = recipe_fingerprint or own_fingerprint
        self.processes = accelerator()
        self.device = self.processes.device
        self.bf16 = uses_bf16(config.precision, self.device)
        if config.precision == "bf16" and not self.bf16:
            what = "processor" if self.device.type == "cpu" else "device"
            warn_once(f"This {what} has no bf16: training in fp32, which is slower.")
        self.engine = make_parallel_engine(model, self.device, self.bf16)
        self.model = self.engine.model
        self.objective = self._compiled(objective)
        self.compiled = self.objective is not objective
        self.optimizer = build_optimizer(self.model, config, torch.bfloat16 if self.bf16 else torch.float32)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.step, self.saved_step, self.seconds = 0, -1, 0.0
        self.checkpoints = Checkpoints(folder / "checkpoints") if folder else None
        self.written: MetricsLog | None = None
        self._resume()
        self.batches = prefetch_batches(source, config.steps * config.gradient_accumulation_steps, self.device)
        self.optimizer.zero_grad()  # whatever was left from before

    def _compiled(self, objective: Objective) -> Objective:
        if not self.config.compile:
            return objective
        if self.engine.gathers:
            warn_once("FSDP2 gathers each block's weights as it computes: training continues without torch.compile.")
            return objective
        return compile_or_eager(objective, "training")

    def take(self, step: int) -> StepRecord:
        """One optimizer step. Raises LabError, with the weights untouched, when loss or gradient is no number."""
        start = time.perf_counter()
        if not self.model.training:
            self.model.train()
        self.optimizer.set_lr_scale(self.config.lr_scale(step))
        with _reproducible(self.seed, step, self.processes.process_index, self.device):
            sums, counts = self._gradients(step)
        count = sums.pop("count")
        if count == 0:
            raise LabError(
                f"Step {step + 1}: no token of the batch is a label. Do all answers begin after train.max_length "
                f"({self.config.max_length} tokens)? Raise it, or shorten the examples."
            )
        loss = sums.pop("loss") / count
        norm = self._scale_gradients(count) if math.isfinite(loss) else math.nan
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise LabError(self._diverged(step, loss, norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step = step + 1
        self.seconds += time.perf_counter() - start
        metrics = {name: total / counts[name] for name, total in sums.items() if counts[name]}
        return StepRecord(self.step, loss, int(count), self.config.main_lr(step), norm, round(self.seconds, 4), metrics)

    def _gradients(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Add up the gradients and sums of a step's batches, over all processes: the sums by their names, and by how
        many labels each is to be divided, those of the batches that have it.
        """
        names: list[str] = []
        totals: Tensor | None = None
        parts = self.config.gradient_accumulation_steps
        for part in range(parts):
            batch = self._next_batch(step * parts + part)
            if self.device.type != "cpu":
                batch = send_to_device(batch, self.device)
            loss_sum, count, metrics = self.engine.backward(self._objective, batch, last_micro_batch=part == parts - 1)
            names, found = ["loss", "count", *metrics], (loss_sum, count, *metrics.values())
            sums = torch.stack([x.to(float_for_sums(self.device)) for x in found])
            absent = sums.isnan()
            absent[:2] = False  # a loss that is no number is an error
            both = torch.stack([sums.masked_fill(absent, 0), sums[1].masked_fill(absent, 0)])
            totals = both if totals is None else totals + both
        assert totals is not None
        if self.processes.num_processes > 1:
            totals = self.processes.reduce(totals, "sum")
        summed, counted = totals.tolist()
        return dict(zip(names, summed, strict=True)), dict(zip(names, counted, strict=True))

    def _next_batch(self, index: int) -> Any:
        """The source's batch of this number. One without state reads no model, so no weights are gathered for it."""
        if getattr(self.source, "stateless", False):
            return self.batches.next_batch(self.model, index)
        return self.engine.call_with_weights(self.batches.next_batch, index)

    def _objective(self, model: Any, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        with autocast(self.device, self.config.precision):
            return self.objective(model, batch)

    def _scale_gradients(self, count: float) -> float:
        """Divide the summed gradients by `count` and clip them; the norm before clipping."""
        gradients = [p.grad for p in self.trained if p.grad is not None]
        norm = self.engine.gradient_norm(gradients) / count
        clip = self.config.max_grad_norm
        scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        torch._foreach_mul_([local_shard(gradient) for gradient in gradients], scale / count)
        return norm

    def _diverged(self, step: int, loss: float, norm: float) -> str:
        what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient's norm became {norm}"
        kept = "" if self.engine.gathers else "The model keeps the weights before this step."
        if self.checkpoints and self.saved_step >= 0:
            path = self.checkpoints.checkpoint_path(self.saved_step)
            kept = f"The weights of step {self.saved_step} are kept in {path}."
        return f"The {what} at step {step + 1}, so training stopped. {kept} Try a smaller learning rate."

    def close(self) -> None:
        """End the workers that make batches ahead, if there are any."""
        if isinstance(self.batches, BatchPrefetcher):
            self.batches.close()

    @contextlib.contextmanager
    def journal(self) -> Iterator[None]:
        """Keeps metrics.jsonl open for `record`; without a folder there is none."""
        if self.folder is None or not self.processes.is_main_process:
            yield
            return
        with open_metrics_log(self.folder / "metrics.jsonl", self.step) as self.written:
            yield

    def record(self, record: StepRecord) -> None:
        """Write a record to metrics.jsonl."""
        if self.written is not None:
            self.written.write(record.to_dict())

    def save(self, together: bool = True) -> None:
        """Write a checkpoint of the step just taken, unless there is one.

        together: whether every process has come here. Where they may not have, the state of the others' sources is
        out of reach; a source that has one is then not saved, and the checkpoint before stays the last.
        """
        if self.checkpoints is None or self.saved_step == self.step:
            return
        sources = [{name: _on_cpu(value) for name, value in self.source.state_dict().items()}]
        if self.processes.num_processes > 1:
            if not together and (sources[0] or self.engine.gathers):
                return
            sources = gather_object(sources) if together else [{}] * self.processes.num_processes
        if self.processes.is_main_process or self.engine.gathers:
            self._write(sources)
        self.saved_step = self.step

    def _write(self, sources: list[dict[str, Any]]) -> None:
        """The checkpoint; sources: the state of each process's."""
        assert self.checkpoints is not None
        if self.written is not None:
            self.written.sync()
        plain = [{name: value for name, value in own.items() if not isinstance(value, Tensor)} for own in sources]
        tensors = {f"source-{rank}": _only_tensors(own) for rank, own in enumerate(sources)}
        state = {"step": self.step, "seconds": self.seconds, "recipe": self.recipe_fingerprint, "sources": plain}
        state["arithmetic"], optimizer = self._arithmetic(), self.optimizer.tensors()
        if self.engine.gathers:
            weights = checkpoint_tensors(self.model, optimizer)
            self.checkpoints.save_shards(self.step, weights, tensors, state, self.processes)
        else:
            self.checkpoints.save(self.step, self.model, {"optimizer": optimizer, **tensors}, state)

    def _latest_checkpoint(self) -> Checkpoint | None:
        """The one that the main process chooses, which alone reads all files to check that they are whole."""
        if self.checkpoints is None:
            return None
        saved = self.checkpoints.latest() if self.processes.is_main_process else None
        if self.processes.num_processes > 1:
            name = broadcast_object_list([saved and saved.folder.name])[0]
            saved = Checkpoint(self.checkpoints.folder / name, verify=False) if name else None
        return saved

    def _arithmetic(self) -> dict[str, Any]:
        """What the last bits of the weights depend on beside the recipe."""
        return {
            "threads": torch.get_num_threads(),
            "processes": self.processes.num_processes,
            "torch": torch.__version__,
            "device": self.device.type,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "bf16": self.bf16,
            "compiled": self.compiled,
        }

    def _resume(self) -> None:
        """Take up the last whole checkpoint, if there is one. Raises LabError when it is of another recipe, or of other
        processes whose sources cannot be shared out anew.
        """
        saved = self._latest_checkpoint()
        if saved is None:
            return
        state = saved.state
        if state["recipe"] != self.recipe_fingerprint:
            raise LabError(
                f"{saved.folder} was saved with a different recipe, so this run cannot be resumed from it. Choose "
                "another folder, or use the recipe that it was started with."
            )
        torch.set_num_threads(state["arithmetic"]["threads"])  # sums are split by threads
        before = {"device": "cpu", **state["arithmetic"]}  # of older checkpoints, which do not say
        differing = [name for name, value in self._arithmetic().items() if before.get(name) != value]
        if differing:
            changed = ", ".join(differing)
            warn_once(f"Since the checkpoint was saved, these changed: {changed}. The last bits of results may differ.")
        if saved.sharded or self.engine.gathers:
            saved.load_into(self.model, self.optimizer.tensors())
        else:
            saved.load_model(self.model)
            self.optimizer.load_tensors(saved.tensors("optimizer"), renamed_weights_older_names(self.model))
        self._load_source(saved)
        self.step, self.saved_step, self.seconds = state["step"], state["step"], state["seconds"]

    def _load_source(self, saved: Checkpoint) -> None:
        """Give the source its state; of another number of processes its part of all states, if it can tell it."""
        plain = saved.state["sources"]
        if len(plain) == self.processes.num_processes:
            rank = self.processes.process_index
            self.source.load_state_dict({**plain[rank], **saved.tensors(f"source-{rank}")})
            return
        states = [{**own, **saved.tensors(f"source-{rank}")} for rank, own in enumerate(plain)]
        if not any(states):
            return
        if not hasattr(self.source, "reshard_states"):
            raise LabError(
                f"{saved.folder} was saved by {len(plain)} processes, each with its own data state. Resume with as "
                "many."
            )
        self.source.load_state_dict(self.source.reshard_states(states))


def _on_cpu(value: Any) -> Any:
    """From which each process can read it."""
    return value.cpu() if isinstance(value, Tensor) else value


def _only_tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


@contextlib.contextmanager
def _explain_memory(config: TrainConfig) -> Iterator[None]:
    """Turns an error for want of memory into a LabError that says what takes less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise LabError(
            f"The model with its gradients and optimizer state, and {config.batch_size} rows of {config.max_length} "
            f"tokens, do not fit in memory. Lower train.batch_size and raise train.gradient_accumulation_steps, add "
            f"--activation-checkpointing, or shard the model over more processes (--parallel fsdp)."
        ) from error


@contextlib.contextmanager
def _reproducible(seed: int, step: int, rank: int, device: torch.device) -> Iterator[None]:
    """Random numbers that depend on (seed, step, rank) alone, and sums in a fixed order; torch is left as it was."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # costs time and guards against nothing here
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=7).digest()
    try:
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(int.from_bytes(digest))
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = filled


@torch.no_grad()
def _evaluated(model: nn.Module, evaluate: Evaluate, step: int) -> dict[str, float]:
    model.eval()
    return evaluate(model, step)
