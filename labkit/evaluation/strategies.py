"""The same prompts under several decoding strategies: the texts, where they part, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.errors import LabError

if TYPE_CHECKING:
    from labkit.decoding.scores import ScoreEstimate
    from labkit.decoding.strategies import DecodingResources, Strategy
    from labkit.model.transformer import Transformer
    from labkit.text.tokenizer import Tokenizer
    from labkit.world import Task, World


class EvalPrompt(NamedTuple):
    """A prompt: its text, its tokens, and the task that it is, if it is one of the world's."""

    text: str
    ids: list[int]
    task: Task | None = None


@dataclass(frozen=True)
class StrategyResult:
    """strategy: as a line. example_text: of the first prompt and seed. first_different_word_index: its first word that
    differs from the first strategy's text, None when none does. scores: by name, over the prompts, or over the seeds of
    one prompt.
    """

    strategy: str
    example_text: str
    first_different_word_index: int | None
    scores: dict[str, ScoreEstimate]


def compare_strategies(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[EvalPrompt],
    strategies: Sequence[Strategy],
    *,
    seeds: int,
    max_new_tokens: int,
    world: World | None = None,
    annotator: str | None = None,
    resources: DecodingResources | None = None,
) -> list[StrategyResult]:
    """All strategies on the same prompts; the same seed gives each of them the same draws. Each prompt has seeds of its
    own, so that what is drawn for one says nothing of another.

    world: whose grammar and truth the texts are held against. annotator: by whose preferences gold is scored, as
    the run's recipe names it; a world needs one. Raises LabError as `Strategy.generate`.
    """
    from labkit.decoding.strategies import DecodingResources

    resources = resources or DecodingResources(tokenizer)
    found: list[StrategyResult] = []
    first: list[str] = []
    for strategy in strategies:
        many = seeds if strategy.is_random else 1
        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "stop_ids": tokenizer.stop_ids,
            "resources": resources,
        }
        seeds_of = [range(i * many, (i + 1) * many) for i in range(len(prompts))]
        texts = strategy.generate_batch(model, [one.ids for one in prompts], seeds=seeds_of, **options)
        words = tokenizer.decode(texts[0][0]).split()
        first = first or words
        scores = score_texts(model, tokenizer, prompts, texts, world, annotator)
        found.append(
            StrategyResult(
                str(strategy), " ".join(words), first_difference_index([first, words], end_is_difference=True), scores
            )
        )
    return found


def score_texts(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[EvalPrompt],
    token_ids: Sequence[Sequence[Sequence[int]]],
    world: World | None,
    annotator: str | None = None,
) -> dict[str, ScoreEstimate]:
    """Scores of texts, as token_ids[prompt][seed]: the mean of each, and its 95 % interval."""
    from labkit.decoding.scores import (
        distinct_ngram_share,
        jackknife_estimate,
        mean_logprobs,
        mean_score,
        repeated_ngram_share,
        self_bleu,
    )

    def each(prompt: EvalPrompt, group: Sequence[Sequence[int]]) -> list[dict[str, float]]:
        likelihoods = mean_logprobs(model, prompt.ids, group)
        found = [
            {"nats per token": likelihood, "repetition": repeated_ngram_share(text), "tokens": float(len(text))}
            for text, likelihood in zip(group, likelihoods, strict=True)
        ]
        if world is None:
            return found
        truths = [_truth(world, prompt.task, tokenizer.decode(text).strip(), annotator) for text in group]
        return [one | truth for one, truth in zip(found, truths, strict=True)]

    rows = [each(prompt, group) for prompt, group in zip(prompts, token_ids, strict=True)]
    scores: dict[str, ScoreEstimate] = {}
    for name in rows[0][0]:
        by_prompt = [[row[name] for row in group] for group in rows]
        scores[name] = mean_score(by_prompt[0] if len(rows) == 1 else [mean_score(group).value for group in by_prompt])
    together: dict[str, Callable[[Any], float]] = {"distinct-2": distinct_ngram_share, "self-BLEU": self_bleu}
    for name, statistic in together.items():
        by_texts = [statistic(group) for group in token_ids]
        scores[name] = jackknife_estimate(statistic, token_ids[0]) if len(rows) == 1 else mean_score(by_texts)
    return scores


def _truth(world: World, task: Task | None, text: str, annotator: str | None) -> dict[str, float]:
    """What the world says of a text: how much is its English, and can happen; of a task's answer, what it is worth."""
    from labkit.world.oracle import gold_score

    check = world.check(text)
    as_story = check.parsed / check.sentences if check.sentences else 0.0
    if task is None:
        return {"grammatical": as_story, "consistent": check.possible / check.events if check.events else float("nan")}
    if annotator is None:
        raise LabError("The gold score needs an annotator: give annotator=, as in the recipe's annotation.annotator.")
    gold = gold_score(world, task, text, world.profile(annotator))
    truth = {"gold": gold.total, "right": gold.right, "supported": gold.supported, "consistent": gold.consistent}
    return truth | {"grammatical": as_story if task.kind == "write" else gold.fluent}


LEGEND = {
    "nats per token": "mean log-probability per token under the model, in nats; closer to 0 is likelier",
    "repetition": "share of the 4-grams of tokens that already occurred in the text; lower repeats less",
    "tokens": "length of the text in tokens",
    "gold": "true reward of the answer, computed by TinyWorld's oracle under the run's simulated annotator, 0 to 1; "
    "higher is better",
    "right": "share of right answers; for a story, whether it meets the whole request",
    "supported": "share of the answer's claims that the story or TinyWorld's facts support",
    "consistent": "share of the events in the text that are possible; 0 for an answer that contradicts itself",
    "grammatical": "share of the sentences that TinyWorld's grammar can parse",
    "distinct-2": "distinct bigrams divided by all bigrams; higher is more varied",
    "self-BLEU": "similarity of each text to the others (BLEU against them), 0 to 1; lower is more varied",
}
"""What each score means."""
HEADS = {"nats per token": "log-probability", "gold": "gold score", "consistent": "possible events"}
"""What a table calls a score, where that is not its name."""


def first_difference_index(sequences: Sequence[Sequence[Any]], end_is_difference: bool = False) -> int | None:
    """Where sequences first differ: first_difference_index([[5, 6], [5, 7]]) -> 1; None where they do not.

    end_is_difference: a sequence that has ended differs from one that goes on; else it may still grow.
    """
    for place, here in enumerate(zip_longest(*sequences)):
        known = set(here) if end_is_difference else set(here) - {None}
        if len(known) > 1:
            return place
    return None


def format_strategies_table(results: Sequence[StrategyResult]) -> str:
    """The texts, the first word that differs in brackets, and under them the scores."""
    lines = []
    for one in results:
        words = one.example_text.split(" ")
        if one.first_different_word_index is not None and one.first_different_word_index < len(words):
            words[one.first_different_word_index] = f"[{words[one.first_different_word_index]}]"
        lines += [one.strategy, f"    {' '.join(words)}"]
    names = list(results[0].scores)
    width = max(len(one.strategy) for one in results)
    lines += ["", f"{'':{width}}" + "".join(f"{HEADS.get(name, name):>18}" for name in names)]
    for one in results:
        lines.append(f"{one.strategy:{width}}" + "".join(f"{format_score(one.scores[name]):>18}" for name in names))
    lines += ["", *(f"{HEADS.get(name, name):17}{LEGEND[name]}" for name in names), f"{'±':17}95 % confidence interval"]
    return "\n".join(lines)


def format_score(score: ScoreEstimate) -> str:
    """0.812 ± 0.034; a dash where there is no number."""
    if score.value != score.value:
        return "-"
    return f"{score.value:.3f}" + (f" ± {score.half_width_95:.3f}" if score.half_width_95 else "")


FIRST = 24
"""Of each kind, the world's tasks that are known again by their words."""


def find_held_out_task(world: World, prompt_text: str) -> Task | None:
    """The held-out task of this very prompt, among the first of each kind; None where there is none."""
    return _first_tasks(world.size.name).get(prompt_text)


@cache
def _first_tasks(size: str) -> dict[str, Task]:
    """By their words, the tasks that `find_held_out_task` knows in the world of a size; of two with the same words the
    first.
    """
    from labkit.world import World

    world = World.load(size)
    found: dict[str, Task] = {}
    for kind in world.task_kinds:
        for index in range(FIRST):
            task = world.task("test", 0, index, kind)
            if len(task.messages) == 1:
                found.setdefault(task.messages[0].content, task)
    return found
