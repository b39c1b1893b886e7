"""Kahneman-Tversky optimisation: learn from single answers, each labelled good or bad, without comparisons.

    reward = β (log policy(answer) - log reference(answer))      z = β KL(policy, reference)
    loss = desirable_weight sigmoid(z - reward) of a good answer, undesirable_weight sigmoid(reward - z) of a bad one

People feel a gain or a loss against what they expect, ever less the larger it is: prospect theory's value function,
here a sigmoid around the reference point z (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306). A thumb up or
down is enough (`--preferences` of rows with prompt, completion and label); where pairs are given, each of their
answers is an example, the chosen ones good; of a ranked list the better half is good and the other bad, each answer
once.

Where this departs from the paper and from TRL's KTOTrainer (0.24):

1. The KL is estimated, as in both, from answers set behind other prompts. Which one stands behind which is decided once
   for all answers (TRL: once as well, within a batch of the file; the paper: within each batch), and a row that gets
   too long that way loses its end.
2. The estimate is of one batch over all processes; with gradient accumulation each batch has its own, as in TRL.
3. The weights are settings; neither is derived from how many good and bad answers there are (of pairs: as many).
   Where the good ones together do not weigh 1 to 4/3 of the bad ones (equation 8), that is said, as in TRL.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.configs import Positive, check_fields
from labkit.errors import LabError, count_with_noun
from labkit.evaluation.metrics import MetricSpec
from labkit.losses import KTOLoss, kto_kl, kto_loss
from labkit.machine import all_reduce_sum
from labkit.model.prefix_sharing import row_hidden_states
from labkit.stages.doctor import PREFERENCE_CHECKS, one_kind_of_label
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.preference_policy import (
    IMPLICIT_REWARDS,
    LOGPROBS,
    PreferencePolicy,
    held_out_loss_specs,
    row_logprobs,
)
from labkit.stages.registry import Curve, register
from labkit.stages.single_answers import check_labels, fitting_labeled_answers, num_left_out_answers
from labkit.text.chat import Row
from labkit.text.unpaired import (
    LabeledAnswer,
    LabeledBatch,
    LabeledSource,
    count_contradictions,
    encode_with_mismatched,
    once_in_lists,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from labkit.model.transformer import Transformer
    from labkit.training.config import BatchSource

FEWEST_ROWS = 4
"""Of a batch: from fewer the KL cannot be estimated."""


@register("kto", "Kahneman-Tversky optimisation, from single answers labelled good or bad")
@dataclass(frozen=True)
class KTO(PreferencePolicy):
    """Train the fine-tuned model on single answers with a label.

    Attributes:
        beta: how strongly the policy is kept close to the reference model; larger is closer.
        desirable_weight: weight of the loss of good answers.
        undesirable_weight: weight of the loss of bad answers.
    """

    beta: Positive = 0.1
    desirable_weight: Positive = 1.0
    undesirable_weight: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.train.batch_size < FEWEST_ROWS:
            raise LabError(
                f"KTO: train.batch_size is {self.train.batch_size}, but a batch's KL is estimated from its answers, "
                f"which takes at least {FEWEST_ROWS}."
            )

    title = "Kahneman-Tversky optimisation"
    short_title = "KTO"
    about = (
        "The model learns from single answers, each labelled good or bad, instead of comparisons (where the data are "
        "preference pairs, each of their answers is one example). A good answer becomes likelier and a bad one less "
        "likely, relative to the reference model and to how far the model has moved on average. Answers that the model "
        "already treats as their label says count little."
    )
    batch_unit = "single answers; a pair is two of them"
    loss_unit = ""
    checks = (*PREFERENCE_CHECKS, one_kind_of_label)
    curves = (
        Curve("Answers on the side of their label", "fraction of the batch", ("accuracy",)),
        IMPLICIT_REWARDS,
        LOGPROBS,
        Curve("KL from the reference model", "KL (nats per answer)", ("kl",)),
    )
    metric_specs = held_out_loss_specs(
        "",
        "Mean over the held-out answers, each by itself: from 0, where all are far on their label's side, to the mean "
        "of the two weights.",
        "loss on held-out answers",
    ) | {
        "chosen_logprob": MetricSpec(
            "log-probability of the good answers", "nats per answer", "", "Mean over the held-out good answers."
        ),
        "rejected_logprob": MetricSpec(
            "log-probability of the bad answers", "nats per answer", "", "Mean over the held-out bad answers."
        ),
    }

    def check_preferences(self, stage_inputs: StageInputs) -> None:
        """Labelled answers, or pairs, must fit, and have several prompts, to train on and held out; and of those to
        train on some must be good and some bad.
        """
        check_labels(stage_inputs)
        stage_inputs.check_annotator()
        if stage_inputs.preferences is not None:
            for held_out in (False, True):
                answers = fitting_labeled_answers(stage_inputs, self.train.max_length, held_out)
                encode_with_mismatched(stage_inputs.tokenizer, answers, self.train.max_length)
                if not held_out:
                    self._check_balance([answer.label for answer in answers], stage_inputs.preferences_name)
                    _warn_of_contradictions(answers)

    def _check_balance(self, labels: Sequence[bool], source: str) -> None:
        """Raises LabError where all are good or all bad; says where the weights do not even out how many there are."""
        good, bad = sum(labels), len(labels) - sum(labels)
        if not good or not bad:
            there, absent = ("good", "bad") if good else ("bad", "good")
            mend = ", or fine-tune on them: --instructions" if good else ""
            raise LabError(
                f"{source}: all {len(labels)} training answers have the label {there}, and KTO learns from good and "
                f"bad ones. Add {absent} ones{mend}."
            )
        ratio = self.desirable_weight * good / (self.undesirable_weight * bad)
        if not 0.99 < ratio < 1.34:
            lowest = self.undesirable_weight * bad / good
            warnings.warn(
                f"KTO: {good:,} good answers with the weight {self.desirable_weight:g}, {bad:,} bad ones with the "
                f"weight {self.undesirable_weight:g}. Recommended is a desirable_weight from {lowest:.3g} to "
                f"{lowest * 4 / 3:.3g}.",
                stacklevel=2,
            )

    def source(self, stage_inputs: StageInputs, model: Transformer) -> BatchSource:
        """The answers one by one, with their log-probabilities to `model` as it is before the first step."""
        rows, length, tokenizer = self.train.batch_size, self.train.max_length, stage_inputs.tokenizer
        answers = fitting_labeled_answers(stage_inputs, length)
        encoded = encode_with_mismatched(tokenizer, answers, length)
        reference = self.reference_logprobs(model, tokenizer, encoded)
        options = stage_inputs.seed_and_rank_options()
        return LabeledSource(answers, encoded, reference, rows, length, tokenizer.pad_token_id, **options)

    def objective(self, model: Transformer, batch: LabeledBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(summed loss, how many answers, sums of what the policy implies of them)."""
        desirable, rows = batch.desirable, len(batch.desirable)
        reference, other_reference = batch.reference_logprobs.chunk(2)
        policy = self._answer_logprobs(model, batch, slice(rows))
        with torch.no_grad():  # second, since autocast keeps its copies of the weights, here without their gradients
            other = self._answer_logprobs(model, batch, slice(rows, None))
        sums = torch.stack([(other - other_reference).sum(), policy.new_tensor(rows), desirable.sum()])
        log_ratio_sum, every, good = all_reduce_sum(sums)
        kl = kto_kl(log_ratio_sum, every)
        loss, reward = self._loss(policy, reference, desirable, kl)
        per_good, per_bad = (desirable * every / good.clamp(min=1), ~desirable * every / (every - good).clamp(min=1))
        logprobs = policy.detach()
        metrics = {
            "accuracy": ((reward > self.beta * kl) == desirable).sum(),
            "chosen_reward": (reward * per_good).sum(),
            "rejected_reward": (reward * per_bad).sum(),
            "chosen_logprob": (logprobs * per_good).sum(),
            "rejected_logprob": (logprobs * per_bad).sum(),
            "kl": kl * rows,
        }
        return loss.sum(), torch.tensor(rows, device=loss.device), metrics | token_count_metric(batch.inputs)

    def _answer_logprobs(self, model: Transformer, batch: LabeledBatch, rows: slice) -> Tensor:
        """Log-probability of the answers in these rows: [B] nats."""
        inputs, labels, mask = batch.inputs[rows], batch.labels[rows], batch.mask[rows]
        x = row_hidden_states(model, inputs, mask, self.train.prefix_sharing)
        return model.label_logprobs(x, labels, mask).sum(-1)

    def _loss(self, policy: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor) -> KTOLoss:
        weights = {"desirable_weight": self.desirable_weight, "undesirable_weight": self.undesirable_weight}
        return kto_loss(policy, reference, desirable, kl, beta=self.beta, **weights)

    def flops(self, model: Transformer, tokens: float) -> float:
        """Half of the tokens, those of answers behind other prompts, are read in a forward pass alone."""
        return super().flops(model, tokens) * (1 + 1 / 3) / 2

    def held_out_metrics(self, model: Transformer, stage_inputs: StageInputs) -> dict[str, float]:
        from labkit.evaluation.preference_accuracy import pairwise_accuracy

        answers, rows = self._held_out_answers(stage_inputs)
        after = row_logprobs(model, stage_inputs.tokenizer, rows, self.train.max_length, self.train.precision)
        policy, other = torch.from_numpy(after).unbind(1)
        reference, other_reference = torch.from_numpy(self._held_out_row_reference(stage_inputs)).unbind(1)
        kl, good = kto_kl((other - other_reference).sum(), torch.tensor(len(rows))), _labels(answers)
        loss, reward = self._loss(policy, reference, good, kl)
        counted = once_in_lists(answers) if stage_inputs.preference_split.rankings else []
        measured = {"validation_loss": float(loss[counted or slice(None)].mean())}  # where all are middling, of all
        if stage_inputs.feedback == "labels":
            measured["label_accuracy"] = float(((reward > self.beta * kl) == good).float().mean())
        else:
            measured["pair_accuracy"] = pairwise_accuracy(reward[::2] - reward[1::2])
        return measured | _mean_logprobs(policy, good)

    def held_out_baselines(self, stage_inputs: StageInputs) -> dict[str, float]:
        reference = torch.from_numpy(self._held_out_row_reference(stage_inputs)[:, 0])
        if stage_inputs.feedback != "labels":
            return self.pair_baselines(stage_inputs, reference.view(-1, 2).numpy())
        good = _labels(self._held_out_answers(stage_inputs)[0])
        share = float(good.float().mean())
        return _mean_logprobs(reference, good, "_before") | {
            "majority_accuracy": max(share, 1 - share),
            "answers": len(good),
            "left_out": num_left_out_answers(stage_inputs, self.train.max_length),
        }

    def _held_out_row_reference(self, stage_inputs: StageInputs) -> NDArray:
        """Of the rows of held-out answers, each behind its own prompt and behind another: [2N, 2] nats of N pairs."""
        return self.cached_reference("held-out answers", stage_inputs, self._held_out_answers(stage_inputs)[1])

    def _held_out_answers(self, stage_inputs: StageInputs) -> tuple[list[LabeledAnswer], list[tuple[Row, Row]]]:
        answers = fitting_labeled_answers(stage_inputs, self.train.max_length, held_out=True)
        return answers, encode_with_mismatched(stage_inputs.tokenizer, answers, self.train.max_length)


def _labels(answers: Sequence[LabeledAnswer]) -> Tensor:
    return torch.tensor([answer.label for answer in answers])


def _mean_logprobs(logprobs: Tensor, good: Tensor, suffix: str = "") -> dict[str, float]:
    """Of the good answers and of the others, as far as there are some: [N] nats, whether each is good [N]."""
    parts = {"chosen_logprob": logprobs[good], "rejected_logprob": logprobs[~good]}
    return {f"{name}{suffix}": float(part.mean()) for name, part in parts.items() if len(part)}


def _warn_of_contradictions(answers: Sequence[LabeledAnswer]) -> None:
    if both := count_contradictions(answers):
        warnings.warn(
            f"{count_with_noun(both, 'answer')} of the training data {'are' if both > 1 else 'is'} good in one pair "
            f"and bad in another: KTO learns both.",
            stacklevel=3,
        )
