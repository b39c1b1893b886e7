"""How to optimise, and what training is given: a source of batches, an objective, what to measure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from labkit.configs import Count, CountOrNone, NonNegative, Range, check_fields, to_dict
from labkit.errors import LabError
from labkit.training.optimizer import MuonAdamW, cosine_schedule, muon_parameter_names, warmup_stable_decay

Objective = Callable[[Any, Any], tuple[Tensor, Tensor, dict[str, Tensor]]]
"""(model, batch) -> (loss_sum [], count [], metrics): the loss summed over `count` labels, and further sums; where the
batch does not have one of these, it is NaN on every process.
"""
Evaluate = Callable[[nn.Module, int], dict[str, float]]
"""(model, step) -> what to add to the step's record; the model is in eval mode and gradients are off."""


class BatchSource(Protocol):
    """Where batches come from. Offline sources derive everything from (seed, step) and hold no state."""

    def next_batch(self, model: Any, step: int) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to optimise. Budgets are in steps, never seconds, so that a run is the same on every machine.

    Attributes:
        steps: optimizer steps.
        batch_size: examples in one batch, over all processes (B); each stage's help says what one is: a row of text, a
            pair of answers, one answer.
        max_length: tokens of one row (T).
        gradient_accumulation_steps: batches added up for one step.
        optimizer: muon (for matrices, AdamW for the rest) or adamw (for all).
        muon_lr: Muon's learning rate; unused by adamw.
        adamw_lr: AdamW's learning rate.
        weight_decay: of matrices and embeddings, decoupled.
        schedule: wsd (warm-up, stable, decay) or cosine.
        warmup_steps: steps of linear warm-up.
        decay_fraction: share of the steps over which wsd falls to zero.
        max_grad_norm: the gradient's norm is clipped to this; 0 does not clip.
        precision: bf16 computes the model and loss in bf16 with fp32 weights, where the processor can; or fp32.
        compile: compile model and loss (15-60 s once, then 1.3-1.8 x faster).
        checkpoint_every: steps between checkpoints; 0 saves at the end only.
        evaluate_every: steps between calls of `evaluate`; 0 never.
        prefix_sharing: where a step reads answers to prompts, compute each prompt once for all its answers, and pack
            what is left into full rows; results differ in their last bits.
    """

    steps: Count = 1000
    batch_size: Count = 8
    max_length: Count = 192
    gradient_accumulation_steps: Count = 1
    optimizer: Literal["muon", "adamw"] = "muon"
    muon_lr: NonNegative = 3e-3
    adamw_lr: NonNegative = 3e-3
    weight_decay: NonNegative = 0.0
    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup_steps: CountOrNone = 20
    decay_fraction: Annotated[float, Range(0, 1, exclude_low=True)] = 0.4
    max_grad_norm: NonNegative = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    checkpoint_every: CountOrNone = 200
    evaluate_every: CountOrNone = 0
    prefix_sharing: bool = False

    added_fields = ("prefix_sharing",)
    older_names = {
        "batch_size": "rows",
        "max_length": "length",
        "gradient_accumulation_steps": "accumulate",
        "muon_lr": "lr",
        "adamw_lr": "adam_lr",
        "warmup_steps": "warmup",
        "decay_fraction": "decay",
        "max_grad_norm": "clip",
    }

    def __post_init__(self) -> None:
        check_fields(self)
        if self.compile and self.prefix_sharing:
            raise LabError(
                "TrainConfig: with prefix_sharing the shape of the rows changes from step to step, and compile would "
                "compile each anew. Leave one of them off."
            )

    @property
    def total_tokens(self) -> int:
        """Tokens that the whole run reads, padding included."""
        return self.steps * self.gradient_accumulation_steps * self.batch_size * self.max_length

    def lr_scale(self, step: int) -> float:
        """What the learning rates are multiplied by at `step`."""
        if self.schedule == "cosine":
            return cosine_schedule(step, steps=self.steps, warmup_steps=self.warmup_steps)
        return warmup_stable_decay(
            step, steps=self.steps, warmup_steps=self.warmup_steps, decay_fraction=self.decay_fraction
        )

    def main_lr(self, step: int) -> float:
        """The main learning rate at `step`: Muon's, or AdamW's where it is alone."""
        return self.lr_scale(step) * (self.muon_lr if self.optimizer == "muon" else self.adamw_lr)


class StopTraining(BaseException):
    """Thrown into `fit` (``generator.throw(StopTraining())``), by every process after the same step: a checkpoint is
    saved, by all together, and training ends. No error, as KeyboardInterrupt is none.
    """


class StepRecord(NamedTuple):
    """One optimizer step, as `fit` yields it and metrics.jsonl keeps it.

    step: steps done, from 1; loss: nats per label; num_labels: that count in the step; lr: Muon's learning rate
    (AdamW's where it is alone); gradient_norm: before clipping; elapsed_seconds: since the start, stops not counted;
    metrics: the objective's own, per label, and `evaluate`'s.
    """

    step: int
    loss: float
    num_labels: int
    lr: float
    gradient_norm: float
    elapsed_seconds: float
    metrics: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """A flat dictionary, for JSON: the metrics beside the rest. In metrics.jsonl num_labels is `counted`, and
        elapsed_seconds is `seconds`.
        """
        plain = {_KEYS.get(name, name): value for name, value in self._asdict().items()}
        metrics = plain.pop("metrics")
        return {**plain, **metrics}


_KEYS = {"num_labels": "counted", "elapsed_seconds": "seconds"}


def build_optimizer(model: nn.Module, config: TrainConfig, dtype: torch.dtype = torch.bfloat16) -> MuonAdamW:
    """The optimizer that `config` names; dtype: of Muon's products."""
    return MuonAdamW(
        model.named_parameters(),
        muon_parameter_names(model) if config.optimizer == "muon" else (),
        muon_lr=config.muon_lr,
        adamw_lr=config.adamw_lr,
        weight_decay=config.weight_decay,
        dtype=dtype,
    )


def fingerprint(config: Any) -> str:
    """A short hash of a config (a dataclass, or its dictionary): equal for equal configs, on every machine."""
    plain = config if isinstance(config, dict) else to_dict(config)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
