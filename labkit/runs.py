"""A run's folder: everything that a run is, made and measured.

runs/NAME/
    recipe.json       the recipe, what it read (hashes of files), and the number of threads
    tokenizer.json    (and tokenizer_config.json)
    pretrain/         one folder a stage:
        metrics.jsonl     one record a step, written as it happens
        checkpoints/      to resume from; gone once the stage is finished
        model.safetensors, config.json, result.json
    preferences/      what the world's annotator chose, train.jsonl and validation.jsonl
    report.json, report.html
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model

from labkit.checkpoints import Checkpoints, write_model
from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.files import read_json, read_lines, reading, write_json
from labkit.model.scorer import Scorer
from labkit.model.transformer import ModelConfig, Transformer
from labkit.paths import data_folder
from labkit.recipe import Recipe
from labkit.text.tokenizer import Tokenizer

M = TypeVar("M", Transformer, Scorer)


class StageFolder:
    """One stage of a run, in `path`."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.name

    @property
    def result(self) -> dict[str, Any] | None:
        """The stage's entry in the report, None until it is finished."""
        return read_json(self.path / "result.json") if self.finished else None

    @property
    def records(self) -> list[dict[str, Any]]:
        """What training said of each step so far: the lines of metrics.jsonl."""
        return read_lines(self.path / "metrics.jsonl")

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").is_file()

    @property
    def trained(self) -> bool:
        """Whether the weights are there; a stage may be trained and not yet measured."""
        return (self.path / "model.safetensors").is_file()

    @property
    def begun(self) -> bool:
        return self.path.is_dir()

    @property
    def writes(self) -> bool:
        """Whether the stage made a model that writes; the reward model does not."""
        return self.name != "reward"

    def save_model(self, model: Transformer | Scorer) -> None:
        """Keep the stage's final weights; config.json first, so that weights never stand without it."""
        write_json(self.path / "config.json", to_dict(model.config))
        write_model(self.path / "model.safetensors", model)

    def finish(self, result: dict[str, Any]) -> None:
        """Keep the stage's result, with what its words were split by, and drop what was only there to resume."""
        write_json(self.path / "result.json", {**result, "tokenizer": self._tokenizer()})
        Checkpoints(self.path / "checkpoints").clear()

    def drop(self) -> None:
        """Throw the stage away: at once, so that a kill leaves all of it or nothing."""
        dropped = self.path.with_name(f"{self.name}.dropped")
        shutil.rmtree(dropped, ignore_errors=True)
        if self.begun:
            self.path.rename(dropped)
            shutil.rmtree(dropped)

    def model(self) -> Transformer:
        """The model after this stage, in eval mode. Raises LabError when it is not there, damaged, or cannot write."""
        if not self.writes:
            raise LabError(f"{self.path} holds a reward model, which scores answers and writes none.")
        return self._load(Transformer(self._config())).eval()

    def scorer(self) -> Scorer:
        """The reward model of this stage, in eval mode. Raises LabError when it is not there or damaged."""
        return self._load(Scorer(Transformer(self._config()))).eval()

    def _config(self) -> ModelConfig:
        if not self.trained:
            raise LabError(f"{self.path} has no model yet: its stage {self.name} is not finished. Resume the run.")
        now = self._tokenizer()
        if self.result and self.result.get("tokenizer", now) != now:
            raise LabError(
                f"{self.path} was trained with another tokenizer than the run's, so it would read other words. Make "
                f"the stage again: labkit {self.name} {self.path.parent} --again"
            )
        return from_dict(ModelConfig, read_json(self.path / "config.json"))

    def _tokenizer(self) -> str | None:
        """A short hash of the run's tokenizer, None where there is none."""
        file = self.path.parent / "tokenizer.json"
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None

    def _load(self, model: M) -> M:
        weights = self.path / "model.safetensors"
        with reading(weights):
            weights.open("rb").close()  # safetensors takes a file that it may not read for one that is not there
        try:
            load_model(model, str(weights))
        except (SafetensorError, RuntimeError) as error:
            raise LabError(f"{weights} is damaged, or of another model than config.json says: {error}") from error
        return model


class Run:
    """A run in its folder. Make one with `Run.create`, find one with `Run.open`."""

    def __init__(self, path: Path, recipe: Recipe, inputs: dict[str, str], threads: int):
        self.path, self.recipe, self.inputs, self.threads = path, recipe, inputs, threads
        self.reading: dict[str, Any] = {}
        """What was made of each source that the run was given to read, as `labkit.text.reading.Reading` says it."""

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe) -> Run:
        """Begin a run in a new or empty folder, or in place of one that was never trained a step.

        Raises LabError when the folder holds anything else.
        """
        path = Path(path)
        cls._refuse_used(path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).unlink(missing_ok=True)
        run = cls(path, recipe, input_hashes(recipe), torch.get_num_threads())
        run.save_recipe()
        return run

    def branch(self, path: str | Path, recipe: Recipe, stages: Sequence[str]) -> Run:
        """A new run of `recipe` in `path` that begins with these finished stages of this one, copied.

        Raises LabError when one is not finished or would be another under `recipe`, or the folder is not free.
        """
        missing = [name for name in stages if not self.stage(name).finished]
        if missing:
            raise LabError(f"{self.path} has not finished {', '.join(missing)}. Resume the run first.")
        other = [name for name in stages if self.recipe.fingerprint(name) != recipe.fingerprint(name)]
        if other:
            changed = ", ".join(self.recipe.differences(recipe))
            raise LabError(f"{', '.join(other)} of {self.path} would be another model with another {changed}.")
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self._refuse_used(path)
        Run.create(partial, recipe)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(self.path / name, partial / name)
        for name in stages:
            shutil.copytree(self.path / name, partial / name)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        return Run.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in a folder. Raises LabError when there is none."""
        file = Path(path) / "recipe.json"
        if not file.is_file():
            raise LabError(f"{path} holds no run (no recipe.json). Make one: labkit run --out {path}")
        saved = read_json(file)
        try:
            recipe = Recipe.from_dict(saved["recipe"])
            return cls(Path(path), recipe, saved["inputs"], saved["threads"])
        except (KeyError, TypeError) as error:
            raise LabError(f"{file} is not a recipe of labkit: {error}") from error

    @staticmethod
    def untouched(path: Path) -> bool:
        """Whether a folder holds nothing, or no more than the preparations for a run."""
        prepared = {"recipe.json", "tokenizer.json", "tokenizer_config.json"}
        return path.is_dir() and {file.name for file in path.iterdir()} <= prepared

    @classmethod
    def _refuse_used(cls, path: Path) -> None:
        """Raises LabError for a folder that holds more than preparations."""
        if path.exists() and not cls.untouched(path):
            if (path / "recipe.json").is_file():
                raise LabError(f"{path} already holds a run. Go on with it (--resume), or choose another folder.")
            raise LabError(f"{path} is not empty and holds no run. Choose another folder.")

    def check(self, recipe: Recipe) -> None:
        """Raises LabError when this run was begun with another recipe, or its input files have changed since."""
        differences = self.recipe.differences(recipe)
        if differences:
            named = [f"{name}: {mine!r}, not {other!r}" for name, (mine, other) in differences.items()]
            raise LabError(
                f"{self.path} holds a run of another recipe ({'; '.join(named[:5])}). Choose another folder, or "
                f"resume with the recipe that it was begun with."
            )
        changed = [name for name, digest in input_hashes(recipe).items() if self.inputs.get(name) != digest]
        if changed:
            raise LabError(
                f"{', '.join(changed)} has changed since {self.path} was begun, so it cannot be gone on with. Put the "
                f"old file back, or begin a new run in another folder."
            )

    def save_recipe(self) -> None:
        value = {"recipe": self.recipe.to_dict(), "inputs": self.inputs, "threads": self.threads}
        write_json(self.path / "recipe.json", value)

    def stage(self, name: str) -> StageFolder:
        """The folder of a stage, which may not be there yet. Raises LabError for a stage not in the recipe."""
        if name not in self.recipe.stages:
            raise LabError(f"{self.path} has no stage {name!r}; it has {', '.join(self.recipe.stages)}.")
        return StageFolder(self.path / name)

    @property
    def stages(self) -> list[StageFolder]:
        """All stages of the recipe, in order."""
        return [self.stage(name) for name in self.recipe.stages]

    def latest(self) -> StageFolder:
        """The last stage that has a model that writes. Raises LabError when none has."""
        trained = [stage for stage in self.stages if stage.trained and stage.writes]
        if not trained:
            raise LabError(f"{self.path} has no model yet. Resume the run: labkit run --out {self.path} --resume")
        return trained[-1]

    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer. Raises LabError when it is not there yet."""
        return Tokenizer.load(self.path)

    def model(self, stage: str | None = None) -> Transformer:
        """The model after `stage`; after the last finished one when None."""
        return (self.stage(stage) if stage else self.latest()).model()

    def report(self) -> dict[str, Any]:
        """report.json. Raises LabError when no stage is finished."""
        file = self.path / "report.json"
        if not file.is_file():
            raise LabError(f"{self.path} has no report yet: no stage of it is finished.")
        return read_json(file)

    def write_report(self, machine: dict[str, Any]) -> dict[str, Any]:
        """Gather the results of the finished stages into report.json."""
        results = [stage.result for stage in self.stages if stage.finished]
        report = {"recipe": self.recipe.to_dict(), "stages": results, "machine": machine}
        if self.reading:
            report["reading"] = self.reading
        write_json(self.path / "report.json", report)
        return report


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of each file or folder that a recipe reads, the world's included; hub data sets have none."""
    given = [Path(name) for name in (recipe.text, recipe.instructions, recipe.preferences) if name]
    world = [] if recipe.text and recipe.instructions else [data_folder() / "world"]
    return {_label(path): _hash(path) for path in [*given, *world] if path.exists()}


def _label(path: Path) -> str:
    return "data/world" if path == data_folder() / "world" else str(path)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with reading(file), file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
