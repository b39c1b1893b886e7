"""Labels of the steps of answers, for process supervision: a model answers, and the oracle says of each sentence
whether it is correct.

It stands in for the people who label steps in Lightman et al. 2023 (https://arxiv.org/abs/2305.20050). They stop at the
first mistake; here the sentences behind one are labelled, too, in the state that the world is then in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from labkit.configs import Count, Range, check_fields
from labkit.decoding.filters import COLDEST, HOTTEST
from labkit.errors import LabError
from labkit.machine import autocast
from labkit.model.transformer import Transformer
from labkit.preferences.annotate import AnnotationConfig, sample_task_answers
from labkit.text.chat import decode_reply
from labkit.text.steps import StepwiseAnswer
from labkit.text.tokenizer import Tokenizer
from labkit.world import Task, World, label_steps


@dataclass(frozen=True)
class StepLabelConfig:
    """Which answers are labelled. tasks: kinds of TinyWorld's tasks that are asked in turn; a story ("write") has many
    sentences, an answer to a question few. prompts, held_out: how many, to train on and not. num_generations: answers
    to each. temperature: at which they are drawn. max_new_tokens: where they are cut.
    """

    tasks: tuple[str, ...] = ("write",)
    prompts: Count = 200
    held_out: Count = 100
    num_generations: Annotated[int, Range(2, 4096)] = 8
    temperature: Annotated[float, Range(COLDEST, HOTTEST)] = 1.0
    max_new_tokens: Count = 110

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.tasks:
            raise LabError("StepLabelConfig: tasks must name a kind of task or more, as write or where.")


def step_tasks(world: World, config: StepLabelConfig, split: str, seed: int) -> list[Task]:
    """The tasks of a split, "train" or "test", whose answers are labelled."""
    count = config.prompts if split == "train" else config.held_out
    return [world.task(split, seed, index, config.tasks[index % len(config.tasks)]) for index in range(count)]


def generate_stepwise_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    config: StepLabelConfig,
    tasks: Sequence[Task],
    seed: int,
    precision: str,
) -> list[StepwiseAnswer]:
    """`config.num_generations` answers of `model` to each task, side by side, the sentences of each labelled; the same
    for the same weights and arguments.
    """
    options = AnnotationConfig(
        num_generations=config.num_generations, temperature=config.temperature, max_new_tokens=config.max_new_tokens
    )
    with autocast(model.embedding.weight.device, precision):
        drawn = sample_task_answers(model, tokenizer, tasks, options, seed)
    answers = []
    for place, ids in enumerate(drawn):
        task = tasks[place // config.num_generations]
        steps = label_steps(world, task, decode_reply(tokenizer, ids))
        answers.append(StepwiseAnswer(task.messages, tuple(s.sentence for s in steps), tuple(s.correct for s in steps)))
    return answers
