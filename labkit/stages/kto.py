"""Kahneman-Tversky optimisation: learn from single answers, each labelled good or bad, without comparisons.

    reward = β (log policy(answer) - log reference(answer))      z = β KL(policy, reference)
    loss = desirable_weight sigmoid(z - reward) of a good answer, undesirable_weight sigmoid(reward - z) of a bad one

People feel a gain or a loss against what they expect, ever less the larger it is: prospect theory's value function,
here a sigmoid around the reference point z (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306). A thumb up or
down is enough; where pairs are given, each of their answers is an example, the chosen ones good; of a ranked list the
better half is good and the other bad, each answer once.

Where this departs from the paper and from TRL's KTOTrainer (0.24):

1. The KL is estimated, as in both, from answers set behind other prompts. Which one stands behind which is decided once
   for all answers (TRL: once as well, within a batch of the file; the paper: within each batch), and a row that gets
   too long that way loses its end.
2. The estimate is of one batch over all processes; with gradient accumulation each batch has its own, as in TRL.
3. The weights are settings; neither is derived from how many good and bad answers there are (of pairs: as many).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.configs import Positive, check_fields
from labkit.errors import LabError, count_with_noun
from labkit.losses import KTOLoss, kto_kl, kto_loss
from labkit.machine import all_reduce_sum
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
from labkit.text.chat import Row
from labkit.text.unpaired import (
    LabeledAnswer,
    LabeledBatch,
    LabeledSource,
    count_contradictions,
    encode_with_mismatched,
    unpair,
    unpair_rankings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from labkit.evaluation.config import EvaluationConfig
    from labkit.model.transformer import Transformer
    from labkit.training.config import BatchSource

FEWEST_ROWS = 4
"""Of a batch: from fewer the KL cannot be estimated."""


@register("kto", "Kahneman-Tversky optimisation, from single answers labelled good or bad")
@dataclass(frozen=True)
class KTO(PreferencePolicy):
    """Train the fine-tuned model on single answers with a label. train.batch_size: answers a batch.

    beta: how strongly it is kept close to the reference model. desirable_weight, undesirable_weight: of the losses of
    good and of bad answers.
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
        "The model learns from single answers, each labelled good or bad, instead of comparisons (here each answer of "
        "a preference pair is one example). A good answer becomes likelier and a bad one less likely, measured against "
        "how far the model has moved on average; answers that are far on the right side already count little."
    )
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
        "Mean over the answers of held-out pairs, each by itself: from 0, where all are far on their label's side, to "
        "the mean of the two weights.",
    )

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Pairs must fit and have several prompts, to train on and held out; and held-out prompts with an answer."""
        super().check(stage_inputs, config)
        if stage_inputs.preferences is not None:
            length = self.train.max_length
            answers = self._training_answers(stage_inputs)
            for given in (answers, unpair(stage_inputs.fitting_held_out_pairs(length))):
                encode_with_mismatched(stage_inputs.tokenizer, given, length)
            if both := count_contradictions(answers):
                warnings.warn(
                    f"{count_with_noun(both, 'answer')} of the training data {'are' if both > 1 else 'is'} good in one "
                    f"pair and bad in another: KTO learns both.",
                    stacklevel=2,
                )

    def source(self, stage_inputs: StageInputs, model: Transformer) -> BatchSource:
        """The pairs' answers one by one, with their log-probabilities to `model` as it is before the first step."""
        rows, length, tokenizer = self.train.batch_size, self.train.max_length, stage_inputs.tokenizer
        answers = self._training_answers(stage_inputs)
        encoded = encode_with_mismatched(tokenizer, answers, length)
        reference = self.reference_logprobs(model, tokenizer, encoded)
        options = stage_inputs.seed_and_rank_options()
        return LabeledSource(answers, encoded, reference, rows, length, tokenizer.pad_token_id, **options)

    def _training_answers(self, stage_inputs: StageInputs) -> list[LabeledAnswer]:
        """Both answers of each pair; or, where there are ranked lists, the answers of each list once."""
        if stage_inputs.preference_split.rankings:
            return unpair_rankings(stage_inputs.fitting_rankings(self.train.max_length))
        return unpair(stage_inputs.fitting_pairs(self.train.max_length))

    def objective(self, model: Transformer, batch: LabeledBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(summed loss, how many answers, sums of what the policy implies of them)."""
        desirable, rows = batch.desirable, len(batch.desirable)
        reference, other_reference = batch.reference_logprobs.chunk(2)
        policy = _answer_logprobs(model, batch, slice(rows))
        with torch.no_grad():  # second, since autocast keeps its copies of the weights, here without their gradients
            other = _answer_logprobs(model, batch, slice(rows, None))
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
        kl = kto_kl((other - other_reference).sum(), torch.tensor(len(rows)))
        loss, reward = self._loss(policy, reference, torch.tensor([answer.label for answer in answers]), kl)
        chosen, rejected = policy.view(-1, 2).mean(0).tolist()
        return {
            "validation_loss": float(loss.mean()),
            "pair_accuracy": pairwise_accuracy(reward[::2] - reward[1::2]),
            "chosen_logprob": chosen,
            "rejected_logprob": rejected,
        }

    def held_out_reference(self, stage_inputs: StageInputs) -> NDArray:
        return self._held_out_row_reference(stage_inputs)[:, 0].reshape(-1, 2)

    def _held_out_row_reference(self, stage_inputs: StageInputs) -> NDArray:
        """Of the rows of held-out answers, each behind its own prompt and behind another: [2N, 2] nats of N pairs."""
        return self.cached_reference("held-out answers", stage_inputs, self._held_out_answers(stage_inputs)[1])

    def _held_out_answers(self, stage_inputs: StageInputs) -> tuple[list[LabeledAnswer], list[tuple[Row, Row]]]:
        answers = unpair(stage_inputs.fitting_held_out_pairs(self.train.max_length))
        return answers, encode_with_mismatched(stage_inputs.tokenizer, answers, self.train.max_length)


def _answer_logprobs(model: Transformer, batch: LabeledBatch, rows: slice) -> Tensor:
    """Log-probability of the answers in these rows: [B] nats."""
    inputs, labels, mask = batch.inputs[rows], batch.labels[rows], batch.mask[rows]
    return model.label_logprobs(model.hidden_states(inputs), labels, mask).sum(-1)
