"""Contrastive search: a likely token that does not say again what was said."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.decoding.filters import check_tokens_remain
from labkit.decoding.prompts import check_generation_memory, check_prompt
from labkit.decoding.stops import StopStrings
from labkit.errors import LabError
from labkit.model.context import EncoderOutput
from labkit.model.transformer import Transformer


def contrastive_search(model: Transformer, prompt: Sequence[int], **options: Any) -> list[int]:
    """The last of `contrastive_steps`, which takes the same arguments: the whole text."""
    return deque(contrastive_steps(model, prompt, **options), maxlen=1).pop()


class ContrastiveCandidate(NamedTuple):
    """A candidate: its probability, the largest cosine between its vector and those of all tokens before, and the score
    by which it is ranked, (1 - alpha) · probability - alpha · max_similarity.
    """

    token: int
    probability: float
    max_similarity: float
    score: float


@torch.no_grad()
def contrastive_candidates(
    model: Transformer, prefix: Sequence[int], *, k: int, alpha: float
) -> list[ContrastiveCandidate]:
    """What `contrastive_steps` weighs after these tokens, the one that it chooses first. Raises LabError as it does."""
    _check(k, alpha)
    check_prompt(model, prefix)
    device = model.embedding.weight.device
    model.eval()
    state = model.new_state(1, len(prefix) + 1)
    vectors = model.hidden_states(torch.tensor([list(prefix)], device=device), state=state)[0]  # [T, D]
    shares, tokens = model.logits(vectors[-1:])[0].float().softmax(-1).topk(min(k, model.config.vocabulary))
    tried = state.select(torch.zeros(len(tokens), dtype=torch.int64, device=device))
    new = model.hidden_states(tokens.unsqueeze(-1), state=tried)[:, 0]  # [k, D]
    alike = _similarity(new, vectors)
    scores = (1 - alpha) * shares - alpha * alike
    columns = (column.tolist() for column in (tokens, shares, alike, scores))
    return sorted((ContrastiveCandidate(*one) for one in zip(*columns, strict=True)), key=lambda one: -one.score)


@torch.no_grad()
def contrastive_steps(
    model: Transformer,
    prompt: Sequence[int],
    *,
    k: int,
    alpha: float,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stop: StopStrings | None = None,
    memory: EncoderOutput | None = None,
) -> Iterator[list[int]]:
    """The new tokens so far, after each: of the k likeliest the one with the largest (1 - alpha) · probability - alpha
    · the largest cosine between its vector and those of all tokens before.

    A Contrastive Framework for Neural Text Generation, https://arxiv.org/abs/2202.06417. The vectors are those that the
    head reads. memory: what the encoder made, of one row. Raises LabError for k below 1, alpha outside 0 to 1, and as
    `check_prompt`.
    """
    _check(k, alpha)
    check_prompt(model, prompt)
    k = min(k, model.config.vocabulary)
    check_generation_memory(model, k, len(prompt), max_new_tokens)
    device = model.embedding.weight.device
    room = min(max_new_tokens, model.config.context - len(prompt))
    model.eval()
    state = model.new_state(1, len(prompt) + room)
    read = torch.tensor([list(prompt)], device=device)
    vectors = model.hidden_states(read, state=state, memory=memory)[0]  # [T, D]
    written: list[int] = []
    yield written
    while len(written) < room:
        logits = model.logits(vectors[-1:]).float()
        check_tokens_remain((), [logits])
        shares, tokens = logits[0].softmax(-1).topk(k)
        rows = torch.zeros(len(tokens), dtype=torch.int64, device=device)
        tried = state.select(rows)
        new = model.hidden_states(tokens.unsqueeze(-1), state=tried, memory=memory and memory.select(rows))[
            :, 0
        ]  # [k, D]
        best = int(((1 - alpha) * shares - alpha * _similarity(new, vectors)).argmax())
        if int(tokens[best]) in stop_ids:
            break
        written = [*written, int(tokens[best])]
        if stop is not None and stop.ends_with_stop(written):
            yield stop.cut_at_stop(written)
            return
        yield written
        state, vectors = tried.select(torch.tensor([best], device=device)), torch.cat((vectors, new[best : best + 1]))


def _check(k: int, alpha: float) -> None:
    if k < 1 or not 0 <= alpha <= 1:
        raise LabError(f"Contrastive search needs k of at least 1 and alpha from 0 to 1, not {k} and {alpha}.")


def _similarity(new: Tensor, before: Tensor) -> Tensor:
    """The largest cosine between each of the vectors [k, D] and those before [T, D]: [k]."""
    return (F.normalize(new.float(), dim=-1) @ F.normalize(before.float(), dim=-1).T).amax(-1)
