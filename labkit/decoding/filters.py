"""What changes a distribution before a token is drawn from it.

A filter is a frozen dataclass called on logits [B, V], and on what was written so far, that returns logits [B, V]; what
it forbids becomes -inf. Filters are applied in the order of the list: ``[Temperature(0.8), TopK(40), TopP(0.9)]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.configs import Count, Range, check_fields
from labkit.errors import LabError

COLDEST, HOTTEST = 1e-6, 1e6
"""Temperatures between which logits of any size stay numbers."""
Part = Annotated[float, Range(0, 1, exclude_low=True)]
Penalty = Annotated[float, Range(-1e4, 1e4)]


class History(NamedTuple):
    """padded_tokens [B, T]: each row's prompt and what was written after it, -1 where there is no token; the last
    column is the latest. num_prompt_columns: how many of the columns are prompt.
    """

    padded_tokens: Tensor
    num_prompt_columns: int

    def token_counts(self, vocab_size: int, generated_only: bool = False) -> Tensor:
        """How often each token stands in each row: [B, V]."""
        tokens = self.padded_tokens[:, self.num_prompt_columns :] if generated_only else self.padded_tokens
        counts = tokens.new_zeros(len(tokens), vocab_size + 1)
        return counts.scatter_add(1, tokens.where(tokens >= 0, vocab_size), torch.ones_like(tokens))[:, :vocab_size]


class Filter(Protocol):
    """name: how it is called in a strategy's line. needs_history: whether it asks what was written; such a one is
    refused without a History.
    """

    name: ClassVar[str]
    needs_history: ClassVar[bool]

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor: ...


def filter_logits(filters: Sequence[Filter], logits: Tensor, history: History | None = None) -> Tensor:
    """Logits [B, V] after all filters, in their order."""
    for one in filters:
        logits = one(logits, history)
    return logits


def logits_before_and_after_each_filter(
    filters: Sequence[Filter], logits: Tensor, history: History | None = None
) -> list[Tensor]:
    """Logits [B, V] as they are, and after each filter: one more than there are filters."""
    seen = [logits]
    for one in filters:
        seen.append(one(seen[-1], history))
    return seen


def filter_and_check_logits(
    filters: Sequence[Filter], logits: Tensor, history: History | None = None, active_rows: Tensor | None = None
) -> Tensor:
    """`filter_logits`, where each row must have a token left. active_rows [B] bool: those that count; the others are
    made uniform where they have none. Raises LabError as `check_tokens_remain`.
    """
    found = filter_logits(filters, logits, history)
    empty = _empty(found)
    if (empty if active_rows is None else empty & active_rows).any():
        check_tokens_remain(filters, logits_before_and_after_each_filter(filters, logits, history), active_rows)
    return found if active_rows is None else found.masked_fill(empty.unsqueeze(-1), 0.0)


def check_tokens_remain(
    filters: Sequence[Filter], logits_by_filter: Sequence[Tensor], active_rows: Tensor | None = None
) -> None:
    """logits_by_filter: what `logits_before_and_after_each_filter` gave; active_rows [B] bool: those that count. Raises
    LabError for a row without a token that could come next, and names the filter that took the last; and for a model
    whose logits are no numbers.
    """
    empty = [_empty(logits) if active_rows is None else _empty(logits) & active_rows for logits in logits_by_filter]
    if empty[0].any():
        raise LabError("The model's logits are NaN or infinite: its weights are damaged, as when training diverged.")
    taken = next((place for place, one in enumerate(empty[1:]) if one.any()), None)
    if taken is not None:
        before = ", ".join(one.name for one in filters[:taken])
        raise LabError(
            f"{filters[taken].name} leaves no token to sample{f', after {before}' if before else ''}. Remove it, "
            "weaken it, or put it before the filters that remove tokens."
        )


def _empty(logits: Tensor) -> Tensor:
    """Which rows have no token left, or are no numbers: [B, V] -> [B] bool."""
    return ~logits.amax(-1).isfinite()


def any_needs_history(filters: Sequence[Filter]) -> bool:
    """Whether one of them asks what was written."""
    return any(one.needs_history for one in filters)


@dataclass(frozen=True)
class Temperature:
    """Divide the logits by ``value``; 0 is the limit, greedy: only the likeliest token stays (the first of
    equals).
    """

    value: Annotated[float, Range(0, HOTTEST)]
    name: ClassVar[str] = "temperature"
    needs_history: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.value < COLDEST:
            raise LabError(f"Temperature must be 0 (greedy) or at least {COLDEST:g}, not {self.value:g}.")

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        if self.value == 0:
            return _keep_only(logits, logits.argmax(-1, keepdim=True))
        return logits / self.value


@dataclass(frozen=True)
class TopK:
    """Keep the ``k`` likeliest tokens: Hierarchical Neural Story Generation,
    https://arxiv.org/abs/1805.04833.
    """

    k: Count
    name: ClassVar[str] = "top-k"
    needs_history: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        if self.k >= logits.shape[-1]:
            return logits
        return _keep_only(logits, logits.topk(self.k, dim=-1, sorted=False).indices)


@dataclass(frozen=True)
class TopP:
    """Keep the smallest set of the likeliest tokens whose probability reaches ``p``: nucleus sampling, The
    Curious Case of Neural Text Degeneration, https://arxiv.org/abs/1904.09751.
    """

    p: Part
    name: ClassVar[str] = "top-p"
    needs_history: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        ordered, tokens = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # of all likelier tokens together
        ordered = ordered.masked_fill(before >= self.p, -torch.inf)
        return torch.empty_like(logits).scatter_(-1, tokens, ordered)


@dataclass(frozen=True)
class MinP:
    """Keep the tokens at least ``p`` times as probable as the likeliest: Turning Up the Heat,
    https://arxiv.org/abs/2407.01082.
    """

    p: Part
    name: ClassVar[str] = "min-p"
    needs_history: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        shares = logits.softmax(-1)
        return logits.masked_fill(shares < self.p * shares.amax(-1, keepdim=True), -torch.inf)


@dataclass(frozen=True)
class Typical:
    """Keep the tokens whose information is nearest to what is expected of the distribution, until they reach ``mass``:
    Locally Typical Sampling, https://arxiv.org/abs/2202.00666.
    """

    mass: Part
    name: ClassVar[str] = "typical"
    needs_history: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        logprobs = logits.log_softmax(-1)
        shares = logprobs.exp()
        entropy = -(shares * logprobs.nan_to_num(neginf=0.0)).sum(-1, keepdim=True)
        _, nearest = (-logprobs - entropy).abs().sort(dim=-1, stable=True)
        ordered = shares.gather(-1, nearest)
        removed = ordered.cumsum(-1) - ordered >= self.mass  # the nearer ones reach it already
        return logits.masked_fill(torch.empty_like(removed).scatter_(-1, nearest, removed), -torch.inf)


@dataclass(frozen=True)
class Epsilon:
    """Keep the tokens of a probability of at least ``cutoff``, and the likeliest anyway: Truncation Sampling as
    Language Model Desmoothing, https://arxiv.org/abs/2210.15191.
    """

    cutoff: Part
    name: ClassVar[str] = "epsilon"
    needs_history: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        shares = logits.softmax(-1)
        return logits.masked_fill((shares < self.cutoff) & (logits < logits.amax(-1, keepdim=True)), -torch.inf)


# What asks for what was written


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divide the positive logits of all tokens read or written so far by ``penalty``, and multiply the negative ones:
    CTRL, https://arxiv.org/abs/1909.05858, 4.1. 1 changes nothing.
    """

    penalty: Annotated[float, Range(1e-3, 1e3)]
    name: ClassVar[str] = "repetition"
    needs_history: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        seen = _needed(self, history).token_counts(logits.shape[-1]) > 0
        return torch.where(seen, torch.where(logits < 0, logits * self.penalty, logits / self.penalty), logits)


@dataclass(frozen=True)
class PresencePenalty:
    """Subtract ``penalty`` from the logits of all tokens that were written, the prompt's not counted:
    https://platform.openai.com/docs/api-reference/chat/create.
    """

    penalty: Penalty
    name: ClassVar[str] = "presence"
    needs_history: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        written = _needed(self, history).token_counts(logits.shape[-1], generated_only=True)
        return logits - self.penalty * (written > 0)


@dataclass(frozen=True)
class FrequencyPenalty:
    """Subtract ``penalty`` for each time that a token was written, the prompt's not counted; the same page."""

    penalty: Penalty
    name: ClassVar[str] = "frequency"
    needs_history: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        return logits - self.penalty * _needed(self, history).token_counts(logits.shape[-1], generated_only=True)


@dataclass(frozen=True)
class NoRepeatNgram:
    """Forbid what would write ``n`` tokens in a row a second time: A Deep Reinforced Model for Abstractive
    Summarization, https://arxiv.org/abs/1705.04304, 2.5.
    """

    n: Count
    name: ClassVar[str] = "no-repeat"
    needs_history: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        tokens = _needed(self, history).padded_tokens
        if tokens.shape[1] < self.n:
            return logits
        windows = tokens.unfold(1, self.n, 1)  # [B, W, n]
        latest = tokens[:, tokens.shape[1] - self.n + 1 :].unsqueeze(1)  # [B, 1, n - 1]
        again = (windows[..., :-1] == latest).all(-1) & (windows >= 0).all(-1)  # [B, W]
        ends = windows[..., -1].where(again, logits.shape[-1])
        forbidden = F.pad(torch.zeros_like(logits), (0, 1)).scatter(1, ends, 1.0)[:, :-1]
        return logits.masked_fill(forbidden > 0, -torch.inf)


@dataclass(frozen=True)
class Banned:
    """Forbid these tokens."""

    tokens: tuple[int, ...]
    name: ClassVar[str] = "ban"
    needs_history: ClassVar[bool] = False

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        return logits.index_fill(-1, _tokens(self, self.tokens, logits), -torch.inf)


@dataclass(frozen=True)
class Allowed:
    """Forbid all but these tokens."""

    tokens: tuple[int, ...]
    name: ClassVar[str] = "allow"
    needs_history: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.tokens:
            raise LabError("Allowed must name at least one token.")

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        return _keep_only(logits, _tokens(self, self.tokens, logits).expand(len(logits), -1))


def sampling_filters(temperature: float, top_k: int, top_p: float) -> list[Filter]:
    """sampling_filters(0.8, 40, 1.0) -> [Temperature(0.8), TopK(40)]: what changes nothing is left out."""
    chosen: list[Filter] = [Temperature(temperature)] if temperature != 1 else []
    chosen += [TopK(top_k)] if top_k else []
    return chosen + ([TopP(top_p)] if top_p != 1 else [])


def _keep_only(logits: Tensor, tokens: Tensor) -> Tensor:
    """Forbid all but the given tokens [B, n]."""
    return torch.full_like(logits, -torch.inf).scatter_(-1, tokens, logits.gather(-1, tokens))


def _needed(filter_: object, history: History | None) -> History:
    if history is None:
        raise LabError(f"{type(filter_).__name__} needs the tokens that were generated so far.")
    return history


def _tokens(filter_: object, tokens: tuple[int, ...], logits: Tensor) -> Tensor:
    """Raises LabError for a token outside the vocabulary."""
    outside = [token for token in tokens if not 0 <= token < logits.shape[-1]]
    if outside:
        raise LabError(
            f"{type(filter_).__name__}: there is no token {outside[0]} in a vocabulary of {logits.shape[-1]}."
        )
    return torch.tensor(sorted(set(tokens)), dtype=torch.int64, device=logits.device)
