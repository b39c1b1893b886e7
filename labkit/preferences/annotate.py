"""Annotators of the world: a model answers, a profile chooses between two of its answers, sometimes by mistake.

What comes out is what people's votes would be, but for one thing: the gold score of both answers is known, and so how
far a reward model that was fitted to the choices is right.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch

from labkit.configs import Count, Range, check_fields
from labkit.decoding import Temperature, generate
from labkit.decoding.compiled import CompiledGenerator, supports_compiled_generation
from labkit.decoding.filters import COLDEST, HOTTEST
from labkit.errors import LabError
from labkit.files import read_jsonl, write_jsonl
from labkit.machine import autocast
from labkit.model.transformer import Transformer
from labkit.text.chat import decode_reply, encode_prompt
from labkit.text.pairs import PreferencePair, pair_to_row
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message, Task, World, gold_score

COMPILED_FROM = 4096
"""Answers from which compiling, 10 to 20 seconds, pays on CUDA."""


@dataclass(frozen=True)
class AnnotationConfig:
    """Who chooses, and between what.

    annotator: a profile of the world. prompts, held_out: how many prompts are answered, to train on and not.
    num_generations: answers to each, two or more, of which two at a time are compared, equal ones never. temperature:
    at which they are drawn. max_new_tokens: where they are cut. ties: whether a choice is asked for, too, where the
    annotator likes both answers alike; a coin then makes it, and half of those choices are noise. precision: bf16 draws
    the answers in bf16, where the processor can; or fp32.
    """

    annotator: str = "warm"
    prompts: Count = 1200
    held_out: Count = 300
    num_generations: Annotated[int, Range(2, 4096)] = 4
    temperature: Annotated[float, Range(COLDEST, HOTTEST)] = 1.0
    max_new_tokens: Count = 40
    ties: bool = False
    precision: Literal["bf16", "fp32"] = "bf16"

    older_names = {"num_generations": "samples", "max_new_tokens": "answer_tokens"}

    def __post_init__(self) -> None:
        check_fields(self)


class AnnotatedPair(NamedTuple):
    """A pair, as the annotator chose, with the gold score of either answer under that annotator's profile."""

    pair: PreferencePair
    chosen_gold: float
    rejected_gold: float


def generate_annotated_pairs(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    config: AnnotationConfig,
    split: str,
    num_prompts: int,
    seed: int = 0,
) -> list[AnnotatedPair]:
    """Choices between answers of `model` to `num_prompts` tasks of a split; the same for the same weights and
    arguments.

    Raises LabError for an annotator that the world has not, and when there is nothing to choose between.
    """
    if config.annotator not in world.profiles:
        raise LabError(f"There is no annotator {config.annotator!r}; there are {', '.join(world.profiles)}.")
    tasks = [preference_task(world, split, seed, index) for index in range(num_prompts)]
    with autocast(model.embedding.weight.device, config.precision):
        answers = _sample_answers(model, tokenizer, tasks, config, seed)
    texts = [decode_reply(tokenizer, ids).strip() for ids in answers]
    rng = random.Random(f"{split} {seed}")
    choices: list[AnnotatedPair] = []
    for index, task in enumerate(tasks):
        said = texts[index * config.num_generations : (index + 1) * config.num_generations]
        choices += _choices(world, task, said, config, rng)
    if not choices:
        raise LabError(
            f"The annotator {config.annotator} gives equal scores to all answers to {num_prompts} prompts, so there is "
            f"nothing to learn from. Fine-tune for longer, or raise annotation.prompts or annotation.temperature."
        )
    return choices


def _sample_answers(
    model: Transformer, tokenizer: Tokenizer, tasks: Sequence[Task], config: AnnotationConfig, seed: int
) -> list[list[int]]:
    """`config.num_generations` answers to each task, one after another, as token ids.

    Many answers on CUDA are written by one compiled step, which writes the same from the same draws: launching an eager
    step's kernels takes 22 ms for 256 rows of the `full` preset's model on an H200, a CUDA graph's less than 1 ms.
    """
    prompts = [encode_prompt(tokenizer, task.messages) for task in tasks]
    samples, new, batch = config.num_generations, config.max_new_tokens, 256
    draws = torch.rand(len(prompts), samples, new, generator=torch.Generator().manual_seed(seed))
    filters, stops = [Temperature(config.temperature)], tokenizer.stop_ids
    on_cuda = model.embedding.weight.device.type == "cuda"
    if on_cuda and len(prompts) * samples >= COMPILED_FROM and supports_compiled_generation(model):
        writer = CompiledGenerator(model, batch_size=batch, max_length=max(map(len, prompts)) + new, filters=filters)
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        return writer.generate(
            repeated, max_new_tokens=new, stop_ids=stops, uniform_draws=draws.flatten(0, 1).unsqueeze(1)
        )
    return generate(
        model,
        prompts,
        filters=filters,
        max_new_tokens=new,
        stop_ids=stops,
        uniform_draws=draws,
        num_return_sequences=samples,
        batch_size=batch,
    )


def preference_task(world: World, split: str, seed: int, index: int) -> Task:
    """A task of any kind but stories to be written, whose length would drown all else."""
    kinds = [kind for kind in world.task_kinds if kind != "write"]
    return world.task(split, seed, index, kinds[index % len(kinds)])


def _choices(
    world: World, task: Task, said: Sequence[str], config: AnnotationConfig, rng: random.Random
) -> Iterator[AnnotatedPair]:
    """The different, non-empty answers, two by two."""
    profile = world.profiles[config.annotator]
    different = [text for text in dict.fromkeys(said) if text]
    rng.shuffle(different)
    for first, second in zip(different[::2], different[1::2], strict=False):
        golds = [gold_score(world, task, text, profile).total for text in (first, second)]
        if golds[0] == golds[1] and not config.ties:
            continue
        swap = not profile.chooses_first(golds[0], golds[1], rng)
        chosen, rejected = (second, first) if swap else (first, second)
        yield AnnotatedPair(PreferencePair(task.messages, chosen, rejected), golds[swap], golds[not swap])


def write_annotated_pairs(path: str | Path, pairs: Sequence[AnnotatedPair]) -> None:
    """Choices as one JSON object a line, for `datasets` and TRL too; whole or not at all."""
    golds = ({"chosen_gold": choice.chosen_gold, "rejected_gold": choice.rejected_gold} for choice in pairs)
    write_jsonl(Path(path), (pair_to_row(one.pair) | gold for one, gold in zip(pairs, golds, strict=True)))


def read_annotated_pairs(path: str | Path) -> list[AnnotatedPair]:
    """What `write_annotated_pairs` wrote. Raises LabError when the file is not there or is none of its kind."""
    path, choices = Path(path), []
    if not path.is_file():
        raise LabError(f"{path} is not there, so there are no choices of the world's annotators to read.")
    try:
        for row in read_jsonl(path, strict=True):
            prompt = tuple(Message(**turn) for turn in row["prompt"])
            pair = PreferencePair(prompt, row["chosen"][0]["content"], row["rejected"][0]["content"])
            choices.append(AnnotatedPair(pair, row["chosen_gold"], row["rejected_gold"]))
    except (KeyError, TypeError, IndexError) as error:
        raise LabError(f"{path} cannot be read as choices of the world's annotators: {error}") from error
    return choices
