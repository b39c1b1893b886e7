"""Generate from one prompt, token by token, as a person reads it; and what was weighed at each step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.decoding.filters import Filter, History, check_tokens_remain, logits_before_and_after_each_filter
from labkit.decoding.generate import sample_by_inverse_cdf
from labkit.decoding.prompts import check_generation_memory, check_prompt
from labkit.decoding.stops import StopStrings
from labkit.model.context import EncoderOutput
from labkit.model.transformer import Transformer


class CandidateToken(NamedTuple):
    """A token that could have come: how probable the model holds it, and how probable it is after each filter."""

    token: int
    probability: float
    filtered_probabilities: tuple[float, ...]

    @property
    def final_probability(self) -> float:
        """What is left of it after all filters; 0 where one of them removed it."""
        return self.filtered_probabilities[-1] if self.filtered_probabilities else self.probability


class FilterEffect(NamedTuple):
    """What a filter did. removed_mass: the share of the probability that it removed, of what reached it;
    total_variation: how much probability changed hands in all; remaining_tokens: how many can still come.
    """

    removed_mass: float
    total_variation: float
    remaining_tokens: int


class FilteredEntropy(NamedTuple):
    """Entropy of the next token's distribution in nats: the model's own, and what the filters left of it."""

    before_filters: float
    after_filters: float


class TracedStep(NamedTuple):
    """One step of a Trace: the token, the number in [0, 1) by which it was drawn (None where it was not), and the
    likeliest `candidates`, this token always among them. ended: the token ends the text, and is no part of it.
    filter_effects: of each filter.
    """

    token: int
    uniform_draw: float | None
    candidates: list[CandidateToken]
    ended: bool
    filter_effects: list[FilterEffect]
    entropy: FilteredEntropy


def stream_tokens(
    model: Transformer,
    prompt: Sequence[int],
    *,
    filters: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """The tokens that ``generate`` returns for this one prompt, each as soon as it is drawn.

    Takes the same arguments, and from the same generator the same randomness, so the tokens are the same.
    Raises LabError for a prompt that is empty or leaves no room in the context.
    """
    for step in trace_generation(
        model,
        prompt,
        filters=filters,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        generator=generator,
        top_n=0,
    ):
        if not step.ended:
            yield step.token


@torch.no_grad()
def trace_generation(
    model: Transformer,
    prompt: Sequence[int],
    *,
    filters: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stop: StopStrings | None = None,
    generator: torch.Generator | None = None,
    forced_prefix: Sequence[int] = (),
    top_n: int = 8,
    memory: EncoderOutput | None = None,
) -> Iterator[TracedStep]:
    """`stream_tokens`, with the `top_n` likeliest candidates of each step; the last step may be the one that ends the
    text.

    Two traces from generators of one seed see the same number at the same step: where they part, the filters differ.
    forced_prefix: tokens that are written whatever is drawn; after them it goes on with the numbers of their later
    places. Nothing is weighed for top_n=0.
    """
    check_prompt(model, prompt)
    check_generation_memory(model, 1, len(prompt), max_new_tokens)
    device = model.embedding.weight.device
    draws = torch.rand(1, max_new_tokens, generator=generator).to(device)  # [1, N]
    room = min(max_new_tokens, model.config.context - len(prompt))
    tokens = torch.tensor([list(prompt)], device=device)  # [1, T]
    state, written = model.new_state(1, len(prompt) + room), tokens
    model.eval()
    for place in range(room):
        raw = model.logits(model.hidden_states(tokens, state=state, memory=memory)[:, -1:]).squeeze(1).float()  # [1, V]
        seen = logits_before_and_after_each_filter(filters, raw, History(written, len(prompt)))
        check_tokens_remain(filters, seen)
        drawn = sample_by_inverse_cdf(seen[-1], draws[:, place])
        token = drawn if place >= len(forced_prefix) else torch.tensor([forced_prefix[place]], device=device)
        tokens = token.unsqueeze(-1)
        written = torch.cat((written, tokens), 1)
        ended = int(token) in stop_ids or (stop is not None and stop.ends_with_stop(written[0, len(prompt) :].tolist()))
        chance = float(draws[0, place]) if place >= len(forced_prefix) else None
        yield make_traced_step(seen, int(token), chance, ended, top_n)
        if ended:
            return


@torch.no_grad()
def trace_given_tokens(
    model: Transformer,
    prompt: Sequence[int],
    tokens: Sequence[int],
    *,
    filters: Sequence[Filter] = (),
    top_n: int = 8,
    memory: EncoderOutput | None = None,
) -> list[TracedStep]:
    """The Trace of a text that came some other way, as beam search: what would have been weighed at each token."""
    if not tokens:
        return []
    ids = torch.tensor([[*prompt, *tokens]], device=model.embedding.weight.device)
    model.eval()
    logits = model(ids[:, :-1], memory=memory)[:, len(prompt) - 1 :].float()  # [1, N, V]
    traced = []
    for place, token in enumerate(tokens):
        end = len(prompt) + place
        seen = logits_before_and_after_each_filter(filters, logits[:, place], History(ids[:, :end], len(prompt)))
        traced.append(make_traced_step(seen, token, None, False, top_n))
    return traced


def make_traced_step(
    logits_by_filter: Sequence[Tensor], token: int, uniform_draw: float | None, ended: bool, top_n: int
) -> TracedStep:
    """A Step of `logits_before_and_after_each_filter` logits; without leading candidates nothing is worked out."""
    if not top_n:
        return TracedStep(token, uniform_draw, [], ended, [], FilteredEntropy(0.0, 0.0))
    shares = [logits[0].softmax(-1) for logits in logits_by_filter]
    chosen = shares[0].topk(min(top_n, len(shares[0]))).indices.tolist()
    chosen += [] if token in chosen else [token]
    table = torch.stack(shares)[:, chosen].T.tolist()  # [candidate, filter]
    candidates = [CandidateToken(one, row[0], tuple(row[1:])) for one, row in zip(chosen, table, strict=True)]
    effects = [_effect(before, after) for before, after in zip(shares, shares[1:], strict=False)]
    entropy = FilteredEntropy(_entropy(shares[0]), _entropy(shares[-1]))
    return TracedStep(token, uniform_draw, candidates, ended, effects, entropy)


def _effect(before: Tensor, after: Tensor) -> FilterEffect:
    left = after > 0
    return FilterEffect(float(before[~left].sum()), float((after - before).abs().sum()) / 2, int(left.sum()))


def _entropy(shares: Tensor) -> float:
    return float(torch.special.entr(shares).sum())
