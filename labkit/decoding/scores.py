"""What can be said of texts without asking anybody: how likely, how repetitive, how different from each other."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from labkit.model.transformer import Transformer

Tokens = Sequence[int]
SURE = 1.96
"""Standard errors to either side in which the truth lies in 95 % of cases."""


class ScoreEstimate(NamedTuple):
    """value: a mean, or a measure of texts together. half_width_95: half the width of its 95 % interval, 0 where there
    are too few.
    """

    value: float
    half_width_95: float


def mean_score(values: Sequence[float]) -> ScoreEstimate:
    """The mean of independent values, those that are no number left out; its interval is the normal distribution's."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return ScoreEstimate(math.nan, 0.0)
    error = statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else 0.0
    return ScoreEstimate(statistics.fmean(known), SURE * error)


def jackknife_estimate(statistic: Callable[[Sequence[Tokens]], float], texts: Sequence[Tokens]) -> ScoreEstimate:
    """A measure of texts together; its interval from what it would be without each of them (Efron and Stein, The
    Jackknife Estimate of Variance, 1981).
    """
    n = len(texts)
    without = [statistic([*texts[:i], *texts[i + 1 :]]) for i in range(n)] if n > 2 else []
    middle = statistics.fmean(without) if without else 0.0
    variance = (n - 1) / n * sum((value - middle) ** 2 for value in without) if without else 0.0
    return ScoreEstimate(statistic(texts), SURE * variance**0.5)


def mean_logprob(model: Transformer, prompt: Tokens, continuation: Tokens) -> float:
    """Mean log-probability of the written tokens after the prompt, in nats per token; the one that ended them is not
    counted. NaN for no token.
    """
    return mean_logprobs(model, prompt, [continuation])[0]


@torch.no_grad()
def mean_logprobs(model: Transformer, prompt: Tokens, texts: Sequence[Tokens]) -> list[float]:
    """`mean_logprob` of several texts after one prompt, read together."""
    longest = max(map(len, texts), default=0)
    if not longest:
        return [math.nan] * len(texts)
    rows = [[*prompt, *text, *[0] * (longest - len(text))] for text in texts]  # what comes later, none looks at
    ids = torch.tensor(rows, device=model.embedding.weight.device)
    logprobs = model(ids[:, :-1])[:, len(prompt) - 1 :].float().log_softmax(-1)
    own = logprobs.gather(-1, ids[:, len(prompt) :, None]).squeeze(-1)  # [B, N]
    return [float(row[: len(text)].mean()) if text else math.nan for row, text in zip(own, texts, strict=True)]


def repeated_ngram_share(tokens: Tokens, n: int = 4) -> float:
    """Share of a text's runs of n tokens that stood in it before: seq-rep-n of Neural Text Generation with Unlikelihood
    Training, https://arxiv.org/abs/1908.04319. 0 for a shorter text.
    """
    runs = _runs(tokens, n)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct_ngram_share(texts: Sequence[Tokens], n: int = 2) -> float:
    """Different runs of n tokens of all texts together, for each run: A Diversity-Promoting Objective Function for
    Neural Conversation Models, https://arxiv.org/abs/1510.03055. 0 for no run.
    """
    runs = [run for text in texts for run in _runs(text, n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def self_bleu(texts: Sequence[Tokens], n: int = 4) -> float:
    """How similar each text is to the others, 0 to 1: mean BLEU of each against all others (Texygen,
    https://arxiv.org/abs/1802.01886), of runs of up to n tokens; 1 when all are alike. NaN for fewer than two texts.

    BLEU (https://aclanthology.org/P02-1040): the geometric mean of the shares of runs that the others have too, each
    counted as often as one of them has it at most, times exp(1 - r / c) where the text (c) is shorter than the nearest
    other in length (r). A length of which no run is found counts as half a run.
    """
    if len(texts) < 2:
        return math.nan
    return sum(_bleu(text, [*texts[:i], *texts[i + 1 :]], n) for i, text in enumerate(texts)) / len(texts)


def _bleu(text: Tokens, others: Sequence[Tokens], n: int) -> float:
    if not text:
        return 0.0
    logs = []
    for size in range(1, min(n, len(text)) + 1):
        runs = Counter(_runs(text, size))
        most: Counter[tuple[int, ...]] = Counter()
        for other in others:
            most |= Counter(_runs(other, size))
        found = sum((runs & most).values())
        logs.append(math.log(max(found, 0.5) / sum(runs.values())))
    nearest = min((abs(len(other) - len(text)), len(other)) for other in others)[1]
    return min(1.0, math.exp(1 - nearest / len(text))) * math.exp(sum(logs) / len(logs))


def _runs(tokens: Tokens, n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
