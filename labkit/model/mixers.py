"""What lets tokens see each other: x, state = mixer(x, state, mask, memory, ...)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.errors import LabError
from labkit.model.positions import Places

Tap = Callable[[str, Tensor], Tensor]


def no_tap(name: str, x: Tensor) -> Tensor:
    """The tap that looks at nothing. A tap is called as ``x = tap(name, x)`` where x is made: it may keep x,
    or return another tensor in its place.
    """
    return x


class KeyValues(NamedTuple):
    """The keys and values of one layer, in space set aside beforehand: [B, K, L, E], of which ``filled`` are
    in use.
    """

    keys: Tensor
    values: Tensor
    filled: int

    @staticmethod
    def empty(rows: int, heads: int, length: int, head_width: int, like: Tensor) -> KeyValues:
        """Space for ``length`` tokens on the device of ``like``, of its type, or of autocast's where that is
        on.
        """
        device = like.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
        keys, values = (like.new_zeros(rows, heads, length, head_width, dtype=dtype) for _ in range(2))
        return KeyValues(keys, values, 0)

    def append(self, keys: Tensor, values: Tensor) -> KeyValues:
        """Write keys and values [B, K, T, E] after those in use (in place).

        Raises LabError when there is no space left for T more.
        """
        end = self.filled + keys.shape[2]
        if end > self.keys.shape[2]:
            raise LabError(f"The key/value cache holds {self.keys.shape[2]} tokens and cannot take {end}.")
        self.keys[:, :, self.filled : end] = keys
        self.values[:, :, self.filled : end] = values
        return KeyValues(self.keys, self.values, end)

    def in_use(self) -> tuple[Tensor, Tensor]:
        """Views of the filled part, each [B, K, filled, E]."""
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def select(self, rows: Tensor) -> KeyValues:
        """Keep the given rows only (a copy); rows [B'] of int64."""
        return KeyValues(self.keys[rows], self.values[rows], self.filled)


class Attention(nn.Module):
    """Causal self-attention, several query heads sharing a key and value head.

    Attention Is All You Need, https://arxiv.org/abs/1706.03762; grouped queries,
    https://arxiv.org/abs/2305.13245; queries and keys normalised (``qk_norm``) as in Qwen3,
    https://arxiv.org/abs/2505.09388. The matrices of queries, keys and values are one, in that order: one
    large product is faster than three small ones.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        key_heads: int,
        head_width: int,
        *,
        qk_norm: bool,
        norm_eps: float,
        name: str,
    ):
        super().__init__()
        self.heads, self.key_heads, self.head_width, self.name = heads, key_heads, head_width, name
        self.qkv = nn.Linear(width, (heads + 2 * key_heads) * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)
        self.qk_norm = qk_norm
        if qk_norm:
            self.query_norm = nn.RMSNorm(head_width, norm_eps)
            self.key_norm = nn.RMSNorm(head_width, norm_eps)

    def new_state(self, rows: int, length: int) -> KeyValues:
        return KeyValues.empty(rows, self.key_heads, length, self.head_width, self.out.weight)

    def forward(
        self,
        x: Tensor,
        state: KeyValues | None,
        mask: Tensor,
        memory: None,
        places: Places,
        tap: Tap = no_tap,
    ) -> tuple[Tensor, KeyValues | None]:
        """x [B, T, D] -> [B, T, D], and the state with the T new keys and values in it.

        mask, broadcast to [B, T, S], is added to the scores: 0 where a query may look at a key, very low where
        not; S counts the keys in the state and the new ones. ``memory`` is for cross-attention, unused here.
        """
        q, k, v = self.project(x, places)
        if state is not None:
            state = state.append(k, v)
            k, v = (part.to(q.dtype) for part in state.in_use())
        q, k, v = (tap(f"{self.name}.{part}", t) for part, t in (("query", q), ("key", k), ("value", v)))
        return self.out(self.attend(q, k, v, mask, places, tap)), state

    def project(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> queries [B, H, T, E], keys and values [B, K, T, E]."""
        H, K = self.heads, self.key_heads
        qkv = self.qkv(x).unflatten(-1, (H + 2 * K, self.head_width))  # [B, T, H + 2K, E]
        q, k, v = qkv.split((H, K, K), dim=2)
        if self.qk_norm:
            dtype = self.query_norm.weight.dtype  # as every norm, in full precision even under autocast
            q, k = self.query_norm(q.to(dtype)), self.key_norm(k.to(dtype))
        q, k = places.rotate(q, k)
        return q.to(v.dtype).transpose(1, 2), k.to(v.dtype).transpose(1, 2), v.transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, places: Places, tap: Tap) -> Tensor:
        """softmax(q kᵀ / √E + bias) v: q [B, H, T, E], k and v [B, K, S, E] -> [B, T, H·E].

        Written out, not torch's fused kernel: on a CPU in bf16 forward and backward together take half the time,
        and the softmax sums in fp32 in both. Every weight is there for the tap.
        """
        B, H, T, E = q.shape
        K, S = k.shape[1], k.shape[2]
        # The queries that share a key head are stacked, so that no key is copied.
        scores = (q.reshape(B, K, -1, E) * E**-0.5 @ k.transpose(-1, -2)).view(B, H, T, S)
        bias = places.bias(q)
        if bias is not None:
            scores = scores + bias
        scores = scores + mask.unsqueeze(-3).to(scores.dtype)
        weights = tap(f"{self.name}.weights", F.softmax(scores, dim=-1))
        y = (weights.view(B, K, -1, S) @ v).view(B, H, T, E)
        term = places.value_term(weights)
        y = y if term is None else y + term
        return y.transpose(1, 2).reshape(B, T, H * E)
