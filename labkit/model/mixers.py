"""What lets tokens see each other, x, state = mixer(x, state, context): attention, to a row and to an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.errors import LabError
from labkit.model.context import EncoderOutput, ForwardContext
from labkit.model.positions import AttentionPositions
from labkit.model.taps import Tap, no_tap


class KVCache(NamedTuple):
    """The keys and values of one layer, in space set aside beforehand: [B, K, L, E], of which ``length`` are
    in use.
    """

    keys: Tensor
    values: Tensor
    length: int

    @staticmethod
    def empty(batch_size: int, heads: int, max_length: int, head_dim: int, like: Tensor) -> KVCache:
        """Space for ``max_length`` tokens on the device of ``like``, of its type, or of autocast's where that is
        on.
        """
        device = like.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
        keys, values = (like.new_zeros(batch_size, heads, max_length, head_dim, dtype=dtype) for _ in range(2))
        return KVCache(keys, values, 0)

    def append(self, keys: Tensor, values: Tensor) -> KVCache:
        """Write keys and values [B, K, T, E] after those in use (in place).

        Raises LabError when there is no space left for T more.
        """
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            raise LabError(f"The key/value cache holds {self.keys.shape[2]} tokens and cannot take {end}.")
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        return KVCache(self.keys, self.values, end)

    def valid_keys_values(self) -> tuple[Tensor, Tensor]:
        """Views of the filled part, each [B, K, filled, E]."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def select(self, rows: Tensor) -> KVCache:
        """Keep the given rows only (a copy); rows [B'] of int64."""
        return KVCache(self.keys[rows], self.values[rows], self.length)

    def truncate(self, length: int) -> KVCache:
        """What it was when it held so many tokens."""
        return self._replace(length=length)


class AttentionConfig(NamedTuple):
    """The shape of a mixer: H query heads, K key and value heads that they share, each E wide; bias: of its
    matrices; scale: of the scores, 1/√E when None; qk_norm: normalise queries and keys, with norm_eps; qkv_bias: of
    queries, keys and values alone.
    """

    query_heads: int
    key_value_heads: int
    head_dim: int
    bias: bool = False
    scale: float | None = None
    qk_norm: bool = False
    norm_eps: float = 1e-6
    qkv_bias: bool = False

    @property
    def softmax_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale


@dataclass(frozen=True)
class SelfAttention:
    """Every token looks at those before it (at all, where the model is not causal)."""

    def build(self, width: int, config: AttentionConfig, index: int, tap_prefix: str) -> Attention:
        return Attention(width, config, tap_prefix=tap_prefix)


class Attention(nn.Module):
    """Self-attention, several query heads sharing a key and value head; causal or not as the mask says.

    Attention Is All You Need, https://arxiv.org/abs/1706.03762; grouped queries,
    https://arxiv.org/abs/2305.13245; queries and keys normalised (``qk_norm``) as in Qwen3,
    https://arxiv.org/abs/2505.09388. The matrices of queries, keys and values are one, in that order: one
    large product is faster than three small ones.
    """

    def __init__(self, width: int, config: AttentionConfig, *, tap_prefix: str):
        super().__init__()
        self.heads, self.key_value_heads, self.head_dim = config.query_heads, config.key_value_heads, config.head_dim
        self.scale, self.tap_prefix = config.softmax_scale, tap_prefix
        self.qkv = nn.Linear(
            width,
            (config.query_heads + 2 * config.key_value_heads) * config.head_dim,
            bias=config.bias or config.qkv_bias,
        )
        self.out = nn.Linear(config.query_heads * config.head_dim, width, bias=config.bias)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.query_norm = nn.RMSNorm(config.head_dim, config.norm_eps)
            self.key_norm = nn.RMSNorm(config.head_dim, config.norm_eps)

    def new_state(self, batch_size: int, max_length: int) -> KVCache:
        return KVCache.empty(batch_size, self.key_value_heads, max_length, self.head_dim, self.out.weight)

    def forward(self, x: Tensor, state: KVCache | None, context: ForwardContext) -> tuple[Tensor, KVCache | None]:
        """x [B, T, D] -> [B, T, D], and the state with the T new keys and values in it."""
        places, tap = context.positions, context.tap
        q, k, v = self.project_qkv(x, places)
        if state is not None:
            state = state.append(k, v)
            k, v = (part.to(q.dtype) for part in state.valid_keys_values())
        q, k, v = (tap(f"{self.tap_prefix}.{part}", t) for part, t in (("query", q), ("key", k), ("value", v)))
        y = multi_head_attention(
            q * self.scale, k, v, context.attention_bias, places, tap, self.tap_prefix, context.is_causal
        )
        return self.out(y), state

    def project_qkv(self, x: Tensor, positions: AttentionPositions) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> queries [B, H, T, E], keys and values [B, K, T, E]."""
        H, K = self.heads, self.key_value_heads
        qkv = self.qkv(x).unflatten(-1, (H + 2 * K, self.head_dim))  # [B, T, H + 2K, E]
        q, k, v = qkv.split((H, K, K), dim=2)
        if self.qk_norm:
            dtype = self.query_norm.weight.dtype  # as every norm, in full precision even under autocast
            q, k = self.query_norm(q.to(dtype)), self.key_norm(k.to(dtype))
        q, k = positions.rotate_before_transpose(q, k)
        return q.to(v.dtype).transpose(1, 2), k.to(v.dtype).transpose(1, 2), v.transpose(1, 2)


class CrossAttention(nn.Module):
    """Attention of a decoder's tokens to what the encoder made: Attention Is All You Need, 3.2.3."""

    def __init__(self, width: int, config: AttentionConfig, *, tap_prefix: str):
        super().__init__()
        self.heads, self.key_value_heads, self.head_dim = config.query_heads, config.key_value_heads, config.head_dim
        self.scale, self.tap_prefix = config.softmax_scale, tap_prefix
        self.query = nn.Linear(width, config.query_heads * config.head_dim, bias=config.bias or config.qkv_bias)
        self.key_value = nn.Linear(
            width, 2 * config.key_value_heads * config.head_dim, bias=config.bias or config.qkv_bias
        )
        self.out = nn.Linear(config.query_heads * config.head_dim, width, bias=config.bias)

    def forward(self, x: Tensor, memory: EncoderOutput, tap: Tap) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        q = self.query(x).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)  # [B, H, T, E]
        both = self.key_value(memory.hidden_states).unflatten(
            -1, (2 * self.key_value_heads, self.head_dim)
        )  # [B, S, 2K, E]
        k, v = both.transpose(1, 2).chunk(2, dim=1)
        q, k, v = (tap(f"{self.tap_prefix}.{part}", t) for part, t in (("query", q), ("key", k), ("value", v)))
        return self.out(multi_head_attention(q * self.scale, k, v, memory.attention_bias, None, tap, self.tap_prefix))


def multi_head_attention(
    scaled_q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_bias: Tensor,
    positions: AttentionPositions | None,
    tap: Tap,
    tap_prefix: str,
    is_causal: bool = False,
) -> Tensor:
    """softmax(q kᵀ + bias) v: scaled_q [B, H, T, E], k and v [B, K, S, E] -> [B, T, H·E].

    is_causal: the mask hides later tokens and nothing else. On CUDA by torch's fused kernels, unless something reads
    the weights. Elsewhere written out: on a CPU in bf16 forward and backward together take half the time, and the
    softmax sums in fp32 in both.
    """
    reads_weights = tap is not no_tap or (positions is not None and positions.encoding.reads_weights)
    if scaled_q.device.type == "cuda" and not reads_weights:
        y = _fused_attention(scaled_q, k, v, attention_bias, positions, is_causal)
    else:
        y = _written_out_attention(scaled_q, k, v, attention_bias, positions, tap, tap_prefix)
    return y.transpose(1, 2).flatten(2)


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attention_bias: Tensor, positions: AttentionPositions | None, is_causal: bool
) -> Tensor:
    """`multi_head_attention` by scaled_dot_product_attention: [B, H, T, E]."""
    bias = None if positions is None else positions.bias(q)
    causal = is_causal and bias is None
    if not causal:
        hidden = attention_bias.unsqueeze(-3).to(q.dtype)
        bias = hidden if bias is None else bias + hidden
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, bias, is_causal=causal, scale=1.0, enable_gqa=grouped)


def _written_out_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_bias: Tensor,
    positions: AttentionPositions | None,
    tap: Tap,
    tap_prefix: str,
) -> Tensor:
    """`multi_head_attention` step by step, every step there for the tap: [B, H, T, E]."""
    B, H, T, E = q.shape
    K, S = k.shape[1], k.shape[2]
    # The queries that share a key head are stacked, so that no key is copied.
    scores = (q.reshape(B, K, -1, E) @ k.transpose(-1, -2)).view(B, H, T, S)
    bias = None if positions is None else positions.bias(q)
    if bias is not None:
        scores = scores + bias
    scores = tap(f"{tap_prefix}.scores", scores) + attention_bias.unsqueeze(-3).to(scores.dtype)
    weights = tap(f"{tap_prefix}.weights", F.softmax(scores, dim=-1))
    y = (weights.view(B, K, -1, S) @ v).view(B, H, T, E)
    term = None if positions is None else positions.value_term(weights)
    return tap(f"{tap_prefix}.heads", y if term is None else y + term)
