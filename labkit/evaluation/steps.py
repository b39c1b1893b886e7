"""How well a process reward model tells correct sentences from wrong ones, and which of several answers it chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from labkit.evaluation.held_out_loss import Metrics
from labkit.losses.steps import StepAggregate, answer_log_probability, step_log_probabilities
from labkit.machine import autocast
from labkit.model.reward_model import RewardModel
from labkit.text.steps import EncodedSteps, StepwiseAnswer, encode_steps, step_batch, step_end_indices
from labkit.text.tokenizer import Tokenizer

AGGREGATES: tuple[StepAggregate, ...] = ("product", "min", "last")


@torch.no_grad()
def score_encoded_steps(
    model: RewardModel, encoded: Sequence[EncodedSteps], length: int, pad_token_id: int, batch_size: int = 64
) -> list[Tensor]:
    """The scores of the steps of N answers, on the CPU: of each answer as many as it has steps."""
    was_training, device = model.training, model.head.weight.device
    model.eval()
    found: list[Tensor] = []
    for start in range(0, len(encoded), batch_size):
        some = encoded[start : start + batch_size]
        batch = step_batch(some, length, pad_token_id).to(device)
        scores = model.step_scores(batch.inputs, batch.mask, batch.step_ends)[batch.step_ends].float().cpu()
        found += scores.split([len(one.ends) for one in some])
    model.train(was_training)
    return found


def score_steps(
    model: RewardModel,
    tokenizer: Tokenizer,
    answers: Sequence[StepwiseAnswer],
    length: int,
    precision: str = "fp32",
) -> list[Tensor]:
    """The same for answers as words, which must fit in rows of `length` tokens."""
    encoded = [encode_steps(tokenizer, answer) for answer in answers]
    with autocast(model.head.weight.device, precision):
        return score_encoded_steps(model, encoded, length, tokenizer.pad_token_id)


def score_drawn_steps(
    model: RewardModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> tuple[list[Tensor], list[list[int]]]:
    """The same for drawn answers, as ids, with the end token where they have one; and the places in each answer at
    which its steps end.
    """
    ends = [step_end_indices(tokenizer, completion) for completion in completions]
    encoded = []
    for prompt, completion, places in zip(prompts, completions, ends, strict=True):
        row = [*prompt, *completion], [False] * len(prompt) + [True] * len(completion)
        encoded.append(EncodedSteps(row, [len(prompt) + end for end in places], (False,) * len(places)))
    return score_encoded_steps(model, encoded, model.config.context, tokenizer.pad_token_id), ends


def answer_score(scores: Tensor, aggregate: StepAggregate) -> float:
    """One number for an answer, of the scores of its steps [S]: the log-probability that it is correct."""
    ends = torch.ones(1, len(scores), dtype=torch.bool)
    return float(answer_log_probability(step_log_probabilities(scores.unsqueeze(0), ends), ends, aggregate))


def step_metrics(scores: Sequence[Tensor], answers: Sequence[StepwiseAnswer], last_only: bool = False) -> Metrics:
    """Over all sentences of the answers: the loss, with last_only of the last sentences alone; how often the likelier
    label is the given one, beside how often the more frequent label is; and how often a correct sentence scores above a
    wrong one, where there are both.
    """
    found = torch.cat(list(scores))
    labels = torch.tensor([label for answer in answers for label in answer.labels])
    last = torch.tensor([len(answer.labels) for answer in answers]).cumsum(0) - 1
    trained = last if last_only else torch.arange(len(labels))
    correct = float(labels.float().mean())
    loss = binary_cross_entropy_with_logits(found[trained], labels[trained].float())
    measured = {
        "validation_loss": float(loss),
        "step_accuracy": float(((found > 0) == labels).float().mean()),
        "step_majority": max(correct, 1 - correct),
        "steps": len(labels),
    }
    if 0 < correct < 1:
        measured["step_ranking"] = ranking_accuracy(found[labels], found[~labels])
    return measured


def ranking_accuracy(higher: Tensor, lower: Tensor) -> float:
    """How often one of `higher` [N] is above one of `lower` [M], a tie being half: the area under the ROC curve."""
    margins = higher.unsqueeze(1) - lower
    return float(((margins > 0).float() + 0.5 * (margins == 0).float()).mean())


def best_of_n_metrics(
    groups: Sequence[Sequence[int]],
    chosen_by: Mapping[str, Sequence[float]],
    correct: Sequence[bool],
    golds: Sequence[float],
) -> Metrics:
    """What is chosen of the answers to the same prompts. groups: their places. chosen_by: a number of each answer, by
    the name of what gives it. correct: whether all sentences of an answer are. For each name, of the answers with the
    highest number: the share that is correct, and their mean gold score; beside what a random choice gives, and the
    share of prompts with a correct answer to choose.
    """

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    measured: Metrics = {
        "random_correct": mean([mean([correct[i] for i in group]) for group in groups]),
        "random_gold": mean([mean([golds[i] for i in group]) for group in groups]),
        "any_correct": mean([any(correct[i] for i in group) for group in groups]),
    }
    for name, numbers in chosen_by.items():
        best = [max(group, key=lambda i: numbers[i]) for group in groups]
        measured[f"{name}_correct"] = mean([correct[i] for i in best])
        measured[f"{name}_gold"] = mean([golds[i] for i in best])
    return measured
