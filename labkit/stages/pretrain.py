"""Pretraining: predict every next token of documents.

In the world each row is one document: a story (or facts, or a pattern) and questions about it with their answers. A
row that holds a whole story with its questions teaches a small model to look things up in its context many times
sooner than crops that cut through them. Real text is read in crops, from anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.configs import check_fields
from labkit.stages.claims import Claim, Metrics
from labkit.stages.inputs import StageInputs, next_token_objective
from labkit.stages.registry import Stage, register
from labkit.training.config import BatchSource, TrainConfig

if TYPE_CHECKING:
    from labkit.evaluation.config import EvaluationConfig, TextData, WorldData
    from labkit.model.transformer import Transformer


@register("pretrain", "predict each next token of documents")
@dataclass(frozen=True)
class Pretrain(Stage):
    """Train from random weights on documents, loss on every token."""

    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Pretraining"
    short_title = "pretraining"
    about = (
        "The model learns to predict each next token of documents. The result is a base model, which continues a "
        "text and has not been trained as an assistant (in TinyWorld, some of its documents are questions with their "
        "answers)."
    )
    reads = "text"
    batch_unit = "rows of text"
    starts_from = "nothing"
    chat = False
    loss_unit = "nats per token"
    objective = staticmethod(next_token_objective)

    def initial_model(self, stage_inputs: StageInputs) -> Transformer:
        return stage_inputs.new_model()

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        self.refuse_prefix_sharing()

    def source(self, stage_inputs: StageInputs, model: object) -> BatchSource:
        """RandomChunkSource of the real text, or the world's documents, one a row, which never end."""
        from labkit.text.sources import DocumentSource, RandomChunkSource

        rows, length = self.train.batch_size, self.train.max_length
        if stage_inputs.texts is not None:
            bos = stage_inputs.tokenizer.bos_token_id
            return RandomChunkSource(
                stage_inputs.corpus, rows, length, bos_token_id=bos, **stage_inputs.seed_and_rank_options()
            )
        world, seed = stage_inputs.world, stage_inputs.seed
        return DocumentSource(
            stage_inputs.tokenizer,
            lambda index: world.document("train", seed, index),
            rows,
            length,
            "all",
            **stage_inputs.seed_and_rank_options(),
        )

    def eval_data(self, stage_inputs: StageInputs) -> WorldData | TextData:
        from labkit.evaluation.config import TextData, WorldData

        if stage_inputs.texts is not None:
            return TextData(stage_inputs.texts.validation, (), self.train.max_length)
        trained = self.train.steps * self.train.gradient_accumulation_steps * self.train.batch_size
        return WorldData(stage_inputs.world, self.train.max_length, stage_inputs.seed, trained)

    def validation_loss(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        """Of held-out texts, fewer than are measured at the end: nats per token."""
        from labkit.evaluation.config import truncate_texts
        from labkit.evaluation.held_out_loss import document_loss, text_loss

        tokenizer, length, rows = stage_inputs.tokenizer, self.train.max_length, config.loss_batch_size
        if stage_inputs.texts is not None:
            texts = truncate_texts(stage_inputs.texts.validation, config.characters // 10)
            return text_loss(model, tokenizer, texts, length, rows)["validation_loss"]
        world, seed = stage_inputs.world, stage_inputs.seed
        documents = [world.document("validation", seed, index) for index in range(config.documents // 2)]
        return document_loss(model, tokenizer, documents, length, rows)["validation_loss"]

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its loss on held-out text is below the untrained model's."""
        if "untrained_loss" not in metrics:
            return None
        return Claim(
            cls.kind,
            "validation loss",
            metrics["validation_loss"],
            metrics["untrained_loss"],
            "the untrained model",
            "lower",
        )

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Held-out loss; in the world also stories and answers, which are generated here and checked."""
        from labkit.evaluation.language_models import evaluate_base

        return evaluate_base(model, stage_inputs.tokenizer, self.eval_data(stage_inputs), config)
