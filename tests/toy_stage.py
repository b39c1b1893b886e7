"""A stage as somebody would add one: this file is all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.configs import Positive, check_fields
from labkit.evaluation.metrics import MetricSpec
from labkit.stages import SFT, Curve, Stage, StageInputs, next_token_objective, register
from labkit.training.config import BatchSource, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.evaluation.config import EvaluationConfig


@register("repeat", "learn the conversations once more")
@dataclass(frozen=True)
class Repeat(Stage):
    """Fine-tune once more. weight: of the loss."""

    train: TrainConfig = TrainConfig(steps=2, max_length=96)
    weight: Positive = 1.0

    title = "Learning once more"
    short_title = "repetition"
    about = "The conversations are learned a second time, which shows where a stage of one's own would stand."
    reads = "preferences"
    loss_unit = "nats per token"
    curves = (Curve("Weighed loss", "nats", ("weighed",)),)
    metric_specs = {"surprise": MetricSpec("surprise squared", "nats squared", "lower", "The held-out loss, squared.")}

    def __post_init__(self) -> None:
        check_fields(self)

    def source(self, stage_inputs: StageInputs, model: Any) -> BatchSource:
        return SFT(self.train).source(stage_inputs, model)

    def objective(self, model: Any, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        loss_sum, count, _ = next_token_objective(model, batch)
        return self.weight * loss_sum, count, {"weighed": self.weight * loss_sum.detach()}

    def validation_loss(self, model: Any, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        return SFT(self.train).validation_loss(model, stage_inputs, config)

    def evaluate(self, model: Any, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        loss = self.validation_loss(model, stage_inputs, config)
        return {"validation_loss": loss, "surprise": loss**2}
