"""Decoding strategies scored over many seeds, on one prompt of the Decoding tab."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from labkit.decoding.limits import MAX_PAGE_COST
from labkit.decoding.scores import ScoreEstimate
from labkit.decoding.strategies import Strategy
from labkit.errors import LabError
from labkit.evaluation.strategies import EvalPrompt, score_texts
from labkit.ui.checks import checked_whole_number
from labkit.ui.decoding_settings import DecodingSettings
from labkit.ui.lab import Lab
from labkit.ui.writing import DecodingSession, annotator_of, decoding_session, parse_strategies, task_of, world_of

MAX_SCORING_COST = MAX_PAGE_COST._replace(
    processed_tokens=4 * MAX_PAGE_COST.processed_tokens, flops=4 * MAX_PAGE_COST.flops
)
"""What all strategies together may cost: more than in a comparison, as many texts are written at a time."""
SEEDS_AT_ONCE = 8
"""Seeds of one strategy that are written between two signs of progress."""


class ScoringProgress(NamedTuple):
    """How far the scores are: `done` of `total` texts, and the strategies that are finished, each with its scores."""

    done: int
    total: int
    finished_strategies: list[tuple[str, dict[str, ScoreEstimate]]]


def score_strategies(lab: Lab, settings: DecodingSettings, seeds: int) -> Iterator[ScoringProgress]:
    """The scores of each strategy over so many seeds, on this prompt, again after every few texts; branches are left
    out. Raises LabError for a number of seeds that is not from 1 to 256, and as `stream_comparison`.
    """
    seeds = checked_whole_number(seeds, "The number of samples", 1, 256)
    kept = tuple(column for column in settings.columns if not column.forced_prefix)
    at, world = decoding_session(lab, settings), world_of(lab, settings.run)
    strategies = parse_strategies(at, replace(settings, columns=kept or settings.columns), MAX_SCORING_COST, seeds)
    asked = EvalPrompt(settings.prompt, at.prompt, task_of(lab, settings))
    many = [seeds if strategy.is_random else 1 for strategy in strategies]
    found: list[tuple[str, dict[str, ScoreEstimate]]] = []
    options: dict[str, Any] = {"max_new_tokens": settings.tokens, "stop_ids": at.tokenizer.stop_ids}
    for number, strategy in enumerate(strategies):
        texts: list[list[int]] = []
        for start in range(0, many[number], SEEDS_AT_ONCE):
            yield ScoringProgress(sum(many[:number]) + len(texts), sum(many), found)
            own = range(start, min(start + SEEDS_AT_ONCE, many[number]))
            texts += _seeded(number + 1, at, strategy, own, options)
        by_name = score_texts(at.model, at.tokenizer, [asked], [texts], world, annotator_of(lab, settings.run))
        found = [*found, (str(strategy), by_name)]
    yield ScoringProgress(sum(many), sum(many), found)


def _seeded(
    number: int, at: DecodingSession, strategy: Strategy, seeds: range, options: dict[str, Any]
) -> list[list[int]]:
    try:
        return strategy.generate(at.model, at.prompt, seeds=seeds, resources=at.resources, **options)
    except LabError as error:
        raise LabError(f"Strategy {number}, {strategy}: {error}") from None
