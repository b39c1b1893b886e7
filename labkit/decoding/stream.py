"""Write on from one prompt, token by token, as a person reads it; and what was weighed at each step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.decoding.filters import Filter, History, apply
from labkit.decoding.generate import draw
from labkit.decoding.prompts import check_prompt
from labkit.model.transformer import Transformer


class Candidate(NamedTuple):
    """A token that could have come: how probable the model holds it, and what was left of that after the filters."""

    token: int
    probability: float
    kept: float


class Step(NamedTuple):
    """One step of a Trace: the token that was drawn, by which number in [0, 1), and the likeliest `candidates`, the
    drawn one always among them. ended: the token ends the text, and is no part of it.
    """

    token: int
    drawn: float
    candidates: list[Candidate]
    ended: bool


def stream(
    model: Transformer,
    prompt: Sequence[int],
    *,
    steps: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """The tokens that ``generate`` returns for this one prompt, each as soon as it is drawn.

    Takes the same arguments, and from the same generator the same randomness, so the tokens are the same.
    Raises LabError for a prompt that is empty or leaves no room in the context.
    """
    for step in trace(
        model,
        prompt,
        steps=steps,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        generator=generator,
        leading=0,
    ):
        if not step.ended:
            yield step.token


@torch.no_grad()
def trace(
    model: Transformer,
    prompt: Sequence[int],
    *,
    steps: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    leading: int = 8,
) -> Iterator[Step]:
    """`stream`, with the `leading` likeliest candidates of each step; the last step may be the one that ends the text.

    Two traces from generators of one seed see the same number at the same step: where they part, the filters differ.
    """
    check_prompt(model, prompt)
    device = model.embedding.weight.device
    draws = torch.rand(1, max_new_tokens, generator=generator).to(device)  # [1, N]
    room = min(max_new_tokens, model.config.context - len(prompt))
    tokens = torch.tensor([list(prompt)], device=device)  # [1, T]
    state, written = model.new_state(1, len(prompt) + room), tokens
    model.eval()
    for place in range(room):
        raw = model.logits(model.hidden(tokens, state=state)[:, -1:]).squeeze(1).float()  # [1, V]
        logits = apply(steps, raw, History(written, len(prompt)))
        token = draw(logits, draws[:, place])
        ended = int(token) in stop_ids
        yield Step(int(token), float(draws[0, place]), _candidates(raw[0], logits[0], int(token), leading), ended)
        if ended:
            return
        tokens = token.unsqueeze(-1)
        written = torch.cat((written, tokens), 1)


def _candidates(raw: Tensor, filtered: Tensor, drawn: int, leading: int) -> list[Candidate]:
    """The likeliest tokens by raw logits [V], and the drawn one where it is not among them."""
    if not leading:
        return []
    probabilities, kept = raw.softmax(-1), filtered.softmax(-1)
    chosen = probabilities.topk(min(leading, len(raw))).indices.tolist()
    chosen += [] if drawn in chosen else [drawn]
    return [Candidate(token, float(probabilities[token]), float(kept[token])) for token in chosen]
