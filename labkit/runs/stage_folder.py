"""One stage of a run, in its folder: weights, records, result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.files import read_object, write_json
from labkit.machine import default_device
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import ModelConfig, Transformer
from labkit.stages import Stage
from labkit.training.checkpoints import Checkpoints, read_records
from labkit.training.weights import (
    check_index_is_there,
    hash_weights,
    link_weights,
    load_weights,
    weight_files,
    weights_or_index_file,
    write_tensors,
    write_weights,
)

M = TypeVar("M", Transformer, RewardModel)


class StageFolder:
    """One stage of a run, in `path`. config: the stage, as the run's recipe has it."""

    def __init__(self, path: Path, config: Stage):
        self.path, self.name, self.config = path, path.name, config

    @property
    def result(self) -> dict[str, Any] | None:
        """The stage's entry in the report, None until it is finished. Raises LabError for a file that is no entry."""
        return read_object(self.path / "result.json", stage=str, metrics=dict) if self.finished else None

    @property
    def step_records(self) -> list[dict[str, Any]]:
        """What training said of each step so far: the lines of metrics.jsonl."""
        return read_records(self.path / "metrics.jsonl")

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").is_file()

    @property
    def trained(self) -> bool:
        """Whether the weights are there; a stage may be trained and not yet measured."""
        return self.weights_or_index_file.is_file()

    @property
    def weights_or_index_file(self) -> Path:
        """The file that changes whenever the weights do: model.safetensors, or the index of its shards."""
        return weights_or_index_file(self.path)

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights. Raises LabError when they are not there, or not whole."""
        return hash_weights(self.path)

    @property
    def exists(self) -> bool:
        return self.path.is_dir()

    @property
    def generates_text(self) -> bool:
        """Whether the stage leaves a language model; a reward model generates none."""
        return self.config.leaves == "language model"

    def save_model(self, model: Transformer | RewardModel) -> None:
        """Keep the stage's final weights; config.json first, so that weights never stand without it."""
        write_json(self.path / "config.json", to_dict(model.config))
        write_weights(self.path, model)

    def save_tensors(self, config: ModelConfig, like: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
        """As `save_model`, of a model that is not in memory: see `write_tensors`."""
        write_json(self.path / "config.json", to_dict(config))
        write_tensors(self.path, like, read)

    def link_model(self, other: StageFolder) -> None:
        """Take another stage's final weights, as the same files."""
        write_json(self.path / "config.json", read_object(other.path / "config.json"))
        link_weights(other.path, self.path)

    def write_result_and_clear_checkpoints(self, result: dict[str, Any]) -> None:
        """Keep the stage's result, with what its words were split by, and drop what was only there to resume."""
        write_json(self.path / "result.json", {**result, "tokenizer": self._tokenizer()})
        self.clear_checkpoints()

    def clear_checkpoints(self) -> None:
        """Drop what was only there to resume."""
        Checkpoints(self.path / "checkpoints").clear()

    def model(self, device: torch.device | None = None) -> Transformer:
        """The model after this stage, on `device` (`default_device` when None), in eval mode. Raises LabError when it
        is not there, damaged, or cannot write.
        """
        if not self.generates_text:
            raise LabError(f"{self.path} contains a reward model, which scores answers and generates no text.")
        return self._load(Transformer(self.model_config()), device).eval()

    def reward_model(self, device: torch.device | None = None) -> RewardModel:
        """The reward model of this stage, on `device` (`default_device` when None), in eval mode. Raises LabError when
        it is not there or damaged.
        """
        return self._load(RewardModel(Transformer(self.model_config())), device).eval()

    def check_weights_are_there(self) -> None:
        """Raises LabError where the stage is finished and its weights, or some of their shards, are not there, and for
        shards without their index.
        """
        check_index_is_there(self.path)
        if self.finished and not self.trained:
            raise LabError(
                f"{self.path} is finished, but its weights (model.safetensors) are gone. Copy them from where they are "
                f"kept, or train the stage again: labkit {self.name} {self.path.parent} --again"
            )
        if self.finished:
            weight_files(self.path)

    def model_config(self) -> ModelConfig:
        """The shape of the model. Raises LabError when it is not there, or was trained with another tokenizer."""
        if not self.trained:
            self.check_weights_are_there()
            raise LabError(f"{self.path} has no model yet: its stage {self.name} is not finished. Resume the run.")
        now = self._tokenizer()
        if self.result and self.result.get("tokenizer", now) != now:
            raise LabError(
                f"{self.path} was trained with a different tokenizer from the run's, so its token ids mean other "
                f"tokens. Train the stage again: labkit {self.name} {self.path.parent} --again"
            )
        return from_dict(ModelConfig, read_object(self.path / "config.json"))

    def _tokenizer(self) -> str | None:
        """A short hash of the run's tokenizer, None where there is none."""
        file = self.path.parent / "tokenizer.json"
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None

    def _load(self, model: M, device: torch.device | None) -> M:
        load_weights(self.path, model)
        return model.to(device or default_device())
