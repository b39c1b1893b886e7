"""A generative judge: a language model that reads a prompt and two answers, and writes which of them is better.

    loss = -log policy(verdict | prompt, answer A, answer B)        verdict: "A" or "B"

Asking a language model which answer is better is LLM-as-a-judge (Zheng et al. 2023, https://arxiv.org/abs/2306.05685);
training one for it by next-token prediction is a generative reward model (Zhang et al. 2024,
https://arxiv.org/abs/2408.15240). No head is added: the probability of the verdict's token is how sure the judge is.

Where this departs from the papers:

1. Zhang et al. ask of one answer whether it is right, Yes or No; this asks of two which one is better, as Zheng et al.
2. Each pair is learned in both orders in the same batch, so that the place of an answer says nothing; and judged in
   both, which Zheng et al. do against the position bias that they find.
3. The verdict alone is written: no reasoning before it, and no answers to prompts are mixed in.

A small model has to compare two passages that it holds in its context, which it learns much later than to answer: its
verdicts may be poor where a reward model of the same size is good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.configs import check_fields
from labkit.evaluation.metrics import MetricSpec
from labkit.stages.claims import Claim, Metrics
from labkit.stages.inputs import StageInputs, next_token_objective
from labkit.stages.pairs import PAIR_LOSSES
from labkit.stages.registry import Stage, register
from labkit.training.config import BatchSource, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labkit.evaluation.config import EvaluationConfig
    from labkit.model.transformer import Transformer
    from labkit.text.pairs import PreferencePair


@register("judge", "a language model that writes which of two answers is better")
@dataclass(frozen=True)
class GenerativeJudging(Stage):
    """Train the fine-tuned model to write verdicts. A pair is two rows, one for each order."""

    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Generative judge"
    short_title = "the generative judge"
    about = (
        "A copy of the fine-tuned model reads a prompt and two answers, A and B, and learns to write which of them was "
        "chosen. Each pair is shown in both orders. Unlike a reward model it needs no head and gives no score to an "
        "answer by itself; where its verdict depends on which answer stands first, it has a position bias."
    )
    reads = "preferences"
    batch_unit = "pairs of answers, each shown in both orders"
    policy = False
    relative_lr = 10.0
    loss_unit = "nats per token"
    objective = staticmethod(next_token_objective)
    metric_specs = PAIR_LOSSES | {
        "position_flips": MetricSpec(
            "verdicts that depend on the order",
            "share",
            "lower",
            "Share of the held-out pairs of which the judge prefers another answer when the two change places. A judge "
            "that always says A has 1.",
        ),
        "reward_model_accuracy": MetricSpec(
            "preference accuracy of the reward model",
            "share",
            "",
            "Share of the same held-out pairs that the run's reward model ranks as they were chosen.",
        ),
    }

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        self.refuse_prefix_sharing()
        stage_inputs.check_pairs(self.train.max_length)
        if stage_inputs.preferences is not None:
            self._pairs(stage_inputs)
            self._pairs(stage_inputs, held_out=True)

    def source(self, stage_inputs: StageInputs, model: Transformer) -> BatchSource:
        from labkit.text.verdicts import VerdictSource

        pairs, rows, length = self._pairs(stage_inputs), self.train.batch_size, self.train.max_length
        return VerdictSource(stage_inputs.tokenizer, pairs, rows, length, **stage_inputs.seed_and_rank_options())

    def flops(self, model: Transformer, tokens: float) -> float:
        return 2 * tokens * model.training_flops_per_token(self.train.max_length)

    def _pairs(self, stage_inputs: StageInputs, held_out: bool = False) -> list[PreferencePair]:
        """Those of which prompt, both answers and verdict fit in a row. Raises LabError when none does."""
        from labkit.text.fitting import LengthReport
        from labkit.text.verdicts import fitting_comparisons

        split, length = stage_inputs.preference_split, self.train.max_length
        given: Sequence[PreferencePair] = split.validation if held_out else split.train
        what = "held-out comparisons" if held_out else "comparisons"
        stage_inputs.refuse_single_answers()
        pairs = stage_inputs.cached((what, length), lambda: fitting_comparisons(stage_inputs.tokenizer, given, length))
        report = LengthReport(len(given), 0, len(given) - len(pairs))
        stage_inputs.check_fit(lambda: (pairs, report), what, length)
        return pairs

    def validation_loss(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        return self._measured(model, stage_inputs)["validation_loss"]

    def _measured(self, model: Transformer, stage_inputs: StageInputs) -> dict[str, float]:
        from labkit.evaluation.verdicts import verdict_logprobs, verdict_metrics

        pairs = self._pairs(stage_inputs, held_out=True)
        return verdict_metrics(verdict_logprobs(model, stage_inputs.tokenizer, pairs, self.train.precision))

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Verdicts on held-out pairs in both orders, and what the run's reward model says of the same pairs."""
        from labkit.evaluation.preference_accuracy import pairwise_accuracy, score_pairs

        measured = self._measured(model, stage_inputs)
        measured["left_out"] = len(stage_inputs.preference_split.train) - len(self._pairs(stage_inputs))
        reward_model = stage_inputs.reward_model_or_none()
        if reward_model is not None:
            pairs, length = self._pairs(stage_inputs, held_out=True), self.train.max_length
            scores = score_pairs(reward_model, stage_inputs.tokenizer, pairs, length, self.train.precision)
            measured["reward_model_accuracy"] = pairwise_accuracy(scores.chosen - scores.rejected)
        return measured

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its preference accuracy on held-out pairs is above chance."""
        if "pair_accuracy" not in metrics:
            return None
        return Claim(cls.kind, "preference accuracy", metrics["pair_accuracy"], 0.5, "chance", "higher")
