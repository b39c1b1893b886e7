"""The Transformer: a stack of blocks between a token embedding and a head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.errors import LabError
from labkit.losses import token_logprobs
from labkit.model.feedforward import Gated
from labkit.model.heads import TokenHead
from labkit.model.initial import draw_weights, look_back
from labkit.model.mixers import Attention, KeyValues, Tap, no_tap
from labkit.model.positions import Places, Rotary


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model. Choices are values: ``ModelConfig(position=Rotary(base=500_000), ...)``.

    context: the longest row of tokens. width: D. depth: blocks. heads: H, of ``head_width`` E each (width /
    heads when not given). key_heads: K, how many key and value heads the H query heads share. tied: the head
    uses the token embedding. norm_eps: what keeps RMSNorm from dividing by zero. look_back: how many tokens back
    the first block's heads look before any training, see `initial.look_back`; 0 lets chance decide. Raises
    LabError for a shape that makes no sense.
    """

    vocabulary: int
    context: int = 256
    width: int = 128
    depth: int = 4
    heads: int = 2
    key_heads: int = 2
    head_width: int | None = None
    feed_forward: Gated = Gated(hidden=352)
    position: Rotary = Rotary()
    qk_norm: bool = True
    tied: bool = True
    norm_eps: float = 1e-6
    look_back: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "width", "depth", "heads", "key_heads"):
            if getattr(self, name) < 1:
                raise LabError(f"ModelConfig: {name} must be at least 1, not {getattr(self, name)}.")
        if not 0 <= self.look_back < self.context:
            raise LabError(
                f"ModelConfig: look_back must be a number of tokens from 0 to below the context of {self.context}, "
                f"not {self.look_back}."
            )
        if self.heads % self.key_heads:
            raise LabError(
                f"ModelConfig: {self.heads} query heads cannot share {self.key_heads} key heads evenly; "
                f"let key_heads divide heads."
            )
        if self.head_width is None and self.width % self.heads:
            raise LabError(
                f"ModelConfig: a width of {self.width} cannot be split into {self.heads} heads; "
                f"let heads divide width, or set head_width."
            )

    @property
    def head_size(self) -> int:
        """E, the width of one head."""
        return self.head_width if self.head_width is not None else self.width // self.heads


@dataclass
class State:
    """What a model remembers of the tokens so far, changed in place as tokens come.

    blocks: one mixer state a block; mask [B, L]: True where the remembered token is real, not padding;
    positions [B, L]; filled: how many of the L places are in use.
    """

    blocks: list[KeyValues]
    mask: Tensor
    positions: Tensor
    filled: int = 0

    def remember(self, mask: Tensor | None, positions: Tensor, length: int) -> None:
        """Note that ``length`` tokens come next, with their mask [B, T] and positions [(B,) T]."""
        end = self.filled + length
        if end > self.mask.shape[1]:
            raise LabError(f"The state has room for {self.mask.shape[1]} tokens and cannot take {end}.")
        self.mask[:, self.filled : end] = True if mask is None else mask
        self.positions[:, self.filled : end] = positions
        self.filled = end

    def select(self, rows: Tensor) -> State:
        """Keep the given rows only (a copy); rows [B'] of int64."""
        blocks = [block.select(rows) for block in self.blocks]
        return State(blocks, self.mask[rows], self.positions[rows], self.filled)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)), with RMSNorm (https://arxiv.org/abs/1910.07467)."""

    def __init__(self, config: ModelConfig, name: str):
        super().__init__()
        self.name = name
        self.mixer_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.mixer = Attention(
            config.width,
            config.heads,
            config.key_heads,
            config.head_size,
            qk_norm=config.qk_norm,
            norm_eps=config.norm_eps,
            name=f"{name}.attention",
        )
        self.feed_forward_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.feed_forward = config.feed_forward.build(config.width)

    def new_state(self, rows: int, length: int) -> KeyValues:
        """The mixer's empty state."""
        return self.mixer.new_state(rows, length)

    def forward(
        self,
        x: Tensor,
        state: KeyValues | None,
        mask: Tensor,
        memory: None,
        places: Places,
        tap: Tap = no_tap,
    ) -> tuple[Tensor, KeyValues | None]:
        """x [B, T, D] -> [B, T, D], and the mixer's new state; the arguments are the mixer's."""
        mixed, state = self.mixer(self.mixer_norm(x), state, mask, memory, places, tap)
        x = x + tap(f"{self.name}.attention.output", mixed)
        x = x + tap(f"{self.name}.feed_forward.output", self.feed_forward(self.feed_forward_norm(x)))
        return tap(f"{self.name}.output", x), state


class Transformer(nn.Module):
    """The decoder-only family: Llama's shape, or Qwen3's with ``qk_norm``."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.position = config.position.build(config.context, config.head_size)
        self.blocks = nn.ModuleList(Block(config, f"blocks.{i}") for i in range(config.depth))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        self.head = TokenHead(config.width, config.vocabulary, config.tied)
        draw_weights(self)
        if config.look_back:
            look_back(self, config.look_back)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        state: State | None = None,
        tap: Tap = no_tap,
    ) -> Tensor:
        """tokens [B, T] -> logits [B, T, V] of the token after each; the other arguments are those of
        ``hidden``.
        """
        return self.logits(self.hidden(tokens, positions, mask, state, tap))

    def logits(self, x: Tensor) -> Tensor:
        """The head alone: x [B, T, D] -> logits [B, T, V]."""
        return self.head(x, self.embedding.weight)

    def logprobs(self, x: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of each label: x [B, T, D], labels [B, T], mask [B, T] -> [B, T] nats in fp32.

        0 where the mask is False: there the head, the larger part of the work on short answers, is not asked at all.
        """
        found = token_logprobs(self.logits(x[mask]).unsqueeze(0), labels[mask].unsqueeze(0))
        return found.new_zeros(labels.shape).masked_scatter(mask, found)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        state: State | None = None,
        tap: Tap = no_tap,
    ) -> Tensor:
        """tokens [B, T] -> the normalised vectors [B, T, D] that the head reads.

        positions [T] or [B, T] count from 0 (default: on from what the state holds). mask [B, T] is True for
        real tokens and False for padding, which no later token looks at; padding on the right needs no mask.
        With a state the tokens continue what it holds, and it takes them in. Raises LabError for more tokens
        than the context when positions are not given; given ones must be below it.
        """
        filled = 0 if state is None else state.filled
        T = tokens.shape[1]
        if positions is None:
            if filled + T > self.config.context:
                raise LabError(f"{filled + T} tokens do not fit in the model's context of {self.config.context}.")
            positions = torch.arange(filled, filled + T, device=tokens.device)
        if state is not None:
            state.remember(mask, positions, T)
            mask, key_positions = state.mask[:, : state.filled], state.positions[:, : state.filled]
        else:
            key_positions = positions
        places = Places(self.position, positions, key_positions)
        x = tap("embedding", self.position.embed(self.embedding(tokens), positions))
        visible = causal_mask(T, filled + T, mask, tokens.device)
        for i, block in enumerate(self.blocks):
            if state is None:
                x, _ = block(x, None, visible, None, places, tap)
            else:
                x, state.blocks[i] = block(x, state.blocks[i], visible, None, places, tap)
        return tap("hidden", self.norm(x))

    def new_state(self, rows: int, length: int) -> State:
        """An empty state for ``rows`` rows of at most ``length`` tokens."""
        places = torch.zeros(rows, length, dtype=torch.int64, device=self.embedding.weight.device)
        blocks = [block.new_state(rows, length) for block in self.blocks if isinstance(block, Block)]
        return State(blocks, places.bool(), places)

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations to train on one token in rows of ``length``: 6 N + 12 · depth · H · E ·
        T.

        PaLM, https://arxiv.org/abs/2204.02311, appendix B. N counts the weights of matrix products: the head
        does, the embedding's look-up does not. Attention is counted in full, as if nothing were masked.
        """
        config = self.config
        matrices = sum(p.numel() for p in self.blocks.parameters() if p.dim() > 1) + config.vocabulary * config.width
        return 6.0 * matrices + 12.0 * config.depth * config.heads * config.head_size * length


def causal_mask(queries: int, keys: int, mask: Tensor | None, device: torch.device) -> Tensor:
    """What to add to scores, [T, S] or [B, T, S]: 0 where a query may look at a key, one that is real and not
    after it, and -1e30 elsewhere.

    The T queries are the last T of the S keys; mask [B, S] is True for real keys, None when all are. The number
    is finite so that a row that sees nothing (padding) does not become NaN.
    """
    causal = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    visible = causal if mask is None else causal & mask.unsqueeze(-2)
    return torch.zeros(visible.shape, device=device).masked_fill(~visible, -1e30)
