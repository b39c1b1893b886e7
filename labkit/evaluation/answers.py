"""Greedy answers to held-out tasks of the world, and what the question alone gives.

    accuracy, accuracy/KIND   answers to held-out combinations that are right
    question_only/KIND        what the question alone gives, see `question_only_accuracy`
    gold/PROFILE              mean gold score of the same answers under an annotator's profile
    unsupported               share of answers that claim what neither story nor facts say

A base model is asked in the form of its pretraining documents, the story before the first turn; a chat model in the
form of its conversations, the story in the user's turn.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np

from labkit.decoding import Temperature, generate
from labkit.evaluation.config import EvaluationConfig, WorldData
from labkit.evaluation.held_out_loss import Metrics
from labkit.model.transformer import Transformer
from labkit.text.chat import decode_reply, encode_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.world import Task, World, gold_score, remove_story_from_prompt


def answer_metrics(
    model: Transformer, tokenizer: Tokenizer, data: WorldData, config: EvaluationConfig, story_in_user_turn: bool
) -> Metrics:
    """Answers to held-out tasks: accuracy by kind beside what the question alone gives, gold under each
    profile, and the share of answers with an unsupported claim. Tasks that leave too little room for an answer are
    left out, and counted.
    """
    chosen = held_out_tasks(data.world, config.seed, config.tasks_per_kind)
    tasks = _fitting(model, tokenizer, chosen, config)
    answers = answer_tasks_greedily(model, tokenizer, tasks, config, story_in_user_turn)
    right: dict[str, list[float]] = defaultdict(list)
    gold: dict[str, list[float]] = defaultdict(list)
    unsupported = []
    for task, response in zip(tasks, answers, strict=True):
        scores = {name: gold_score(data.world, task, response, p) for name, p in data.world.profiles.items()}
        for name, value in scores.items():
            gold[name].append(value.total)
        value = next(iter(scores.values()))  # what is right does not depend on the profile
        right[task.kind].append(value.right)
        unsupported.append(value.supported < 1)
    every = [value for values in right.values() for value in values]
    return {
        "accuracy": _mean(every),
        "accuracy_standard_error": float(np.std(every or [0.0]) / math.sqrt(max(1, len(every)))),
        "tasks": len(every),
        **({"tasks_left_out": len(chosen) - len(tasks)} if len(tasks) < len(chosen) else {}),
        **{f"accuracy/{kind}": _mean(values) for kind, values in right.items()},
        **question_only_accuracy(model, tokenizer, data.world, tasks, config, story_in_user_turn),
        **{f"gold/{name}": _mean(values) for name, values in gold.items()},
        "unsupported": _mean(unsupported),
    }


def question_only_accuracy(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    story_in_user_turn: bool,
) -> Metrics:
    """`question_only/KIND` for the kinds whose answer is in the story: how many are right without reading it.

    The better of the model's own accuracy when the story is dropped, and the accuracy of the most frequent
    right answer (`majority_answer_accuracy`). What lies above it was read.
    """
    asked = [task for task in tasks if task.kind in world.reading_kinds]
    answers = answer_tasks_greedily(
        model, tokenizer, [remove_story_from_prompt(task) for task in asked], config, story_in_user_turn
    )
    judge = next(iter(world.profiles.values()))
    alone: dict[str, list[float]] = defaultdict(list)
    for task, response in zip(asked, answers, strict=True):
        alone[task.kind].append(gold_score(world, task, response, judge).right)
    frequent = majority_answer_accuracy(world, asked, config.seed, config.majority_baseline_tasks)
    return {f"question_only/{kind}": max(_mean(values), frequent[kind]) for kind, values in alone.items()}


def majority_answer_accuracy(world: World, tasks: Sequence[Task], seed: int, num_examples: int) -> Metrics:
    """Accuracy by kind of always giving the most frequent right answer, counted over `num_examples` training
    tasks.

    'To that question' is taken three ways: to the very same question (Where is Tom?), to the same form of
    it (Where is …?), and to any of its kind. The best of the three counts, so that the measure is no easy
    mark.
    """
    kinds = tuple(dict.fromkeys(task.kind for task in tasks))
    counts = _answer_counts(world, kinds, seed, num_examples)
    hits: dict[str, list[list[bool]]] = defaultdict(list)
    for task in tasks:
        hits[task.kind].append([_value(task) == _most_frequent(counts, key) for key in _questions(task)])
    return {kind: float(np.mean(rows, axis=0).max()) for kind, rows in hits.items()}


def answer_tasks_greedily(
    model: Transformer, tokenizer: Tokenizer, tasks: Sequence[Task], config: EvaluationConfig, story_in_user_turn: bool
) -> list[str]:
    """Greedy answers, in the form that the stage has trained on (see above). Tasks to write get room for a
    story.
    """
    prompts = [task_prompt(tokenizer, task, story_in_user_turn) for task in tasks]
    answers = [""] * len(tasks)
    for new_tokens in {config.answer_max_new_tokens, config.story_max_new_tokens}:
        chosen = [index for index, task in enumerate(tasks) if _new_tokens(task, config) == new_tokens]
        replies = generate_greedy_replies(
            model, tokenizer, [prompts[index] for index in chosen], new_tokens, config.generation_batch_size
        )
        for index, text in zip(chosen, replies, strict=True):
            answers[index] = text
    return answers


def _fitting(model: Transformer, tokenizer: Tokenizer, tasks: Sequence[Task], config: EvaluationConfig) -> list[Task]:
    """The tasks that leave room for an answer in either form, so that all stages are asked the same."""

    def fits(task: Task) -> bool:
        longest = max(len(task_prompt(tokenizer, task, story_in_user_turn)) for story_in_user_turn in (False, True))
        return longest <= _room(model, _new_tokens(task, config))

    return [task for task in tasks if fits(task)]


def _new_tokens(task: Task, config: EvaluationConfig) -> int:
    return config.story_max_new_tokens if task.kind == "write" else config.answer_max_new_tokens


def task_prompt(tokenizer: Tokenizer, task: Task, story_in_user_turn: bool) -> list[int]:
    """A task as a prompt: in the form of conversations, the story in the user's turn, or else in that of pretraining
    documents, the story before the first turn.
    """
    if story_in_user_turn:
        return encode_prompt(tokenizer, task.messages)
    return encode_prompt(tokenizer, remove_story_from_prompt(task).messages, passage=task.story)


def generate_greedy_replies(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int
) -> list[str]:
    """Prompts -> greedy replies."""
    replies = generate(
        model,
        prompts,
        filters=[Temperature(0)],
        max_new_tokens=max_new_tokens,
        stop_ids=tokenizer.stop_ids,
        batch_size=batch_size,
    )
    return [decode_reply(tokenizer, ids) for ids in replies]


@lru_cache(maxsize=4)
def held_out_tasks(world: World, seed: int, count_per_kind: int) -> tuple[Task, ...]:
    """`count_per_kind` tasks of each kind, of combinations that training never shows."""
    return tuple(world.task("test", seed, index, kind) for kind in world.task_kinds for index in range(count_per_kind))


@lru_cache(maxsize=4)
def _answer_counts(world: World, kinds: tuple[str, ...], seed: int, examples: int) -> dict[Hashable, Counter[Hashable]]:
    """How often each answer is right to a question, to a form of question and to a kind, in training."""
    counts: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for kind in kinds:
        for index in range(examples):
            task = world.task("train", seed, index, kind)
            for key in _questions(task):
                counts[key][_value(task)] += 1
    return dict(counts)


def _questions(task: Task) -> tuple[Hashable, Hashable, Hashable]:
    """What is asked, more and more loosely."""
    question = task.question
    if question is None:
        return (task.kind, task.kind, task.kind)
    form = (task.kind, question.pattern.kind, question.asked_role)
    return ((task.kind, question.pattern), form, task.kind)


def _value(task: Task) -> Hashable:
    return task.reference if task.question is None else task.question.value


def _most_frequent(counts: dict[Hashable, Counter[Hashable]], key: Hashable) -> Hashable:
    return counts[key].most_common(1)[0][0] if key in counts else None


def _room(model: Transformer, new_tokens: int) -> int:
    """How many tokens a prompt may have, so that a reply of `new_tokens`, or of half the context, has room."""
    return model.config.context - min(new_tokens, model.config.context // 2)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
