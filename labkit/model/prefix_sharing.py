"""Rows that begin with the same prompt, computed with each prompt once.

The answers to a prompt stand behind it as branches: each sees the prompt and itself, at the positions that it would
have alone, so that every hidden state is what it is in a row of its own, but for rounding. Several prompts are packed
into one row, none of which sees another. What is left out is the prompt's repetition and most of the padding.

    inputs             packed              what it sees
    p q a b _          p q a b c           p; p q; p q a; p q a b; p q c
    p q c _ _
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.machine import disable_compile
from labkit.model.mixers import SelfAttention
from labkit.model.transformer import Transformer


class PackedRows(NamedTuple):
    """R rows of W tokens. tokens, positions, documents, branches [R, W]: as `Transformer.hidden_states` takes them.
    places [B, T]: where each token of the B rows that were packed stands, counted over all rows; of padding, where the
    last token of its row does.
    """

    tokens: Tensor
    positions: Tensor
    documents: Tensor
    branches: Tensor
    places: Tensor


class _Part(NamedTuple):
    """A prompt of `prompt` tokens, and the rows whose answers stand behind it."""

    prompt: int
    rows: list[int]
    length: int


def supports_prefix_sharing(model: Transformer) -> bool:
    """Whether a prompt can be read once for several answers: by causal attention, and where nothing else looks at the
    token before.
    """
    config = model.config
    return isinstance(config.mixer, SelfAttention) and config.causal and not config.token_shift and not model.encoder


def row_hidden_states(model: Transformer, tokens: Tensor, next_token_mask: Tensor, prefix_sharing: bool) -> Tensor:
    """`hidden_states` of rows that are a prompt and an answer each: tokens, next_token_mask [B, T] -> [B, T, D].

    next_token_mask: True where the next token belongs to the answer, as in Batch. prefix_sharing: compute equal prompts
    once, where the model can; what stands at padding is then of no meaning.
    """
    if not (prefix_sharing and supports_prefix_sharing(model)):
        return model.hidden_states(tokens)
    packed = pack_rows(tokens, next_token_mask)
    x = model.hidden_states(packed.tokens, packed.positions, documents=packed.documents, branches=packed.branches)
    return x.flatten(0, 1).index_select(0, packed.places.flatten()).unflatten(0, packed.places.shape)


@disable_compile
def pack_rows(tokens: Tensor, next_token_mask: Tensor) -> PackedRows:
    """Rows [B, T] in fewer and fuller ones, on their device; a row without an answer stands whole and alone.

    A prompt with all its answers is as long as two rows at most, and else read again: attention costs the square.
    """
    ids, mask = tokens.cpu().numpy(), next_token_mask.cpu().numpy()
    B, T = ids.shape
    answered = mask.any(1)
    ends = np.where(answered, np.minimum(T, T + 1 - mask[:, ::-1].argmax(1)), T)
    prompts = np.where(answered, np.minimum(mask.argmax(1) + 1, ends), T)
    parts = _parts(ids, prompts, ends, limit=2 * int(ends.max()))
    width = math.ceil(max(part.length for part in parts) / 16) * 16
    rows = _first_fit(parts, width)
    packed = np.zeros((4, len(rows), width), dtype=np.int64)  # tokens, positions, documents, branches
    places = np.zeros((B, T), dtype=np.int64)
    for at, row in enumerate(rows):
        start = 0
        for number, part in enumerate(row, start=1):
            p, first = part.prompt, part.rows[0]
            packed[0, at, start : start + p] = ids[first, :p]
            packed[1, at, start : start + p] = np.arange(p)
            packed[2, at, start : start + part.length] = number
            end = start + p
            for branch, b in enumerate(part.rows, start=1):
                own = slice(end, end + ends[b] - p)
                packed[0, at, own], packed[1, at, own] = ids[b, p : ends[b]], np.arange(p, ends[b])
                packed[3, at, own] = branch
                places[b, :p] = at * width + start + np.arange(p)
                places[b, p : ends[b]] = at * width + np.arange(own.start, own.stop)
                places[b, ends[b] :] = places[b, ends[b] - 1]
                end = own.stop
            start = end
    return PackedRows(*(torch.from_numpy(one).to(tokens.device) for one in (*packed, places)))


def _parts(ids: NDArray[np.int64], prompts: NDArray[np.int64], ends: NDArray[np.int64], limit: int) -> list[_Part]:
    """Rows with the same prompt together, as long as `limit` at most, in the order of their first rows."""
    groups: dict[bytes, list[int]] = {}
    for b, p in enumerate(prompts):
        groups.setdefault(ids[b, :p].tobytes(), []).append(b)
    parts: list[_Part] = []
    for rows in groups.values():
        p = int(prompts[rows[0]])
        part = _Part(p, [], p)
        for b in rows:
            own = int(ends[b]) - p
            if part.rows and part.length + own > limit:
                parts.append(part)
                part = _Part(p, [], p)
            part = _Part(p, [*part.rows, b], part.length + own)
        parts.append(part)
    return parts


def _first_fit(parts: list[_Part], width: int) -> list[list[_Part]]:
    """Parts in rows of `width` tokens, long ones first, each in the first row that has room for it."""
    rows: list[list[_Part]] = []
    room: list[int] = []
    for part in sorted(parts, key=lambda one: -one.length):
        at = next((at for at, free in enumerate(room) if free >= part.length), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(width)
        rows[at].append(part)
        room[at] -= part.length
    return rows
