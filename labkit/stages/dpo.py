"""Direct preference optimisation: learn from preference pairs without a reward model and without sampling.

β times the log-ratio of an answer's probability under the policy and the reference model is the policy's implicit
reward; the reward model's loss is applied to it (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.configs import Positive, check_fields
from labkit.losses import dpo_loss
from labkit.machine import autocast, uses_bf16
from labkit.model.transformer import Transformer
from labkit.stages.claims import Claim, Metrics
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.pairs import PAIR_LOSSES, RANKED
from labkit.stages.registry import Curve, Stage, register
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


@register("dpo", "direct preference optimisation, without a reward model")
@dataclass(frozen=True)
class DPO(Stage):
    """Train the fine-tuned model on preference pairs. beta: how strongly it is kept close to the reference model."""

    train: TrainConfig = TrainConfig()
    beta: Positive = 0.3

    def __post_init__(self) -> None:
        check_fields(self)

    title = "Direct preference optimisation"
    short_title = "DPO"
    about = (
        "The fine-tuned model is trained on the preference pairs directly: the chosen answer becomes likelier than the "
        "rejected one, each relative to its probability under the reference model, which is the model before this "
        "stage. There is no reward model and no sampling."
    )
    reads = "preferences"
    loss_unit = "nats per pair"
    curves = (
        RANKED,
        Curve(
            "Implicit reward of the two answers",
            "implicit reward (nats)",
            ("chosen_reward", "rejected_reward"),
        ),
    )
    metric_specs = PAIR_LOSSES

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Pairs must fit, and held-out prompts with an answer, which the policy is measured on."""
        from labkit.evaluation.policies import held_out_prompts

        stage_inputs.check_pairs(self.train.max_length)
        held_out_prompts(stage_inputs, config.policy_prompts, self.train.max_length, config.answer_max_new_tokens)

    def source(self, stage_inputs: StageInputs, model: Transformer) -> BatchSource:
        """Pairs, with the log-probabilities of their answers to `model` as it is before the first step."""
        rows, length = self.train.batch_size, self.train.max_length
        pairs = stage_inputs.fitting_pairs(length)
        as_trained = uses_bf16(self.train.precision, accelerator().device)  # so that policy and reference agree
        reference = self._pair_logprobs(model, stage_inputs.tokenizer, pairs, as_trained)
        return PairSource(
            stage_inputs.tokenizer,
            pairs,
            rows,
            length,
            reference_logprobs=reference,
            **stage_inputs.seed_and_rank_options(),
        )

    def objective(self, model: Transformer, batch: PairBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(summed loss, how many pairs, sums of what the policy implies of them)."""
        policy = model.label_logprobs(model.hidden_states(batch.inputs), batch.labels, batch.mask).sum(-1)
        (chosen, rejected), (chosen_before, rejected_before) = policy.chunk(2), batch.reference_logprobs.chunk(2)
        loss, better, worse = dpo_loss(chosen, rejected, chosen_before, rejected_before, beta=self.beta)
        metrics = {"accuracy": (better > worse).sum(), "chosen_reward": better.sum(), "rejected_reward": worse.sum()}
        return loss.sum(), torch.tensor(len(loss), device=loss.device), metrics | token_count_metric(batch.inputs)

    def validation_loss(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        return self._held_out(model, stage_inputs)["validation_loss"]

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its loss on held-out pairs is below log 2, which guessing gives."""
        if "validation_loss" not in metrics:
            return None
        return Claim(
            cls.kind, "loss on held-out pairs", metrics["validation_loss"], math.log(2), "chance: log 2", "lower"
        )

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Loss and accuracy on held-out pairs; then greedy answers to held-out prompts are generated, and their gold or
        reward is compared with that of the model before.
        """
        from labkit.evaluation.policies import policy_metrics

        policy = policy_metrics(
            model, stage_inputs, config.policy_prompts, self.train.max_length, config.answer_max_new_tokens
        )
        return self._held_out(model, stage_inputs) | policy

    def _held_out(self, model: Transformer, stage_inputs: StageInputs) -> dict[str, float]:
        """Loss and accuracy on held-out pairs, and the accuracy of length alone."""
        from labkit.evaluation.preference_accuracy import length_baseline_accuracy, pairwise_accuracy

        tokenizer, length, precision = stage_inputs.tokenizer, self.train.max_length, self.train.precision
        pairs, key = stage_inputs.fitting_held_out_pairs(length), ("held-out pairs", length, precision)
        after = pair_logprobs(model, tokenizer, pairs, length, precision)
        before = stage_inputs.cached(
            (*key, stage_inputs.predecessor),
            lambda: self._pair_logprobs(stage_inputs.predecessor_model(), tokenizer, pairs),
        )
        moved = torch.from_numpy(after - before)
        chosen, rejected = moved.unbind(1)
        loss = dpo_loss(chosen, rejected, torch.zeros_like(chosen), torch.zeros_like(rejected), beta=self.beta)
        return {
            "validation_loss": float(loss.loss.mean()),
            "pair_accuracy": pairwise_accuracy(chosen - rejected),
            "length_accuracy": length_baseline_accuracy(pairs),
            "pairs": len(pairs),
            "left_out": stage_inputs.num_left_out_pairs(length),
        }

    def _pair_logprobs(
        self, model: Transformer, tokenizer: Tokenizer, pairs: Sequence[PreferencePair], bf16: bool = False
    ) -> NDArray:
        """`pair_logprobs` of a model that is not trained yet. bf16: of sharded weights that are gathered in it."""
        length, precision = self.train.max_length, self.train.precision
        return call_on_device(model, lambda one: pair_logprobs(one, tokenizer, pairs, length, precision), bf16)


@torch.no_grad()
def pair_logprobs(
    model: Transformer,
    tokenizer: Tokenizer,
    pairs: Sequence[PreferencePair],
    length: int,
    precision: str,
    batch_size: int = 32,
) -> NDArray:
    """log-probability of each pair's chosen and rejected answer to `model`: [N, 2] nats.

    precision: training's, so that before the first step policy and reference agree.
    """
    encoded = [encode_pair(tokenizer, pair) for pair in pairs]
    was_training = model.training
    model.eval()
    found, device = torch.zeros(len(encoded), 2), model.embedding.weight.device
    with autocast(device, precision):
        for chosen in batch_indices_by_length(encoded, batch_size):
            batch = collate_pairs([encoded[i] for i in chosen], length, tokenizer.pad_token_id).to(device)
            sums = model.label_logprobs(model.hidden_states(batch.inputs), batch.labels, batch.mask).sum(-1)
            found[chosen] = sums.view(2, -1).T.cpu()
    model.train(was_training)
    return found.numpy()
