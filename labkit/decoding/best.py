"""Best of n: several answers are drawn, and a judge chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from labkit.decoding.filters import Filter
from labkit.decoding.generate import generate
from labkit.decoding.prompts import check_generation_memory, check_prompt
from labkit.decoding.stops import StopStrings
from labkit.errors import LabError
from labkit.model.transformer import Transformer

Judge = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Sequence[float]]
"""(prompts, answers) -> a number for each answer, which answers the prompt in its place; all of them token ids."""


def judge_scores(judge: Judge, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
    """What the judge gives each answer. Raises LabError where that is not one finite number for each."""
    scores = [float(score) for score in judge(prompts, answers)]
    if len(scores) != len(answers) or not all(math.isfinite(score) for score in scores):
        raise LabError(f"The judge must return one finite score for each of {len(answers)} answers; it gave {scores}.")
    return scores


class BestOfN(NamedTuple):
    """Answers in the order in which they were drawn, what the judge gave each, and the index of the best one."""

    answers: list[list[int]]
    scores: list[float]
    best_index: int


def best_of_n(
    model: Transformer,
    prompt: Sequence[int],
    judge: Judge,
    *,
    n: int,
    filters: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stop: StopStrings | None = None,
    generator: torch.Generator | None = None,
    encoder_prompt: Sequence[int] | None = None,
) -> BestOfN:
    """Draw `n` answers and ask the judge: WebGPT, https://arxiv.org/abs/2112.09332, 3.2. The first is what `generate`
    draws from the same generator by itself. Raises LabError for n below 1, for a judge that does not give a number to
    each answer, and as `generate`.
    """
    common: dict[str, Any] = {"filters": filters, "max_new_tokens": max_new_tokens, "stop_ids": stop_ids, "stop": stop}
    *_, best = best_of_n_steps(
        model, prompt, judge, n=n, batch_size=n, generator=generator, encoder_prompt=encoder_prompt, **common
    )
    assert best is not None
    return best


def best_of_n_steps(
    model: Transformer,
    prompt: Sequence[int],
    judge: Judge,
    *,
    n: int,
    batch_size: int,
    filters: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stop: StopStrings | None = None,
    generator: torch.Generator | None = None,
    encoder_prompt: Sequence[int] | None = None,
) -> Iterator[BestOfN | None]:
    """`best_of_n` for who may want to stop: after every `batch_size` answers None, and at last the best."""
    if n < 1:
        raise LabError(f"Best of n needs an n of at least 1, not {n}.")
    check_prompt(model, prompt)
    check_generation_memory(model, n, len(prompt), max_new_tokens)
    draws = torch.rand(1, n, max_new_tokens, generator=generator)
    common: dict[str, Any] = {
        "filters": filters,
        "stop_ids": stop_ids,
        "stop": stop,
        "encoder_prompts": None if encoder_prompt is None else [encoder_prompt],
    }
    answers: list[list[int]] = []
    for some in draws.split(batch_size, 1):
        answers += generate(
            model,
            [prompt],
            uniform_draws=some,
            num_return_sequences=some.shape[1],
            max_new_tokens=max_new_tokens,
            **common,
        )
        yield None
    scores = judge_scores(judge, [prompt] * n, answers)
    yield BestOfN(answers, scores, max(range(n), key=lambda i: scores[i]))
