"""The reward model: a scalar head on the fine-tuned model, fitted to choices between two answers.

An answer's score is read where it ends, and begins as the fine-tuned model's own opinion of it (see `RewardModel`). Of
two answers to a prompt the chosen one should score higher, by as much as the choice is sure: Bradley and Terry's model
(Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, 3.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.configs import check_fields
from labkit.losses import pairwise_loss
from labkit.model.reward_model import RewardModel
from labkit.stages.claims import Claim, Metrics
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.pairs import PAIR_LOSSES, RANKED
from labkit.stages.registry import Stage, register
from labkit.text.pairs import PairBatch, PairSource
from labkit.training.config import BatchSource, TrainConfig

if TYPE_CHECKING:
    from labkit.evaluation.config import EvaluationConfig


def reward_objective(model: RewardModel, batch: PairBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss, how many pairs, how many of them are ranked as chosen)."""
    chosen, rejected = model.scores_at(batch.inputs, batch.mask, batch.last_token_index).chunk(2)
    loss, right = pairwise_loss(chosen, rejected)
    return (
        loss.sum(),
        torch.tensor(len(loss), device=loss.device),
        {"accuracy": right.sum()} | token_count_metric(batch.inputs),
    )


@register("reward", "a reward model, from preference pairs")
@dataclass(frozen=True)
class RewardModeling(Stage):
    """Fit a reward model to preference pairs."""

    train: TrainConfig = TrainConfig()

    older_kind = "FitReward"

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Reward model"
    short_title = "the reward model"
    about = (
        "The data are preference pairs: two answers to one prompt, of which one was chosen (in TinyWorld, two samples "
        "of the fine-tuned model, and a simulated annotator chooses). A copy of the fine-tuned model learns to score "
        "the chosen answer higher. Before training, an answer's score is its mean log-probability under that model."
    )
    reads = "preferences"
    leaves = "reward model"
    loss_unit = "nats per pair"
    curves = (RANKED,)
    metric_specs = PAIR_LOSSES
    objective = staticmethod(reward_objective)

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        stage_inputs.check_pairs(self.train.max_length)

    def initial_model(self, stage_inputs: StageInputs) -> RewardModel:
        """The fine-tuned model with a head that is zero: an answer scores its mean log-probability."""
        return RewardModel(stage_inputs.predecessor_model())

    def source(self, stage_inputs: StageInputs, model: RewardModel) -> BatchSource:
        rows, length = self.train.batch_size, self.train.max_length
        return PairSource(
            stage_inputs.tokenizer,
            stage_inputs.fitting_pairs(length),
            rows,
            length,
            **stage_inputs.seed_and_rank_options(),
        )

    def flops(self, model: RewardModel, tokens: float) -> float:
        return tokens * model.body.training_flops_per_token(self.train.max_length)

    def validation_loss(self, model: RewardModel, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        return self._ranked(model, stage_inputs)["validation_loss"]

    def _ranked(self, model: RewardModel, stage_inputs: StageInputs) -> dict[str, float]:
        from labkit.evaluation.preference_accuracy import ranking_metrics

        pairs = stage_inputs.fitting_held_out_pairs(self.train.max_length)
        return ranking_metrics(model, stage_inputs.tokenizer, pairs, self.train.max_length, self.train.precision)

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its preference accuracy on held-out pairs is above chance."""
        if "pair_accuracy" not in metrics:
            return None
        return Claim(cls.kind, "preference accuracy", metrics["pair_accuracy"], 0.5, "chance", "higher")

    def evaluate(self, model: RewardModel, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Held-out pairs ranked; in the world also against gold."""
        from labkit.evaluation.preference_accuracy import gold_ranking_metrics

        length, tokenizer, precision = self.train.max_length, stage_inputs.tokenizer, self.train.precision
        choices = stage_inputs.held_out_annotated_pairs(length)
        ranked = self._ranked(model, stage_inputs) | {"left_out": stage_inputs.num_left_out_pairs(length)}
        return ranked | (gold_ranking_metrics(model, tokenizer, choices, length, precision) if choices else {})
