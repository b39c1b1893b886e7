"""A strategy as a line of text, from which the same text comes again.

greedy
temperature=0.8 top-k=40 top-p=0.9                   # sampling; the filters work in the order in which they stand
beam beams=4 length-penalty=0.8 no-repeat=3
contrastive k=5 alpha=0.6
speculative ahead=4 temperature=0.8                  # with a smaller draft model
best n=8 temperature=1                               # the one of eight that a judge likes most
temperature=1 ban=dog,#17                            # words that are one token, and tokens by their number
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from labkit.decoding.beam import beam_steps
from labkit.decoding.best import Judge, best_of_n
from labkit.decoding.contrastive import contrastive_steps
from labkit.decoding.filters import (
    Allowed,
    Banned,
    Epsilon,
    Filter,
    FrequencyPenalty,
    MinP,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
)
from labkit.decoding.generate import generate
from labkit.decoding.prompts import check_generation_memory, check_prompt, run_encoder
from labkit.decoding.speculative import speculative_steps
from labkit.decoding.stops import StopStrings
from labkit.decoding.stream import trace_generation
from labkit.errors import LabError
from labkit.model.transformer import Transformer

if TYPE_CHECKING:
    from labkit.text.tokenizer import Tokenizer

FILTERS: dict[str, Callable[[Any], Filter]] = {
    one.name: one
    for one in (
        Temperature,
        TopK,
        TopP,
        MinP,
        Typical,
        Epsilon,
        RepetitionPenalty,
        PresencePenalty,
        FrequencyPenalty,
        NoRepeatNgram,
    )
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sample": {},
    "greedy": {},
    "beam": {"beams": 4, "length-penalty": 1.0, "early-stopping": False, "groups": 1, "diversity": 0.0},
    "contrastive": {"k": 5, "alpha": 0.6},
    "speculative": {"ahead": 4},
    "best": {"n": 8},
}
"""The options of each kind, with their defaults."""
OLDER_EARLY_STOPPING = {"settled": "false", "full": "true", "never": "never"}
"""The values of early-stopping when it was called ending."""
EARLY_STOPPING: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
INTEGER_OPTIONS = ("top-k", "no-repeat", "beams", "groups", "k", "ahead", "n")
TOKEN_FILTERS: dict[str, Callable[[tuple[int, ...]], Filter]] = {one.name: one for one in (Banned, Allowed)}
"""Filters whose value is words, with commas between them."""


@dataclass(frozen=True)
class DecodingResources:
    """What some strategies need beside the model. tokenizer: to know banned or allowed words, and stop texts. stop: the
    texts at which writing ends. draft: the smaller model of "speculative". judge: who chooses for "best".
    """

    tokenizer: Tokenizer | None = None
    stop: Sequence[str] = ()
    draft: Transformer | None = None
    judge: Judge | None = None

    def stop_strings(self) -> StopStrings | None:
        if not self.stop:
            return None
        if self.tokenizer is None:
            raise LabError("Stop texts need a tokenizer.")
        return StopStrings(self.tokenizer.decode, self.stop)


NO_RESOURCES = DecodingResources()


@dataclass(frozen=True)
class Strategy:
    """kind: of OPTIONS. filters: (name, value) of FILTERS and TOKEN_FILTERS, in their order. options: (name, value) of
    its kind's.
    """

    kind: str
    filters: tuple[tuple[str, float | str], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether chance has a part in it, so that another seed writes another text."""
        return self.kind in ("sample", "speculative", "best") and ("temperature", 0) not in self.filters

    def __str__(self) -> str:
        """The line that `parse_strategy` reads it from."""
        words = [f"{name}={format_option_value(value)}" for name, value in (*self.options, *self.filters)]
        return " ".join([self.kind, *words] if self.kind != "sample" or not words else words)

    def option(self, name: str) -> Any:
        """One of its kind's options."""
        return (OPTIONS[self.kind] | dict(self.options))[name]

    def logits_filters(self, tokenizer: Tokenizer | None = None) -> list[Filter]:
        """Its filters, in their order. Raises LabError for a value that makes no sense."""
        chosen = [self._filter(name, value, tokenizer) for name, value in self.filters]
        return [*chosen, Temperature(0)] if self.kind == "greedy" else chosen

    def _filter(self, name: str, value: Any, tokenizer: Tokenizer | None) -> Filter:
        return (
            TOKEN_FILTERS[name](_tokens_of(name, value, tokenizer)) if name in TOKEN_FILTERS else FILTERS[name](value)
        )

    def generate(
        self,
        model: Transformer,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        seeds: Sequence[int] = (0,),
        encoder_prompt: Sequence[int] | None = None,
        resources: DecodingResources = NO_RESOURCES,
    ) -> list[list[int]]:
        """A text for each seed; where chance has no part, one text for all. The same seed gives every strategy the same
        draws (speculative takes as many as it needs). encoder_prompt: what an encoder reads. Raises LabError for a
        prompt or a setting that the strategy cannot work with, and for no seed.
        """
        _check_seeds(seeds)
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop_ids": stop_ids, "resources": resources}
        if self.kind in ("sample", "greedy"):
            encoder_prompts = None if encoder_prompt is None else [encoder_prompt]
            return self.generate_batch(model, [prompt], seeds=[seeds], encoder_prompts=encoder_prompts, **options)[0]
        if self.is_random:
            return [
                list(self.stream_partial_outputs(model, prompt, seed=seed, encoder_prompt=encoder_prompt, **options))[
                    -1
                ]
                for seed in seeds
            ]
        return [list(self.stream_partial_outputs(model, prompt, encoder_prompt=encoder_prompt, **options))[-1]] * len(
            seeds
        )

    def generate_batch(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        seeds: Sequence[Sequence[int]],
        encoder_prompts: Sequence[Sequence[int]] | None = None,
        resources: DecodingResources = NO_RESOURCES,
    ) -> list[list[list[int]]]:
        """`generate` for many prompts, each with as many seeds: texts[prompt][seed]. Samples and greedy texts are
        written together.
        """
        for own in seeds:
            _check_seeds(own)
        if not prompts:
            return []
        common: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop_ids": stop_ids}
        if self.kind not in ("sample", "greedy"):
            each: Sequence[Sequence[int] | None] = encoder_prompts or [None] * len(prompts)
            return [
                self.generate(model, prompt, seeds=own, encoder_prompt=encoder_prompt, resources=resources, **common)
                for prompt, own, encoder_prompt in zip(prompts, seeds, each, strict=True)
            ]
        count = len(seeds[0])
        for prompt in prompts:
            check_prompt(model, prompt)
        check_generation_memory(model, count, max(map(len, prompts)), max_new_tokens)
        samples = count if self.is_random else 1
        chosen = [torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(s)) for own in seeds for s in own]
        draws = torch.stack(chosen).unflatten(0, (len(prompts), count))[:, :samples]  # [P, S, N]
        filters, stop = self.logits_filters(resources.tokenizer), resources.stop_strings()
        texts = generate(
            model,
            prompts,
            filters=filters,
            stop=stop,
            uniform_draws=draws,
            num_return_sequences=samples,
            encoder_prompts=encoder_prompts,
            **common,
        )
        rows = [texts[i * samples : (i + 1) * samples] for i in range(len(prompts))]
        return rows if self.is_random else [row * count for row in rows]

    def stream_partial_outputs(
        self,
        model: Transformer,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        seed: int = 0,
        encoder_prompt: Sequence[int] | None = None,
        resources: DecodingResources = NO_RESOURCES,
    ) -> Iterator[list[int]]:
        """The new tokens so far, again and again as they change; the last are the text. Raises LabError as
        `generate`.
        """
        _check_seeds([seed])
        encoder_prompts = None if encoder_prompt is None else [encoder_prompt]
        common: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "stop_ids": stop_ids,
            "stop": resources.stop_strings(),
        }
        common |= {} if self.kind == "contrastive" else {"filters": self.logits_filters(resources.tokenizer)}
        if self.kind in ("beam", "contrastive"):
            yield from self._searched(model, prompt, common | {"memory": run_encoder(model, encoder_prompts)})
            return
        common["generator"] = torch.Generator().manual_seed(seed)
        if self.kind == "speculative":
            if encoder_prompts is not None:
                raise LabError("speculative: models with an encoder are not supported.")
            if resources.draft is None:
                raise LabError("speculative: a smaller draft model is needed (on the command line, --draft RUN).")
            for accepted in speculative_steps(model, resources.draft, prompt, ahead=self.option("ahead"), **common):
                yield accepted.tokens
        elif self.kind == "best":
            if resources.judge is None:
                raise LabError(
                    "best: something must score the answers: a reward model, or for a TinyWorld task the oracle."
                )
            best = best_of_n(
                model, prompt, resources.judge, n=self.option("n"), encoder_prompt=encoder_prompt, **common
            )
            yield best.answers[best.best_index]
        else:
            yield from self._drawn(model, prompt, common | {"memory": run_encoder(model, encoder_prompts)})

    def _searched(self, model: Transformer, prompt: Sequence[int], common: dict[str, Any]) -> Iterator[list[int]]:
        told = {name.replace("-", "_"): self.option(name) for name in OPTIONS[self.kind]}
        if self.kind == "contrastive":
            yield from contrastive_steps(model, prompt, **told, **common)
        else:
            for beams in beam_steps(model, prompt, **told, **common):
                yield beams.hypotheses[0].tokens

    def _drawn(self, model: Transformer, prompt: Sequence[int], common: dict[str, Any]) -> Iterator[list[int]]:
        written: list[int] = []
        yield written
        for step in trace_generation(model, prompt, top_n=0, **common):
            written = written if step.token in common["stop_ids"] else [*written, step.token]
            yield common["stop"].cut_at_stop(written) if step.ended and common["stop"] else written


def format_option_value(value: Any) -> str:
    """A value as it stands in a line: format_option_value(0.80) -> "0.8"."""
    return (
        str(value).lower() if isinstance(value, bool) else f"{value:.15g}" if isinstance(value, float) else str(value)
    )


def _today(word: str) -> str:
    name, _, value = word.partition("=")
    return (
        f"early-stopping={OLDER_EARLY_STOPPING[value]}" if name == "ending" and value in OLDER_EARLY_STOPPING else word
    )


def parse_strategy(line: str) -> Strategy:
    """ "beam beams=4" -> a Strategy. Raises LabError for a kind, a name or a value that there is not."""
    words = [_today(word) for word in line.split()]
    kind = words.pop(0) if words and "=" not in words[0] else "sample"
    if kind in (*FILTERS, *TOKEN_FILTERS):
        raise LabError(f"{kind} needs a value, written {kind}=VALUE.")
    if kind not in OPTIONS:
        raise LabError(f"There is no strategy {kind!r}.{_nearest(kind, OPTIONS)} There are {', '.join(OPTIONS)}.")
    filters: list[tuple[str, float | str]] = []
    options: list[tuple[str, Any]] = []
    known = [*OPTIONS[kind], *([] if kind == "contrastive" else [*FILTERS, *TOKEN_FILTERS])]
    for word in words:
        name, equals, value = word.partition("=")
        if kind == "contrastive" and name in {**FILTERS, **TOKEN_FILTERS}:
            raise LabError(
                "contrastive: it takes no filters, because it chooses among the k most probable tokens itself."
            )
        if name not in known:
            if not known:
                raise LabError(f"{kind}: unknown setting {name!r}. It has no settings.")
            raise LabError(
                f"{kind}: unknown setting {name!r}.{_nearest(name, known)} The settings are {', '.join(known)}."
            )
        if not equals:
            raise LabError(f"{kind}: {name} needs a value, written {name}=VALUE.")
        if name in dict(options):
            raise LabError(f"{kind}: {name} is given twice.")
        (options if name in OPTIONS[kind] else filters).append((name, _value(kind, name, value)))
    for name, told in filters:
        if name not in TOKEN_FILTERS:
            _checked_filter(kind, name, told)
    return Strategy(kind, tuple(filters), tuple(options))


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {found[0]}?" if found else ""


def _checked_filter(kind: str, name: str, value: float | str) -> None:
    """Raises LabError for a value that makes no sense, with the words of the line."""
    try:
        FILTERS[name](value)
    except LabError as error:
        raise LabError(f"{kind}: {name} must be {str(error).partition(' must be ')[2]}") from None


def _check_seeds(seeds: Sequence[int]) -> None:
    if not seeds:
        raise LabError("At least one seed is needed, for one text.")
    outside = [seed for seed in seeds if not 0 <= seed < 2**63]
    if outside:
        raise LabError(f"A seed must be a whole number from 0 to 2^63 - 1, not {outside[0]}.")


def _value(kind: str, name: str, text: str) -> Any:
    if name in TOKEN_FILTERS:
        if not all(text.split(",")):
            raise LabError(f"{kind}: {name} must be words separated by commas, not {text!r}.")
        return text
    if name == "early-stopping":
        if text not in EARLY_STOPPING:
            raise LabError(f"{kind}: early-stopping can be true, false or never, not {text!r}.")
        return EARLY_STOPPING[text]
    try:
        number = int(text) if name in INTEGER_OPTIONS else float(text)
        if name in FILTERS or math.isfinite(number):  # a filter says itself which numbers it takes
            return number
        raise ValueError
    except (ValueError, OverflowError):
        kind_of = "a whole number" if name in INTEGER_OPTIONS else "a number"
        raise LabError(f"{kind}: {name} must be {kind_of}, not {text!r}.") from None


def _tokens_of(name: str, value: str, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """The tokens of "dog,#17": each word's with a space before it and without, and those that are named by number."""
    found: list[int] = []
    for word in value.split(","):
        if word.startswith("#") and word[1:].isdecimal():
            found.append(int(word[1:]))
            continue
        if tokenizer is None:
            raise LabError(f"{name}: {word!r} is a word, which needs a tokenizer; give its token id, as #17.")
        spelt = [tokenizer.encode(text) for text in (word, f" {word}")]
        single = [ids[0] for ids in spelt if len(ids) == 1]
        if not single:
            pieces = " ".join(tokenizer.token_text(token) for token in spelt[0])
            raise LabError(
                f"{name}: {word!r} is not a single token but {len(spelt[0])} ({pieces}); give each token by itself."
            )
        found += single
    return tuple(found)
