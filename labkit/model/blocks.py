"""Blocks, stacks of them, and what they remember of the tokens so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from labkit.errors import LabError
from labkit.model.context import ForwardContext, MixerState, token_shift
from labkit.model.mixers import CrossAttention, KVCache
from labkit.model.rwkv import TokenShiftLerp

if TYPE_CHECKING:
    from labkit.model.transformer import ModelConfig


class BlockState(NamedTuple):
    """What a block remembers: its mixer's state, and the vector before, `last_input` [B, D], for its token shift."""

    mixer: MixerState
    last_input: Tensor | None = None

    def select(self, rows: Tensor) -> BlockState:
        """Keep the given rows only (a copy); rows [B'] of int64."""
        return BlockState(self.mixer.select(rows), None if self.last_input is None else self.last_input[rows])

    def truncate(self, length: int) -> BlockState:
        """What it was when it held so many tokens. Raises LabError where only a summary of them is kept."""
        if not isinstance(self.mixer, KVCache) or self.last_input is not None:
            raise LabError("This model has a recurrent state, from which no token can be removed.")
        return BlockState(self.mixer.truncate(length))


@dataclass
class State:
    """What a model remembers of the tokens so far, changed in place as tokens come.

    blocks: one state a block; mask [B, L]: True where the remembered token is real, not padding;
    positions [B, L]; length: how many of the L places are in use.
    """

    blocks: list[BlockState]
    mask: Tensor
    positions: Tensor
    length: int = 0

    def append_positions(self, mask: Tensor | None, positions: Tensor, num_new_tokens: int) -> None:
        """Note that ``num_new_tokens`` = T tokens come next, with their mask [B, T] (None: all are real) and positions
        [(B,) T]. Raises LabError where there is no room for them.
        """
        end = self.length + num_new_tokens
        if end > self.mask.shape[1]:
            raise LabError(f"The state has room for {self.mask.shape[1]} tokens and cannot take {end}.")
        self.mask[:, self.length : end] = True if mask is None else mask
        self.positions[:, self.length : end] = positions
        self.length = end

    def truncate(self, length: int) -> None:
        """Be again what it was with so many tokens. Raises LabError for a mixer that cannot."""
        self.blocks = [block.truncate(length) for block in self.blocks]
        self.length = length

    def select(self, rows: Tensor) -> State:
        """Keep the given rows only (a copy); rows [B'] of int64."""
        blocks = [block.select(rows) for block in self.blocks]
        return State(blocks, self.mask[rows], self.positions[rows], self.length)


class Block(nn.Module):
    """A mixer, attention to an encoder where there is one, and a feed-forward, each added to what it has read."""

    def __init__(self, config: ModelConfig, index: int, tap_prefix: str, cross: bool):
        super().__init__()
        self.tap_prefix, self.post = tap_prefix, config.norm_placement == "post"
        self.mixer_norm = config.new_norm()
        self.mixer = config.mixer.build(config.width, config.attention_config, index, f"{tap_prefix}.attention")
        self.cross = (
            CrossAttention(config.width, config.attention_config, tap_prefix=f"{tap_prefix}.cross") if cross else None
        )
        self.cross_norm = config.new_norm() if cross else None
        self.feed_forward_norm = config.new_norm()
        self.shift = TokenShiftLerp(config.width) if config.token_shift else None
        feed_forward = config.feed_forward.config_for_block(index)
        self.feed_forward = feed_forward.build(config.width, config.bias, f"{tap_prefix}.feed_forward")

    def new_state(self, batch_size: int, max_length: int) -> BlockState:
        """An empty state for rows of at most ``max_length`` tokens."""
        last = None if self.shift is None else self.shift.mu.new_zeros(batch_size, len(self.shift.mu))
        return BlockState(self.mixer.new_state(batch_size, max_length), last)

    def forward(self, x: Tensor, state: BlockState | None, context: ForwardContext) -> tuple[Tensor, BlockState | None]:
        """x [B, T, D] -> [B, T, D], and the state with these tokens."""
        tap, mixer_state, last = context.tap, None, None
        if state is not None:
            mixer_state, last = state
        mixed, mixer_state = self.mixer(self._read(x, self.mixer_norm), mixer_state, context)
        x = self._left(x + tap(f"{self.tap_prefix}.attention.output", mixed), self.mixer_norm)
        if self.cross is not None and self.cross_norm is not None:
            assert context.memory is not None
            crossed = self.cross(self._read(x, self.cross_norm), context.memory, tap)
            x = self._left(x + tap(f"{self.tap_prefix}.cross.output", crossed), self.cross_norm)
        read = self._read(x, self.feed_forward_norm)
        if self.shift is not None:
            before, last = token_shift(
                read, read.new_zeros(len(read), read.shape[-1]) if last is None else last, context
            )
            read = self.shift(read, before)
        made = self.feed_forward(read, tap, context.token_mask)
        x = self._left(x + tap(f"{self.tap_prefix}.feed_forward.output", made), self.feed_forward_norm)
        return tap(f"{self.tap_prefix}.output", x), None if mixer_state is None else BlockState(mixer_state, last)

    def _read(self, x: Tensor, norm: nn.Module) -> Tensor:
        return x if self.post else norm(x)

    def _left(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x) if self.post else x


class Stack(nn.Module):
    """Blocks one after the other, the encoding of positions that they share, and a norm of what they leave."""

    def __init__(self, config: ModelConfig, depth: int, *, causal: bool, cross: bool, tap_prefix: str = ""):
        super().__init__()
        self.init_stack(config, depth, causal, cross, tap_prefix)

    def init_stack(self, config: ModelConfig, depth: int, causal: bool, cross: bool, tap_prefix: str = "") -> None:
        """What `__init__` does, for a stack that has parts before these. tap_prefix: of its taps, with a dot at its
        end.
        """
        self.causal = causal
        self.position = config.new_position(causal)
        self.blocks = nn.ModuleList(Block(config, i, f"{tap_prefix}blocks.{i}", cross) for i in range(depth))
        self.norm = config.new_norm() if config.norm_placement == "pre" else nn.Identity()

    def run_blocks_and_norm(self, x: Tensor, state: State | None, context: ForwardContext) -> Tensor:
        """Embedded tokens x [B, T, D] -> what the last block leaves, normalised [B, T, D]."""
        for i, block in enumerate(self.blocks):
            if state is None:
                x, _ = block(x, None, context)
            else:
                x, state.blocks[i] = block(x, state.blocks[i], context)
        return self.norm(x)
