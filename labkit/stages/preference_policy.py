"""What the stages share that train a policy on preference pairs directly: DPO and its kin, a page each.

A page is settings, a loss and words. Here stand the log-probabilities of answers to the policy and to the reference,
the batches, and what is measured on held-out pairs and prompts.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from labkit.configs import Range
from labkit.evaluation.metrics import MetricSpec
from labkit.losses import PreferenceLoss
from labkit.machine import autocast, uses_bf16
from labkit.model.prefix_sharing import row_hidden_states
from labkit.model.transformer import Transformer
from labkit.stages.claims import Claim, Metrics
from labkit.stages.doctor import PREFERENCE_CHECKS
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.pairs import PAIR_LOSSES, RANKED
from labkit.stages.registry import Curve, Stage
from labkit.text.chat import Row
from labkit.text.pairs import PairBatch, PairSource, batch_indices_by_length, collate_pairs, encode_pair
from labkit.training.config import BatchSource, TrainConfig
from labkit.training.engine import call_on_device
from labkit.training.processes import accelerator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from labkit.evaluation.config import EvaluationConfig
    from labkit.text.pairs import PreferencePair
    from labkit.text.tokenizer import Tokenizer

FlippedShare = Annotated[float, Range(0, 0.49)]
"""Of the labels; where half are flipped they say nothing."""

IMPLICIT_REWARDS = Curve(
    "Implicit reward of the two answers", "implicit reward (nats)", ("chosen_reward", "rejected_reward")
)
LOGPROBS = Curve(
    "Log-probability of the two answers", "log-probability (nats per answer)", ("chosen_logprob", "rejected_logprob")
)


def held_out_loss_specs(unit: str, meaning: str, label: str = "loss on held-out pairs") -> dict[str, MetricSpec]:
    """What the loss on held-out pairs, or other preferences, is counted in and means, before a stage and after it."""
    before = "The same loss before the first step of this stage."
    return {
        "untrained_loss": MetricSpec(f"{label} before this stage", unit, "", before),
        "validation_loss": MetricSpec(label, unit, "lower", meaning),
    }


class PairLogprobs(NamedTuple):
    """Log-probabilities of B pairs' answers, [2B] nats each: the chosen ones, then the rejected ones.

    policy, reference: to which model; reference is 0 where a stage needs none. lengths [2B]: tokens of each answer.
    """

    policy: Tensor
    reference: Tensor
    lengths: Tensor

    @property
    def sides(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """policy_chosen, policy_rejected, reference_chosen, reference_rejected, each [B]."""
        (chosen, rejected), (chosen_before, rejected_before) = self.policy.chunk(2), self.reference.chunk(2)
        return chosen, rejected, chosen_before, rejected_before

    @property
    def per_token(self) -> PairLogprobs:
        """The same as means over an answer's tokens."""
        return self._replace(policy=self.policy / self.lengths, reference=self.reference / self.lengths)


@dataclass(frozen=True)
class PreferencePolicy(Stage):
    """A policy that is trained on preferences without a reward model and without sampling."""

    train: TrainConfig = TrainConfig()

    reads = "preferences"
    batch_unit = "pairs of answers"
    checks = PREFERENCE_CHECKS
    uses_reference: ClassVar[bool] = True
    """Whether its loss compares the policy with the model before this stage."""

    @abstractmethod
    def held_out_metrics(self, model: Transformer, stage_inputs: StageInputs) -> dict[str, float]:
        """Loss and accuracy on held-out preferences, and the mean log-probability of their answers."""

    @abstractmethod
    def held_out_baselines(self, stage_inputs: StageInputs) -> dict[str, float]:
        """What these are held against: the log-probabilities before the stage, and what is known without a model; and
        how many preferences there are.
        """

    def check_preferences(self, stage_inputs: StageInputs) -> None:
        """Raises LabError where the preferences do not serve the stage."""
        stage_inputs.check_pairs(self.train.max_length)

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Preferences must fit, and held-out prompts with an answer, which the policy is measured on."""
        from labkit.evaluation.policies import held_out_prompts

        self.check_preferences(stage_inputs)
        held_out_prompts(stage_inputs, config.policy_prompts, self.train.max_length, config.answer_max_new_tokens)

    def validation_loss(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        return self.held_out_metrics(model, stage_inputs)["validation_loss"]

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its loss on held-out preferences is below that of the model before."""
        if "validation_loss" not in metrics or "untrained_loss" not in metrics:
            return None
        loss, before = metrics["validation_loss"], metrics["untrained_loss"]
        return Claim(cls.kind, cls.metric_specs["validation_loss"].label, loss, before, "the initial model", "lower")

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Loss and accuracy on held-out preferences, and how likely their answers have become; then greedy answers to
        held-out prompts are generated, and their gold or reward is compared with that of the model before.
        """
        from labkit.evaluation.policies import policy_metrics

        measured = self.held_out_metrics(model, stage_inputs) | self.held_out_baselines(stage_inputs)
        prompts, new = config.policy_prompts, config.answer_max_new_tokens
        return measured | policy_metrics(model, stage_inputs, prompts, self.train.max_length, new)

    def pair_baselines(self, stage_inputs: StageInputs, reference: NDArray) -> dict[str, float]:
        """`held_out_baselines` of pairs. reference [N, 2]: log-probabilities of both answers before the stage."""
        from labkit.evaluation.preference_accuracy import length_baseline_accuracy

        length = self.train.max_length
        pairs = stage_inputs.fitting_held_out_pairs(length)
        chosen, rejected = reference.mean(0)
        return {
            "chosen_logprob_before": float(chosen),
            "rejected_logprob_before": float(rejected),
            "length_accuracy": length_baseline_accuracy(pairs),
            "pairs": len(pairs),
            "left_out": stage_inputs.num_left_out_pairs(length),
        }

    def reference_logprobs(self, model: Transformer, tokenizer: Tokenizer, rows: Sequence[tuple[Row, Row]]) -> NDArray:
        """Of the answers in N pairs of rows to the model before training: [N, 2] nats, computed as training will, so
        that policy and reference agree.
        """
        return self._untrained(model, tokenizer, rows, uses_bf16(self.train.precision, accelerator().device))

    def cached_reference(self, what: str, stage_inputs: StageInputs, rows: Sequence[tuple[Row, Row]]) -> NDArray:
        """The same of held-out answers, under the name `what`: once for all stages that begin with this model."""
        precision, tokenizer = self.train.precision, stage_inputs.tokenizer

        def before() -> NDArray:
            model = stage_inputs.predecessor_model()
            if self.uses_reference:  # asked for while training, by all processes together
                return self._untrained(model, tokenizer, rows)
            return row_logprobs(model, tokenizer, rows, self.train.max_length, precision)

        return stage_inputs.cached((what, self.train.max_length, precision, stage_inputs.predecessor), before)

    def _untrained(
        self, model: Transformer, tokenizer: Tokenizer, rows: Sequence[tuple[Row, Row]], bf16: bool = False
    ) -> NDArray:
        """`row_logprobs` of a model that is not trained yet. bf16: of sharded weights that are gathered in it."""
        length, precision = self.train.max_length, self.train.precision
        return call_on_device(model, lambda one: row_logprobs(one, tokenizer, rows, length, precision), bf16)


@dataclass(frozen=True)
class PairwisePolicy(PreferencePolicy):
    """One that learns from the two answers of a pair together."""

    loss_unit = "nats per pair"
    curves = (RANKED, IMPLICIT_REWARDS, LOGPROBS)
    metric_specs = PAIR_LOSSES

    @abstractmethod
    def preference_loss(self, pairs: PairLogprobs) -> PreferenceLoss:
        """Of each pair, and the rewards that the policy implies."""

    @property
    def nll_weight(self) -> float:
        """Of the chosen answer's negative log-likelihood, a token's mean, which is added to the loss of a pair; on
        held-out pairs it is not.
        """
        return 0.0

    def source(self, stage_inputs: StageInputs, model: Transformer) -> BatchSource:
        """Pairs; where there is a reference, with the log-probabilities of their answers to `model` as it is before the
        first step.
        """
        rows, length, tokenizer = self.train.batch_size, self.train.max_length, stage_inputs.tokenizer
        pairs, reference = stage_inputs.fitting_pairs(length), None
        if self.uses_reference:
            reference = self.reference_logprobs(model, tokenizer, [encode_pair(tokenizer, pair) for pair in pairs])
        options = stage_inputs.seed_and_rank_options()
        return PairSource(tokenizer, pairs, rows, length, reference_logprobs=reference, **options)

    def objective(self, model: Transformer, batch: PairBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(summed loss, how many pairs, sums of what the policy implies of them)."""
        x = row_hidden_states(model, batch.inputs, batch.mask, self.train.prefix_sharing)
        policy = model.label_logprobs(x, batch.labels, batch.mask).sum(-1)
        pairs = PairLogprobs(policy, batch.reference_logprobs, batch.mask.sum(-1))
        loss, better, worse = self.preference_loss(pairs)
        chosen, rejected = policy.detach().chunk(2)
        metrics = {
            "accuracy": (better > worse).sum(),
            "chosen_reward": better.sum(),
            "rejected_reward": worse.sum(),
            "chosen_logprob": chosen.sum(),
            "rejected_logprob": rejected.sum(),
        }
        if self.nll_weight:
            nll = -pairs.per_token.sides[0]
            loss, metrics["nll_loss"] = loss + self.nll_weight * nll, nll.sum()
        return loss.sum(), torch.tensor(len(loss), device=loss.device), metrics | token_count_metric(batch.inputs)

    def held_out_metrics(self, model: Transformer, stage_inputs: StageInputs) -> dict[str, float]:
        from labkit.evaluation.preference_accuracy import pairwise_accuracy

        rows = self._held_out_rows(stage_inputs)
        logprobs = row_logprobs(model, stage_inputs.tokenizer, rows, self.train.max_length, self.train.precision)
        after, before = torch.from_numpy(logprobs), torch.zeros(len(rows), 2)
        if self.uses_reference:
            before = torch.from_numpy(self.held_out_reference(stage_inputs))
        lengths = torch.tensor([[sum(counts) for _, counts in pair] for pair in rows])
        found = self.preference_loss(PairLogprobs(*(one.T.reshape(-1) for one in (after, before, lengths))))
        chosen, rejected = after.mean(0).tolist()
        return {
            "validation_loss": float(found.loss.mean()),
            "pair_accuracy": pairwise_accuracy(found.chosen_reward - found.rejected_reward),
            "chosen_logprob": chosen,
            "rejected_logprob": rejected,
        }

    def held_out_baselines(self, stage_inputs: StageInputs) -> dict[str, float]:
        return self.pair_baselines(stage_inputs, self.held_out_reference(stage_inputs))

    def held_out_reference(self, stage_inputs: StageInputs) -> NDArray:
        """Log-probabilities of held-out pairs' answers to the model before this stage: [N, 2] nats."""
        return self.cached_reference("held-out pairs", stage_inputs, self._held_out_rows(stage_inputs))

    def _held_out_rows(self, stage_inputs: StageInputs) -> list[tuple[Row, Row]]:
        pairs = stage_inputs.fitting_held_out_pairs(self.train.max_length)
        return [encode_pair(stage_inputs.tokenizer, pair) for pair in pairs]


def pair_logprobs(
    model: Transformer,
    tokenizer: Tokenizer,
    pairs: Sequence[PreferencePair],
    length: int,
    precision: str,
    batch_size: int = 32,
) -> NDArray:
    """log-probability of each pair's chosen and rejected answer to `model`: [N, 2] nats. See `row_logprobs`."""
    encoded = [encode_pair(tokenizer, pair) for pair in pairs]
    return row_logprobs(model, tokenizer, encoded, length, precision, batch_size)


@torch.no_grad()
def row_logprobs(
    model: Transformer,
    tokenizer: Tokenizer,
    rows: Sequence[tuple[Row, Row]],
    length: int,
    precision: str,
    batch_size: int = 32,
) -> NDArray:
    """log-probability of the answers in N pairs of rows to `model`: [N, 2] nats.

    precision: training's, so that before the first step policy and reference agree.
    """
    was_training = model.training
    model.eval()
    found, device = torch.zeros(len(rows), 2), model.embedding.weight.device
    with autocast(device, precision):
        for chosen in batch_indices_by_length(rows, batch_size):
            batch = collate_pairs([rows[i] for i in chosen], length, tokenizer.pad_token_id).to(device)
            sums = model.label_logprobs(model.hidden_states(batch.inputs), batch.labels, batch.mask).sum(-1)
            found[chosen] = sums.view(2, -1).T.cpu()
    model.train(was_training)
    return found.numpy()
