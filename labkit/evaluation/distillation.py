"""How far a student is from its teacher on given answers, and how good the teacher's own answers are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch

from labkit.evaluation.held_out_loss import Metrics
from labkit.evaluation.policies import greedy_answer_ids, held_out_prompts, oracle_scores
from labkit.losses import generalized_jsd_loss
from labkit.model.transformer import Transformer
from labkit.text.batch import Batch

if TYPE_CHECKING:
    from labkit.stages.inputs import StageInputs


class Divergence(NamedTuple):
    """Means over the tokens of answers, in nats: see `losses.DistillationLoss`."""

    loss: float
    forward_kl: float
    reverse_kl: float


@torch.no_grad()
def teacher_divergence(
    student: Transformer, teacher: Transformer, batches: Iterable[Batch], *, beta: float = 0.0, temperature: float = 1.0
) -> Divergence:
    """Of the student from the teacher, over the labels of the batches that count; each model on its own device."""
    device, was_training = student.embedding.weight.device, student.training
    student.eval()
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for batch in batches:
        ours, theirs = (_answer_logits(model, batch).to(device) for model in (student, teacher.eval()))
        found = generalized_jsd_loss(ours, theirs, beta=beta, temperature=temperature)
        sums += torch.tensor([float(one.sum()) for one in found], dtype=torch.float64)
        count += batch.label_count
    student.train(was_training)
    return Divergence(*(sums / count).tolist())


def _answer_logits(model: Transformer, batch: Batch) -> torch.Tensor:
    """[N, V]: what a model says before each of the N labels that count."""
    inputs, _, mask = batch.to(model.embedding.weight.device)
    return model.logits(model.hidden_states(inputs)[mask])


def teacher_oracle_metrics(
    teacher: str, stage_inputs: StageInputs, num_prompts: int, max_length: int, max_new_tokens: int
) -> Metrics:
    """What the oracle says of a stage's greedy answers to the prompts that a policy is measured on; nothing where there
    is no oracle.
    """
    if not stage_inputs.uses_world_data:
        return {}
    tokenizer = stage_inputs.tokenizer
    held_out = held_out_prompts(stage_inputs, num_prompts, max_length, max_new_tokens)
    answers = stage_inputs.cached(
        ("answers", num_prompts, max_length, max_new_tokens, teacher),
        lambda: greedy_answer_ids(stage_inputs.model(teacher), tokenizer, held_out.prompt_ids, max_new_tokens),
    )
    scores = oracle_scores(stage_inputs.world, stage_inputs.annotator, tokenizer, held_out.tasks, answers)
    return {"teacher_gold": float(scores.gold.mean()), "teacher_right": float(scores.right.mean())}
