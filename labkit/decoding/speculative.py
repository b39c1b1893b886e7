"""Speculative decoding: a small draft model proposes tokens, the large target model checks all of them in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.decoding.filters import (
    Filter,
    any_needs_history,
    check_tokens_remain,
    filter_and_check_logits,
    logits_before_and_after_each_filter,
)
from labkit.decoding.generate import sample_by_inverse_cdf
from labkit.decoding.prompts import check_generation_memory, check_prompt
from labkit.decoding.stops import StopStrings
from labkit.errors import LabError
from labkit.model.blocks import State
from labkit.model.transformer import Transformer


class SpeculativeResult(NamedTuple):
    """tokens: what was generated. drafted, accepted: how many tokens the draft proposed, and how many of them were
    accepted; after the first that is not, a pass's other proposals are in vain, so that accepted / drafted is below the
    rate at which one proposal is accepted. target_forward_passes: how many forward passes the target model made.
    """

    tokens: list[int]
    drafted: int
    accepted: int
    target_forward_passes: int


def speculative_decode(
    model: Transformer, draft: Transformer, prompt: Sequence[int], **options: Any
) -> SpeculativeResult:
    """The last of `speculative_steps`, which takes the same arguments: the whole text."""
    return deque(speculative_steps(model, draft, prompt, **options), maxlen=1).pop()


@torch.no_grad()
def speculative_steps(
    model: Transformer,
    draft: Transformer,
    prompt: Sequence[int],
    *,
    ahead: int = 4,
    filters: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stop: StopStrings | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[SpeculativeResult]:
    """New tokens with the distribution of `model` under the `filters`, exactly; greedy ones are its own greedy
    tokens. The draft proposes `ahead` tokens; each is accepted with probability min(1, p / q), and at the first that is
    not, one is drawn from what p has over q: Fast Inference from Transformers via Speculative Decoding,
    https://arxiv.org/abs/2211.17192. What stands is yielded after each pass of the target model.

    Raises LabError for models of different vocabularies, a state that cannot be taken back (RWKV, GRU), filters that
    ask what was written, and as `check_prompt`.
    """
    _check(model, draft, ahead, filters)
    check_generation_memory(model, 1, len(prompt), max_new_tokens)
    context = min(model.config.context, draft.config.context)
    for one in (model, draft):
        check_prompt(one, prompt)
        one.eval()
    room = min(max_new_tokens, context - len(prompt))
    ahead = min(ahead, room)
    device = model.embedding.weight.device
    states = [one.new_state(1, len(prompt) + room + ahead) for one in (model, draft)]
    for state in states:
        state.truncate(0)  # refused at once where it cannot be done later
    written, new, guessed, kept, readings = list(prompt), list[int](), 0, 0, 0
    yield SpeculativeResult([], 0, 0, 0)
    while (left := room - len(new)) > 0:
        count = min(ahead, left - 1)
        guesses, q = _guess(draft, states[1], written, count, filters, generator)
        # The last token that was kept has not been read yet; with the guesses after it one reading judges all.
        unread = [*written[states[0].length :], *guesses]
        logits = model(torch.tensor([unread], device=device), state=states[0])[0].float()[-count - 1 :]
        readings, guessed = readings + 1, guessed + count
        seen = logits_before_and_after_each_filter(filters, logits)
        p = seen[-1].cpu().double().softmax(-1)  # [count + 1, V]; its numbers are asked for one by one
        judged = _judge(guesses, p, q, generator, partial(_check_row, filters, seen))
        for place, token in enumerate(judged):
            over = token in stop_ids
            new = new if over else [*new, token]
            kept += place < len(judged) - 1  # the last is the large model's own
            if over or (stop is not None and stop.ends_with_stop(new)):
                yield SpeculativeResult(new if stop is None else stop.cut_at_stop(new), guessed, kept, readings)
                return
        written = [*prompt, *new]
        for state in states:
            state.truncate(min(state.length, len(written) - 1))
        yield SpeculativeResult(new, guessed, kept, readings)


def _check(model: Transformer, draft: Transformer, ahead: int, filters: Sequence[Filter]) -> None:
    if draft.config.vocabulary != model.config.vocabulary:
        raise LabError(
            f"The draft model has a vocabulary of {draft.config.vocabulary}, the model of {model.config.vocabulary}: "
            "they must have the same tokenizer."
        )
    if ahead < 1:
        raise LabError(f"The draft model must propose at least one token at a time, not {ahead}.")
    if any_needs_history(filters):
        raise LabError("Speculative decoding cannot use filters that need the previous tokens.")


def _guess(
    draft: Transformer,
    state: State,
    written: list[int],
    count: int,
    filters: Sequence[Filter],
    generator: torch.Generator | None,
) -> tuple[list[int], Tensor]:
    """The draft's next `count` tokens, and the distributions [count, V] that they are drawn from."""
    device = draft.embedding.weight.device
    guesses: list[int] = []
    shares = [torch.zeros(0, draft.config.vocabulary, dtype=torch.float64)]
    for _ in range(count):
        unread = [*written, *guesses][state.length :]
        logits = filter_and_check_logits(
            filters, draft(torch.tensor([unread], device=device), state=state)[:, -1].float()
        )
        shares.append(logits.cpu().double().softmax(-1))
        guesses.append(int(sample_by_inverse_cdf(logits, torch.rand(1, generator=generator).to(device))))
    return guesses, torch.cat(shares)


def _check_row(filters: Sequence[Filter], seen: Sequence[Tensor], row: int) -> None:
    check_tokens_remain(filters, [logits[row : row + 1] for logits in seen])


def _judge(
    guesses: list[int], p: Tensor, q: Tensor, generator: torch.Generator | None, check: Callable[[int], None]
) -> list[int]:
    """The guesses that are kept, and the one token more that the large model says: p [N + 1, V], q [N, V].

    check: of each row of p that is asked, whether any token is left in it.
    """
    chances = torch.rand(len(guesses) + 1, 2, generator=generator)
    for i, guess in enumerate(guesses):
        check(i)
        if float(chances[i, 0]) * float(q[i, guess]) >= float(p[i, guess]):
            more = (p[i] - q[i]).clamp(min=0)
            return [*guesses[:i], int(sample_by_inverse_cdf(more.log().unsqueeze(0), chances[i, 1:]))]
    check(len(guesses))
    return [*guesses, int(sample_by_inverse_cdf(p[-1:].log(), chances[-1, 1:]))]
