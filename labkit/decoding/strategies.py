"""A strategy as a line of text, from which the same text comes again.

greedy
temperature=0.8 top-k=40 top-p=0.9                   # sampling; the filters work in the order in which they stand
beam beams=4 length-penalty=0.8 no-repeat=3
contrastive k=5 alpha=0.6
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from labkit.decoding.beam import beam_search
from labkit.decoding.contrastive import contrastive_search
from labkit.decoding.filters import (
    Epsilon,
    Filter,
    FrequencyPenalty,
    MinP,
    NoRepeat,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
)
from labkit.decoding.generate import generate
from labkit.errors import LabError
from labkit.model.transformer import Transformer

FILTERS: dict[str, Callable[[Any], Filter]] = {
    "temperature": Temperature,
    "top-k": TopK,
    "top-p": TopP,
    "min-p": MinP,
    "typical": Typical,
    "epsilon": Epsilon,
    "repetition": RepetitionPenalty,
    "presence": PresencePenalty,
    "frequency": FrequencyPenalty,
    "no-repeat": NoRepeat,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sample": {},
    "greedy": {},
    "beam": {"beams": 4, "length-penalty": 1.0, "ending": "settled", "groups": 1, "diversity": 0.0},
    "contrastive": {"k": 5, "alpha": 0.6},
}
"""What each kind can be told, and what it takes when it is not."""
WHOLE = ("top-k", "no-repeat", "beams", "groups", "k")


@dataclass(frozen=True)
class Strategy:
    """kind: of OPTIONS. filters: (name, value) of FILTERS, in their order. options: (name, value) of its kind's."""

    kind: str
    filters: tuple[tuple[str, float], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def draws(self) -> bool:
        """Whether chance has a part in it, so that another seed writes another text."""
        return self.kind == "sample" and dict(self.filters).get("temperature") != 0

    def __str__(self) -> str:
        """The line that `parse` reads it from."""
        words = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self._all()]
        return " ".join([self.kind, *words] if self.kind != "sample" or not words else words)

    def _all(self) -> tuple[tuple[str, Any], ...]:
        return (*self.options, *self.filters)

    def steps(self) -> list[Filter]:
        """Its filters, in their order. Raises LabError for a value that makes no sense."""
        chosen = [FILTERS[name](value) for name, value in self.filters]
        return [*chosen, Temperature(0)] if self.kind == "greedy" else chosen

    def write(
        self,
        model: Transformer,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        seeds: Sequence[int] = (0,),
    ) -> list[list[int]]:
        """A text for each seed; where chance has no part, one text for all. The same seed gives every strategy the same
        draws. Raises LabError for a prompt or a setting that the strategy cannot work with.
        """
        common: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop_ids": stop_ids}
        told = OPTIONS[self.kind] | dict(self.options)
        if self.kind == "contrastive":
            text = contrastive_search(model, prompt, k=told["k"], alpha=told["alpha"], **common)
            return [text] * len(seeds)
        if self.kind == "beam":
            settings = {name.replace("-", "_"): value for name, value in told.items()}
            found = beam_search(model, prompt, steps=self.steps(), **settings, **common).found
            return [found[0].tokens] * len(seeds)
        if not self.draws:
            return generate(model, [prompt], steps=self.steps(), **common) * len(seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return [generate(model, [prompt], steps=self.steps(), generator=one, **common)[0] for one in generators]


def parse(line: str) -> Strategy:
    """ "beam beams=4" -> a Strategy. Raises LabError for a kind, a name or a value that there is not."""
    words = line.split()
    kind = words.pop(0) if words and "=" not in words[0] else "sample"
    if kind not in OPTIONS:
        raise LabError(f"There is no strategy {kind!r}; there are {', '.join(OPTIONS)}.")
    filters: list[tuple[str, float]] = []
    options: list[tuple[str, Any]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in {**FILTERS, **OPTIONS[kind]}:
            known = ", ".join([*OPTIONS[kind], *([] if kind == "contrastive" else FILTERS)])
            raise LabError(f"{kind}: {word!r} is nothing that it can be told; write NAME=VALUE, of {known}.")
        if name in FILTERS and kind == "contrastive":
            raise LabError("contrastive: it chooses among the likeliest tokens by itself, and takes no filters.")
        (filters if name in FILTERS else options).append((name, _value(kind, name, value)))
    strategy = Strategy(kind, tuple(filters), tuple(options))
    strategy.steps()
    return strategy


def _value(kind: str, name: str, text: str) -> Any:
    if name == "ending":
        if text not in ("settled", "full", "never"):
            raise LabError(f"{kind}: ending can be settled, full or never, not {text!r}.")
        return text
    try:
        return int(text) if name in WHOLE else float(text)
    except ValueError:
        kind_of = "a whole number" if name in WHOLE else "a number"
        raise LabError(f"{kind}: {name} is {kind_of}, not {text!r}.") from None
