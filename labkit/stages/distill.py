"""Knowledge distillation: a student learns the next-token distributions of a larger model of ours, its teacher.

Generalized knowledge distillation (GKD; Agarwal et al. 2023, https://arxiv.org/abs/2306.13649, algorithm 1) has two
axes: whose answers are read, and which divergence is made small at each of their tokens.

    answers of a batch   the student's own, drawn anew (on-policy), with probability lmbda; else those of the
                         conversations (supervised KD), or with seq_kd the teacher's own
    loss                 gjsd: the generalized Jensen-Shannon divergence at beta, from the forward KL (0) to the
                         reverse KL (1); see `losses.generalized_jsd_loss`
                         nll: the negative log-likelihood of the teacher's greedy answers, which is sequence-level
                         knowledge distillation (Kim & Rush 2016, https://arxiv.org/abs/1606.07947)

lmbda 0 and beta 0 is supervised word-level KD (Hinton et al. 2015, https://arxiv.org/abs/1503.02531, without a term of
the data's own labels); lmbda 1 is on-policy distillation, where the student is corrected on its own mistakes. No
gradient goes through the drawing.

Where this departs from the papers and from TRL's GKDTrainer (0.24):

1. `temperature` is that of drawing and of both distributions in the loss, 1 by default. TRL's default is 0.9, and
   without Liger its `compute_loss` does not pass it on: answers are drawn at 0.9 and compared at 1.
2. On-policy or not is drawn for a batch from the seed and the batch's number, the same on all processes; TRL draws on
   each process by itself.
3. The prompt of a drawn answer is a conversation up to one of its answers, any of them; TRL's is up to the last. An
   off-policy batch is fine-tuning's: all answers of a conversation count.
4. The loss is a mean over all tokens of a step, over gradient accumulation and processes; TRL 0.24 averages each
   batch by itself.
5. Kim & Rush take the teacher's best answer by beam search; here it is the greedy one, a beam of one.
6. The teacher is a model of labkit that reads the same tokens. It is asked anew for each batch: nothing that it said is
   kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.configs import Count, Share, check_fields
from labkit.errors import LabError
from labkit.evaluation.metrics import MetricSpec
from labkit.losses import generalized_jsd_loss, next_token_loss
from labkit.machine import autocast, uses_bf16
from labkit.model.transformer import Transformer
from labkit.stages.claims import Claim, Metrics
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.policy_gradient import Temperature
from labkit.stages.registry import Curve, RolloutSchedule, Stage, register
from labkit.stages.sampling import Sampler
from labkit.stages.sft import SFT
from labkit.text.batch import Batch
from labkit.text.sources import EpochSampler
from labkit.training.config import BatchSource, TrainConfig
from labkit.training.engine import gather_full_parameters, make_parallel_eval_engine
from labkit.training.processes import accelerator

if TYPE_CHECKING:
    from labkit.evaluation.config import EvaluationConfig, TextData, WorldData
    from labkit.model.reward_model import RewardModel
    from labkit.preferences.prompts import IndexedPrompts


@register("distill", "knowledge distillation from a teacher, a larger model of this run or another")
@dataclass(frozen=True)
class Distill(Stage):
    """Train a student to write as its teacher does.

    teacher: the stage whose model is learnt from, one before this in the plan or RUN/STAGE of another run. lmbda: the
    share of on-policy batches. beta: 0 is the forward KL, 1 the reverse KL, between them the generalized Jensen-Shannon
    divergence. temperature, max_new_tokens: how answers are drawn, and where they are cut; the loss compares both
    models at that temperature. seq_kd: off-policy batches are the teacher's own answers. loss_type: gjsd, or nll of the
    teacher's greedy answers. compile_rollouts: see `PolicyGradient`.
    """

    train: TrainConfig = TrainConfig()
    teacher: str = ""
    lmbda: Share = 0.5
    beta: Share = 0.5
    temperature: Temperature = 1.0
    max_new_tokens: Count = 40
    seq_kd: bool = False
    loss_type: Literal["gjsd", "nll"] = "gjsd"
    compile_rollouts: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_new_tokens >= self.train.max_length:
            raise LabError(
                f"Distill: answers of {self.max_new_tokens} tokens leave no room for a prompt: train.max_length is "
                f"{self.train.max_length}. Lower max_new_tokens, or raise train.max_length."
            )
        if self.train.compile:
            raise LabError(
                "Distill: train.compile would recompile the objective for each answer length, which takes minutes; "
                "leave it off. compile_rollouts compiles the sampling of answers."
            )
        if self.loss_type == "nll" and (not self.seq_kd or self.lmbda):
            raise LabError(
                "Distill: loss_type nll learns the teacher's answers word by word, and nothing from the student's own "
                "or from the data: set seq_kd True and lmbda 0, or loss_type gjsd."
            )
        if self.seq_kd and self.lmbda == 1:
            raise LabError(
                "Distill: seq_kd is about batches that are not on-policy, and with lmbda 1 there are none. Lower "
                "lmbda, or leave seq_kd off."
            )

    title = "Knowledge distillation"
    short_title = "distillation"
    batch_unit = "answers"
    about = (
        "A student learns from a larger model, its teacher: at each token of an answer it is told the teacher's whole "
        "distribution of the next token, which says more than the one token that stands there. The answers are those "
        "of the data, the teacher's, or the student's own (on-policy), on which it is corrected where it errs."
    )
    reads = "instructions"
    online = True
    loss_unit = "nats per token"
    curves = (
        Curve("Divergence from the teacher", "nats per token", ("forward_kl", "reverse_kl")),
        Curve("On-policy batches", "fraction of the tokens", ("on_policy",)),
    )
    metric_specs = {
        "untrained_loss": MetricSpec(
            "loss on held-out answers before this stage",
            "nats per token",
            "",
            "The same loss before the first step of this stage.",
        ),
        "validation_loss": MetricSpec(
            "loss on held-out answers",
            "nats per token",
            "lower",
            "The stage's loss on held-out answers: of the conversations, or with nll the teacher's greedy ones.",
        ),
        "forward_kl": MetricSpec(
            "forward KL from the teacher",
            "nats per token",
            "lower",
            "KL(teacher || student), mean over the tokens of held-out conversations' answers: what the student loses "
            "by not giving the teacher's probabilities. 0 where both are the same model.",
        ),
        "reverse_kl": MetricSpec(
            "reverse KL from the teacher",
            "nats per token",
            "lower",
            "KL(student || teacher) on the same tokens: large where the student says what the teacher would not.",
        ),
        "own_answers_kl": MetricSpec(
            "reverse KL on own answers",
            "nats per token",
            "lower",
            "KL(student || teacher), mean over the tokens of answers that the student draws itself to held-out "
            "prompts: how far it is from its teacher where its own words have led it.",
        ),
        "teacher_gold": MetricSpec(
            "gold score of the teacher", "score", "", "Mean gold score of the teacher's answers to the same prompts."
        ),
        "teacher_right": MetricSpec(
            "right answers of the teacher", "share", "", "Share of the same prompts that the teacher answers right."
        ),
    }

    @property
    def teacher_stages(self) -> tuple[str, ...]:
        return (self.teacher,)

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Conversations must fit in rows, and their prompts with an answer, to train on and held out."""
        from labkit.evaluation.policies import held_out_prompts

        self.refuse_prefix_sharing()
        length, new = self.train.max_length, self.max_new_tokens
        SFT(self.train).check(stage_inputs, config)
        EpochSampler(self.train.batch_size, 0, None, world_size=stage_inputs.world_size)
        for split in ("train", "validation"):
            stage_inputs.conversation_prompts(length, new, split).prompt_ids(0)
        if stage_inputs.uses_world_data:
            stage_inputs.check_annotator()
            held_out_prompts(stage_inputs, config.policy_prompts, length, new)

    def source(self, stage_inputs: StageInputs, model: Transformer) -> BatchSource:
        return DistillationSource(self, stage_inputs)

    def sampler(self, stage_inputs: StageInputs, temperature: float, compile: bool = False) -> Sampler:
        """What draws answers; temperature 0 is greedy."""
        return Sampler(
            stage_inputs.tokenizer,
            max_length=self.train.max_length,
            max_new_tokens=self.max_new_tokens,
            temperature=temperature,
            compile=compile,
        )

    def objective(self, model: Transformer, batch: DistillationBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(summed loss of the answers' tokens, how many they are, what to watch)."""
        mask, count = batch.mask, batch.mask.sum()
        logits = model.logits(model.hidden_states(batch.inputs)[mask])  # [N, V] of the N tokens of answers
        watched = {"on_policy": batch.on_policy * count} | token_count_metric(batch.inputs)
        if not isinstance(batch.teacher_logits, Tensor):
            labels = batch.labels[mask]
            loss_sum, _ = next_token_loss(logits, labels, torch.ones_like(labels, dtype=torch.bool))
            return loss_sum, count, watched
        found = generalized_jsd_loss(logits, batch.teacher_logits, beta=self.beta, temperature=self.temperature)
        watched |= {"forward_kl": found.forward_kl.sum(), "reverse_kl": found.reverse_kl.sum()}
        return found.loss.sum(), count, watched

    def rollout_schedule(self) -> RolloutSchedule:
        """Every batch is read by the teacher, and written by it or by the student where answers are drawn."""
        share = 1.0 if self.seq_kd else self.lmbda
        writer = "teacher" if self.seq_kd else ""
        return RolloutSchedule(self.max_new_tokens, 1, share, writer, read_by_policy=False)

    def frozen_rollout_models(self, stage_inputs: StageInputs) -> dict[str, Transformer | RewardModel]:
        return {"teacher": stage_inputs.model(self.teacher)}

    def flops(self, model: Transformer, tokens: float) -> float:
        """Of the student alone, with the forward passes in which it draws answers; the teacher's are not counted."""
        return tokens * model.training_flops_per_token(self.train.max_length) * (1 + self.lmbda / 3)

    def eval_data(self, stage_inputs: StageInputs) -> WorldData | TextData:
        return SFT(self.train).eval_data(stage_inputs)

    def validation_loss(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        from labkit.evaluation.distillation import teacher_divergence
        from labkit.evaluation.held_out_loss import loss_sum_and_count

        if self.loss_type == "nll":
            nats, count = loss_sum_and_count(model, self._teacher_rows(stage_inputs, config))
            return nats / count
        rows, teacher = self._held_out_rows(stage_inputs, config), stage_inputs.model(self.teacher)
        return teacher_divergence(model, teacher, rows, beta=self.beta, temperature=self.temperature).loss

    def _held_out_rows(self, stage_inputs: StageInputs, config: EvaluationConfig) -> list[Batch]:
        """Held-out conversations, as fine-tuning is measured on them while training."""
        from labkit.text.sources import document_batch

        count, rows, length = config.documents // 2, config.loss_batch_size, self.train.max_length
        if stage_inputs.conversations is not None:
            documents = list(stage_inputs.conversations.validation[:count])
        else:
            world, seed = stage_inputs.world, stage_inputs.seed
            documents = [world.conversation("validation", seed, index) for index in range(count)]
        starts = range(0, len(documents), rows)
        return [
            document_batch(stage_inputs.tokenizer, documents[start : start + rows], length, "answers")
            for start in starts
        ]

    def _teacher_rows(self, stage_inputs: StageInputs, config: EvaluationConfig) -> list[Batch]:
        """The teacher's greedy answers to held-out prompts."""
        key = ("teacher's answers", self.teacher, self.train.max_length, self.max_new_tokens, config.documents)
        return stage_inputs.cached(
            key, lambda: self._answered(stage_inputs.model(self.teacher), stage_inputs, config, temperature=0.0)
        )

    def _answered(
        self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig, temperature: float
    ) -> list[Batch]:
        """Answers that a model draws to held-out prompts, the same randomness for each model."""
        new, rows, count = self.max_new_tokens, config.loss_batch_size, config.documents // 2
        prompts = stage_inputs.conversation_prompts(self.train.max_length, new, "validation")
        asked = [prompts.prompt_ids(index) for index in range(count)]
        draws = torch.rand(count, new, generator=torch.Generator().manual_seed(stage_inputs.seed))
        sampler = self.sampler(stage_inputs, temperature)
        chosen = [slice(start, start + rows) for start in range(0, count, rows)]
        with torch.no_grad(), gather_full_parameters(model):
            return [sampler.sample(model, asked[part], draws[part]).batch for part in chosen]

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its loss on held-out answers is below that of the model before."""
        if "validation_loss" not in metrics or "untrained_loss" not in metrics:
            return None
        loss, before = metrics["validation_loss"], metrics["untrained_loss"]
        return Claim(cls.kind, cls.metric_specs["validation_loss"].label, loss, before, "the initial model", "lower")

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """How far it is from its teacher, before and after; in the world also the oracle's scores of greedy answers,
        beside those of the model before and of the teacher.
        """
        from labkit.evaluation.distillation import teacher_oracle_metrics
        from labkit.evaluation.policies import policy_metrics

        measured = {"validation_loss": self.validation_loss(model, stage_inputs, config)}
        measured |= self._distance(model, stage_inputs, config)
        key = ("distance", self, stage_inputs.predecessor, config)
        before = stage_inputs.cached(
            key, lambda: self._distance(stage_inputs.predecessor_model(), stage_inputs, config)
        )
        measured |= {f"{name}_before": value for name, value in before.items()}
        if stage_inputs.uses_world_data:
            asked = stage_inputs, config.policy_prompts, self.train.max_length, self.max_new_tokens
            measured |= policy_metrics(model, *asked) | teacher_oracle_metrics(self.teacher, *asked)
        return measured

    def _distance(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """From the teacher, at temperature 1 whatever the stage's is."""
        from labkit.evaluation.distillation import teacher_divergence

        teacher = stage_inputs.model(self.teacher)
        given = teacher_divergence(model, teacher, self._held_out_rows(stage_inputs, config))
        own = teacher_divergence(model, teacher, self._answered(model, stage_inputs, config, temperature=1.0))
        return {"forward_kl": given.forward_kl, "reverse_kl": given.reverse_kl, "own_answers_kl": own.reverse_kl}


class DistillationBatch(NamedTuple):
    """B rows. inputs, labels, mask [B, T] as in Batch, mask True on the answers; teacher_logits [N, V], what the
    teacher says before each of their N tokens, or nothing where the loss does not ask; on_policy []: 1 where the
    student wrote the answers, else 0.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    teacher_logits: Tensor | tuple[()]
    on_policy: Tensor


class DistillationSource:
    """A source for `fit`: answers, and what the teacher says of them. Batch n depends on the seed, on n and, where it
    is on-policy, on the student's weights: it holds no state.
    """

    def __init__(self, stage: Distill, stage_inputs: StageInputs):
        train, device = stage.train, accelerator().device
        self.stage, self.seed, self.precision = stage, stage_inputs.seed, train.precision
        self.data = SFT(train).source(stage_inputs, None)
        self.prompts: IndexedPrompts = stage_inputs.conversation_prompts(train.max_length, stage.max_new_tokens)
        greedy, compiled = stage.loss_type == "nll", stage.compile_rollouts
        self.sampler = stage.sampler(stage_inputs, stage.temperature, compiled)
        self.teacher_sampler = stage.sampler(stage_inputs, 0.0 if greedy else stage.temperature, compiled)
        self.rank, self.world_size = stage_inputs.rank, stage_inputs.world_size
        teacher = stage_inputs.model(stage.teacher)
        self.teacher = make_parallel_eval_engine(teacher, device, uses_bf16(train.precision, device))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise LabError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}: another run's?")

    def is_on_policy(self, batch: int) -> bool:
        """Whether the student writes this batch: the same on every process."""
        return bool(np.random.default_rng([self.seed, batch, 0]).random() < self.stage.lmbda)

    @torch.no_grad()
    def next_batch(self, model: Transformer, batch: int) -> DistillationBatch:
        """Rows of answers, of the data, the teacher or `model`, with the teacher's logits before their tokens."""
        device, on_policy = accelerator().device, self.is_on_policy(batch)
        with autocast(device, self.precision):
            if on_policy:
                rows = self._written(model, self.sampler, batch)
            elif self.stage.seq_kd:
                rows = self._written(self.teacher.model, self.teacher_sampler, batch)
            else:
                rows = self.data.next_batch(None, batch)
            rows = rows.to(device)
            asked = self.stage.loss_type == "gjsd"
            logits = self.teacher.call_with_weights(answer_logits, rows) if asked else ()
        return DistillationBatch(*rows, logits, torch.tensor(float(on_policy), device=device))

    def _written(self, model: Any, sampler: Sampler, batch: int) -> Batch:
        """Answers that a model draws to this process's prompts of a batch."""
        count = self.stage.train.batch_size
        mine = range(count)[self.rank :: self.world_size]
        generator = torch.Generator().manual_seed(int(np.random.default_rng([self.seed, batch, 1]).integers(2**62)))
        draws = torch.rand(count, self.stage.max_new_tokens, generator=generator)[list(mine)]
        asked = [self.prompts.prompt_ids(batch * count + at) for at in mine]
        with gather_full_parameters(model):
            return sampler.sample(model, asked, draws).batch


def answer_logits(model: Transformer, batch: Batch) -> Tensor:
    """[N, V]: what a model says before each of the N tokens of a batch's answers."""
    return model.logits(model.hidden_states(batch.inputs)[batch.mask])
