"""What all blocks share while a model reads some tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from labkit.model.positions import AttentionPositions
from labkit.model.taps import Tap, no_tap


class EncoderOutput(NamedTuple):
    """What an encoder made, for a decoder to look at: hidden_states [B, S, D], and what to add to scores, [B, 1, S]."""

    hidden_states: Tensor
    attention_bias: Tensor

    def select(self, rows: Tensor) -> EncoderOutput:
        """Keep the given rows only (a copy); rows [B'] of int64."""
        return EncoderOutput(self.hidden_states[rows], self.attention_bias[rows])


@dataclass
class ForwardContext:
    """positions: of the tokens, and what encodes them. attention_bias: what to add to scores, [T, S] or [B, T, S], S
    counting the tokens in the state too. token_mask [B, T]: False for padding, None when there is none. document_starts
    [B, T]: True where a token begins another document than the one before it in its row, None for one document a row.
    memory: an encoder's. v_first: what the first block leaves for later ones, where its mixer does. is_causal: whether
    attention_bias hides later tokens, and nothing else.
    """

    positions: AttentionPositions
    attention_bias: Tensor
    token_mask: Tensor | None = None
    document_starts: Tensor | None = None
    memory: EncoderOutput | None = None
    tap: Tap = no_tap
    v_first: Tensor | None = None
    is_causal: bool = False


S = TypeVar("S", bound="MixerState")


class MixerState(Protocol):
    """What a mixer remembers of the tokens so far."""

    def select(self: S, rows: Tensor) -> S:
        """Keep the given rows only (a copy); rows [B'] of int64."""
        ...


def token_shift(x: Tensor, last_input: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
    """The real token before each: x [B, T, D] and what came before all, last_input [B, D] -> [B, T, D], and the
    `last_input` of the next call. Zeros at the beginning of a document.
    """
    together = torch.cat((last_input.to(x.dtype).unsqueeze(1), x), 1)  # [B, 1 + T, D]
    if context.token_mask is None:
        before, last_input = together[:, :-1], x[:, -1]
    else:
        place = torch.arange(1, x.shape[1] + 1, device=x.device) * context.token_mask  # where the real ones stand
        latest = torch.cat((place.new_zeros(len(x), 1), place.cummax(1).values), 1)  # [B, 1 + T]
        found = together.gather(1, latest.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        before, last_input = found[:, :-1], found[:, -1]
    if context.document_starts is not None:
        before = before.masked_fill(context.document_starts.unsqueeze(-1), 0)
    return before, last_input
