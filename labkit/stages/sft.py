"""Supervised fine-tuning: predict the assistant's tokens in conversations, and only those.

The question is context, not a target, so that the model's capacity goes into answering (Ouyang et al. 2022,
https://arxiv.org/abs/2203.02155, without their mix of pretraining text).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from labkit.configs import check_fields
from labkit.stages.claims import Claim, Metrics
from labkit.stages.inputs import StageInputs, next_token_objective
from labkit.stages.registry import Stage, register
from labkit.training.config import BatchSource, TrainConfig

if TYPE_CHECKING:
    from labkit.evaluation.config import EvaluationConfig, TextData, WorldData
    from labkit.model.transformer import Transformer
    from labkit.text.fitting import LengthReport


@register("sft", "supervised fine-tuning on conversations")
@dataclass(frozen=True)
class SFT(Stage):
    """Train the pretrained model on conversations, loss on the answers."""

    train: TrainConfig = TrainConfig()

    older_kind = "FineTune"

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Supervised fine-tuning"
    short_title = "fine-tuning"
    about = (
        "The model is trained on conversations, with the loss on the assistant's tokens only. The result answers a "
        "message instead of continuing it, in the chat format of the conversations."
    )
    reads = "instructions"
    batch_unit = "conversations; with --instructions rows, each with as many conversations as fit"
    loss_unit = "nats per token"
    objective = staticmethod(next_token_objective)

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Of given conversations, some answer must lie within a row, to train on and held out."""
        self.refuse_prefix_sharing()
        if stage_inputs.conversations is not None:
            self.length_reports(stage_inputs)

    def source(self, stage_inputs: StageInputs, model: object) -> BatchSource:
        """The instruction file's conversations, several to a row and shuffled each pass; or the world's, one a row."""
        from labkit.text.sources import DocumentSource, PackedDocumentSource

        rows, length = self.train.batch_size, self.train.max_length
        if stage_inputs.conversations is not None:
            conversations = stage_inputs.conversations.train
            self.length_reports(stage_inputs)
            return PackedDocumentSource(
                stage_inputs.tokenizer, conversations, rows, length, "answers", **stage_inputs.seed_and_rank_options()
            )
        world, seed = stage_inputs.world, stage_inputs.seed
        return DocumentSource(
            stage_inputs.tokenizer,
            lambda index: world.conversation("train", seed, index),
            rows,
            length,
            "answers",
            **stage_inputs.seed_and_rank_options(),
        )

    def length_reports(self, stage_inputs: StageInputs) -> dict[str, LengthReport]:
        """How the given conversations, those to train on and those held out, fit in rows; none of the world's.

        Said where some do not. Raises LabError where no answer begins within its row.
        """
        from labkit.text.fitting import encode_within_length

        if stage_inputs.conversations is None:
            return {}
        length, found = self.train.max_length, {}
        train, validation = stage_inputs.conversations[:2]
        for what, given in (("conversations", train), ("held-out conversations", validation)):
            count = partial(encode_within_length, stage_inputs.tokenizer, given, length + 1, "answers")
            found[what] = stage_inputs.check_fit(count, what, length)
        return found

    def eval_data(self, stage_inputs: StageInputs) -> WorldData | TextData:
        from labkit.evaluation.config import TextData, WorldData

        if stage_inputs.conversations is not None:
            return TextData((), stage_inputs.conversations.validation, self.train.max_length)
        return WorldData(stage_inputs.world, self.train.max_length, stage_inputs.seed)

    def validation_loss(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        from labkit.evaluation.held_out_loss import document_loss

        count = config.documents // 2
        if stage_inputs.conversations is not None:
            documents = stage_inputs.conversations.validation[:count]
        else:
            documents = [stage_inputs.world.conversation("validation", stage_inputs.seed, i) for i in range(count)]
        measured = document_loss(
            model, stage_inputs.tokenizer, documents, self.train.max_length, config.loss_batch_size, "answers"
        )
        return measured["validation_loss"]

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """It answers more held-out questions right than the base model; where the right answers are not known, its loss
        on held-out answers is lower.
        """
        if "accuracy" in metrics and "accuracy" in predecessor_metrics:
            right, base, error = (
                metrics["accuracy"],
                predecessor_metrics["accuracy"],
                metrics.get("accuracy_standard_error", 0.0),
            )
            return Claim(cls.kind, "accuracy", right, base, "the base model", "higher", error)
        if "untrained_loss" not in metrics:
            return None
        loss, base = metrics["validation_loss"], metrics["untrained_loss"]
        return Claim(cls.kind, "validation loss", loss, base, "the base model", "lower")

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Loss on held-out answers, and how many examples were cut or left out; in the world also the accuracy and gold
        of answers that are generated here.
        """
        from labkit.evaluation.language_models import evaluate_chat

        measured = evaluate_chat(model, stage_inputs.tokenizer, self.eval_data(stage_inputs), config)
        for what, fit in self.length_reports(stage_inputs).items():
            held_out = "held_out_" if what.startswith("held-out") else ""
            measured |= {f"{held_out}cut": fit.truncated, f"{held_out}left_out": fit.left_out}
        return measured
