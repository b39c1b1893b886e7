"""Files that are either whole or not there: checkpoints that survive a kill, a full disk and a torn write.

    checkpoints/step-00000200/   model.safetensors  optimizer.safetensors  source.safetensors  state.json

Where each process holds a shard of the model, each writes its own (torch's distributed checkpoint, as safetensors):

    checkpoints/step-00000200/   shards/  replicated.safetensors  source-0.safetensors …  state.json

Each checkpoint is written into a temporary folder, brought to the disk (fsync) and only then renamed. state.json is
written last and holds the SHA-256 of the other files, so that a damaged checkpoint is known for what it is and the
one before it is used: two are kept.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from io import RawIOBase
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from labkit.errors import LabError
from labkit.files import (
    OLD,
    PARTIAL,
    atomic_replace_folder,
    explain_write_errors,
    fsync_path,
    hidden_sibling,
    read_jsonl,
    read_object,
    restore_interrupted_write,
    write_jsonl,
)
from labkit.model.initial import renamed_weights_older_names
from labkit.training.sharding import is_sharded, read_full_tensors, read_shards, write_shards

KEPT = 2
SHARDS, REPLICATED = "shards", "replicated"
"""Of a sharded checkpoint: the folder of what each process holds a shard of, and the file of what each holds whole."""


def open_to_append(path: Path) -> RawIOBase:
    """Without a buffer, in which what a full disk refused would wait to be refused again."""
    return path.open("ab", buffering=0)


class MetricsLog:
    """metrics.jsonl while it is written: one record a line, as it comes."""

    def __init__(self, path: Path, file: RawIOBase):
        self.path, self.file = path, file

    def write(self, record: dict[str, Any]) -> None:
        """Raises LabError when the disk is full."""
        left = f"{json.dumps(record)}\n".encode()
        with explain_write_errors(self.path):
            while left:  # a disk that is nearly full takes a part of a line
                left = left[self.file.write(left) or 0 :]

    def sync(self) -> None:
        """Bring what was written to the disk: a checkpoint of a step relies on the records up to it."""
        if not self.file.closed:
            with explain_write_errors(self.path):
                fsync_path(self.path)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a line that is the record of no step is left out with a warning."""
    lines = read_jsonl(path)
    records = [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
    if len(records) < len(lines):
        warnings.warn(
            f"{path}: {len(lines) - len(records)} of its lines are not step records and are skipped; totals over its "
            "lines are too low.",
            stacklevel=2,
        )
    return records


@contextmanager
def open_metrics_log(path: Path, step: int) -> Iterator[MetricsLog]:
    """Append records to `path`.

    Lines after `step` are dropped first: a run that was stopped there makes them again. Lines up to it that are not
    there are missed aloud.
    """
    kept = [record for record in read_records(path) if record["step"] <= step]
    missing = set(range(1, step + 1)) - {line["step"] for line in kept}
    if missing:
        warnings.warn(
            f"{path} lacks {len(missing)} of the {step} steps before this one (the first is step {min(missing)}): its "
            f"curves have a gap, and the stage's tokens and seconds are counted too low.",
            stacklevel=3,
        )
    write_jsonl(path, kept)
    with open_to_append(path) as file:
        written = MetricsLog(path, file)
        try:
            yield written
        finally:
            written.sync()


class Checkpoint:
    """One whole, checked checkpoint: its folder and its `state`."""

    def __init__(self, folder: Path, verify: bool = True):
        """verify: read all files, and raise ValueError (or OSError) when the checkpoint is not whole."""
        self.folder = folder
        self.state = read_object(folder / "state.json", files=dict)
        for name, digest in self.state["files"].items() if verify else ():
            if _digest(folder / name) != digest:
                raise ValueError(f"{name} differs from what was written")

    @property
    def sharded(self) -> bool:
        """Whether it was written by processes that held a shard each."""
        return (self.folder / SHARDS).is_dir()

    def load_model(self, model: nn.Module) -> None:
        """Copy the weights into `model`."""
        load_model(model, str(self.folder / "model.safetensors"))

    def load_into(self, model: nn.Module, optimizer: Mapping[str, Tensor]) -> None:
        """Copy weights and optimizer state into tensors that are whole, or shards of as many processes as there are
        now; every process comes here.
        """
        if not self.sharded:
            older = renamed_weights_older_names(model)
            weights = dict(model.named_parameters(remove_duplicate=False))
            self._read_file("model", weights, older)
            self._read_file("optimizer", dict(optimizer), older)
            return
        into = checkpoint_tensors(model, optimizer)
        replicated = [(name, into.pop(name)) for name in self.tensors(REPLICATED)]
        if replicated:
            read_full_tensors(self.folder / f"{REPLICATED}.safetensors", replicated)
        read_shards(self.folder / SHARDS, into)

    def _read_file(self, name: str, into: Mapping[str, Tensor], older: Mapping[str, str]) -> None:
        """Copy a whole file into these tensors, of which several names may mean one. Raises LabError for a tensor that
        the file has not.
        """
        file = self.folder / f"{name}.safetensors"
        with safe_open(str(file), "pt") as saved:
            keys = set(saved.keys())
        found, filled = [], set()
        for now, tensor in into.items():
            weight, slash, entry = now.partition("/")
            key = now if now in keys else f"{older.get(weight, weight)}{slash}{entry}"
            if key in keys:
                found.append((key, tensor))
                filled.add(id(tensor))
        missing = [now for now, tensor in into.items() if id(tensor) not in filled]
        if missing:
            raise LabError(f"{file} has no {missing[0]}, so training cannot be resumed from it.")
        read_full_tensors(file, found)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under `name`, {} when there are none."""
        path = self.folder / f"{name}.safetensors"
        return load_file(str(path)) if path.exists() else {}


def checkpoint_tensors(model: nn.Module, optimizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All that is trained and all that the optimizer remembers, by names that differ."""
    weights = {f"model/{name}": p for name, p in model.named_parameters()}
    return weights | {f"optimizer/{name}": tensor for name, tensor in optimizer.items()}


class Checkpoints:
    """The checkpoints of one stage, in `folder`; the two latest are kept."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(
        self, step: int, model: nn.Module, tensors_by_file: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
    ) -> None:
        """Write the checkpoint of `step`, then drop the oldest. tensors_by_file: file name (no suffix) ->
        named tensors.

        Raises LabError when the disk is full; the checkpoints before it are then still there.
        """
        final = self.checkpoint_path(step)
        with atomic_replace_folder(final) as partial:
            save_model(model, str(partial / "model.safetensors"))
            _finish(partial, tensors_by_file, state)
        self._drop_oldest()

    def save_shards(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        tensors_by_file: Mapping[str, Mapping[str, Tensor]],
        state: dict[str, Any],
        accelerator: Accelerator,
    ) -> None:
        """The same where each process holds a shard of the weights (`checkpoint_tensors`); every process comes here."""
        final, main = self.checkpoint_path(step), accelerator.is_main_process
        replicated = {name: tensor.detach() for name, tensor in weights.items() if not is_sharded(tensor)}
        theirs = nullcontext(hidden_sibling(final, PARTIAL))
        with explain_write_errors(final), atomic_replace_folder(final) if main else theirs as partial:
            accelerator.wait_for_everyone()
            write_shards(partial / SHARDS, {name: one for name, one in weights.items() if name not in replicated})
            if main:
                _finish(partial, {**tensors_by_file, REPLICATED: replicated}, state)
        if main:
            self._drop_oldest()
        accelerator.wait_for_everyone()

    def _drop_oldest(self) -> None:
        with explain_write_errors(self.folder):
            for old in self._folders()[:-KEPT]:
                shutil.rmtree(old)

    def checkpoint_path(self, step: int) -> Path:
        """The folder of the checkpoint of `step`."""
        return self.folder / f"step-{step:08d}"

    def latest(self) -> Checkpoint | None:
        """The latest whole checkpoint, None when there is none; a damaged one is named in a warning and passed over.

        Leftovers of a kill while writing are removed.
        """
        for leftover in [*self.folder.glob(f".*{PARTIAL}"), *self.folder.glob(f".*{OLD}")]:
            restore_interrupted_write(self.folder / leftover.stem.removeprefix("."))
        for folder in reversed(self._folders()):
            try:
                return Checkpoint(folder)
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(f"The checkpoint {folder} is damaged ({error}); the previous one is used.", stacklevel=2)
        return None

    def clear(self) -> None:
        """Remove all checkpoints, once the stage's result is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if not path.suffix)


def _finish(partial: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
    """Write the tensors that are whole, and last the state with the digests of all files."""
    for name, named in tensors.items():
        if named:
            save_file(dict(named), str(partial / f"{name}.safetensors"))
    files = {path.relative_to(partial).as_posix(): _digest(path) for path in sorted(partial.rglob("*.safetensors"))}
    text = json.dumps({**state, "files": files}, indent=2)
    (partial / "state.json").write_text(text, encoding="utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
