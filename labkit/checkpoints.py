"""Files that are either whole or not there: checkpoints that survive a kill, a full disk and a torn write.

    checkpoints/step-00000200/   model.safetensors  optimizer.safetensors  source.safetensors  state.json

Each checkpoint is written into a temporary folder, brought to the disk (fsync) and only then renamed. state.json is
written last and holds the SHA-256 of the other files, so that a damaged checkpoint is known for what it is and the
one before it is used: two are kept.
"""

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from labkit.errors import LabError

KEPT = 2


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in words what hindered writing to `path`: raises LabError for a full disk or one that refuses."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        text = str(error)
        if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in text or "No space left" in text:
            raise LabError(
                f"The disk is full: {path} could not be written. What was saved before is whole; free some space "
                f"and resume the run."
            ) from error
        raise LabError(f"{path} could not be written: {text}") from error


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes the place of `path` at the end, at once.

    Nothing is left behind when writing fails. Raises LabError as `disk_errors` does.
    """
    partial = path.with_name(f"{path.name}.partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            sync(partial)
            os.replace(partial, path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_model(path: Path, model: nn.Module) -> None:
    """Write the model's weights to `path` as safetensors, whole or not at all."""
    with replacing(path) as partial:
        save_model(model, str(partial))


@contextmanager
def journal(path: Path, step: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Append records to `path`, one JSON line each, as they come.

    Lines after `step` are dropped first: a run that was stopped there makes them again.
    """
    kept = [line for line in read_lines(path) if line["step"] <= step]
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:

        def write(record: dict[str, Any]) -> None:
            with disk_errors(path):
                file.write(json.dumps(record) + "\n")
                file.flush()

        yield write


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a .jsonl file; a last line that a kill tore is left out."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                yield json.loads(line)


class Checkpoint:
    """One whole, checked checkpoint: its folder and its `state`."""

    def __init__(self, folder: Path):
        """Raises ValueError (or OSError) when the checkpoint is not whole."""
        self.folder = folder
        self.state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        for name, digest in self.state["files"].items():
            if _digest(folder / name) != digest:
                raise ValueError(f"{name} is not what was written")

    def load_model(self, model: nn.Module) -> None:
        """Copy the weights into `model`."""
        load_model(model, str(self.folder / "model.safetensors"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under `name`, {} when there are none."""
        path = self.folder / f"{name}.safetensors"
        return load_file(str(path)) if path.exists() else {}


class Checkpoints:
    """The checkpoints of one stage, in `folder`; the two latest are kept."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(
        self, step: int, model: nn.Module, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
    ) -> None:
        """Write the checkpoint of `step`, then drop the oldest. tensors: file name (no suffix) -> named tensors.

        Raises LabError when the disk is full; the checkpoints before it are then still there.
        """
        final = self.at(step)
        partial = final.with_suffix(".partial")
        with disk_errors(final):
            try:
                self._write(partial, model, tensors, state)
                if final.exists():  # damaged, or it would have been resumed from
                    shutil.rmtree(final)
                os.replace(partial, final)
                sync(self.folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            for old in self._folders()[:-KEPT]:
                shutil.rmtree(old)

    def _write(self, folder: Path, model: nn.Module, tensors: Mapping, state: dict[str, Any]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_model(model, str(folder / "model.safetensors"))
        for name, named in tensors.items():
            if named:
                save_file(dict(named), str(folder / f"{name}.safetensors"))
        written = sorted(folder.iterdir())
        for path in written:
            sync(path)
        files = {path.name: _digest(path) for path in written}
        text = json.dumps({**state, "files": files}, indent=2)
        (folder / "state.json").write_text(text, encoding="utf-8")
        sync(folder / "state.json")
        sync(folder)

    def at(self, step: int) -> Path:
        """The folder of the checkpoint of `step`."""
        return self.folder / f"step-{step:08d}"

    def latest(self) -> Checkpoint | None:
        """The latest whole checkpoint, None when there is none; a damaged one is named in a warning and passed over.

        Leftovers of a kill while writing are removed.
        """
        for leftover in self.folder.glob("*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        for folder in reversed(self._folders()):
            try:
                return Checkpoint(folder)
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(
                    f"The checkpoint {folder} is damaged ({error}); going back to the one before.", stacklevel=2
                )
        return None

    def clear(self) -> None:
        """Remove all checkpoints, once the stage's result is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".partial")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
