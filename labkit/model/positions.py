"""How a model knows the order of its tokens.

An encoding is a module with four hooks that do nothing by default; each paper's encoding overrides the one
that it changes, and attention calls all four without asking which encoding it has. Positions are tensors, so
rows of unequal length (padded on the left) and packed rows work alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from labkit.configs import Range, check_fields
from labkit.errors import LabError
from labkit.model.rotary_scaling import LinearScaling, Llama3Scaling, YaRN

Distance = Annotated[int, Range(1, 2**20)]


class ModelSizes(NamedTuple):
    """What an encoding needs to know of its model. causal: no token sees a later one. head_dim: E."""

    context: int
    width: int
    heads: int
    head_dim: int
    causal: bool = True


class PositionConfig:
    """A kind of encoding that goes with every model; what does not overrides this."""

    def check_sizes(self, sizes: ModelSizes) -> None:
        """Raises LabError, which names the settings, for a model that it does not go with."""


class PositionEncoding(nn.Module):
    """The hooks that a position encoding may override; as it is, the encoding of a model that knows no order."""

    reads_weights = False
    """Whether `value_term` is anything, for which attention's weights are needed."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Change the embedded tokens x [B, T, D], once, before the first block."""
        return x

    def rotate_before_transpose(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Change queries q [B, T, H, E] and keys k [B, T, K, E] in every attention, before the keys are
        cached.
        """
        return q, k

    def bias(self, q: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """What to add to the attention scores, broadcast to [B, H, T, S], or None. q [B, H, T, E] is scaled as
        the scores are.
        """
        return None

    def value_term(self, weights: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """What to add to attention's output [B, H, T, E], given its weights [B, H, T, S], or None."""
        return None


class AttentionPositions(NamedTuple):
    """An encoding with the positions of one call: query_positions [(B,) T] and key_positions [(B,) S], S counting
    cached keys too.
    """

    encoding: PositionEncoding
    query_positions: Tensor
    key_positions: Tensor

    def rotate_before_transpose(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoding.rotate_before_transpose(q, k, self.query_positions)

    def bias(self, q: Tensor) -> Tensor | None:
        return self.encoding.bias(q, self.query_positions, self.key_positions)

    def value_term(self, weights: Tensor) -> Tensor | None:
        return self.encoding.value_term(weights, self.query_positions, self.key_positions)


def relative_positions(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """How far each key stands after each query, negative for one before it: [(B,) T], [(B,) S] -> [(B,) T, S]."""
    return key_positions.unsqueeze(-2) - query_positions.unsqueeze(-1)


@dataclass(frozen=True)
class NoPosition(PositionConfig):
    """No encoding at all: a causal model can still tell how much came before (https://arxiv.org/abs/2203.16634)."""

    def build(self, sizes: ModelSizes) -> PositionEncoding:
        return PositionEncoding()


# Added to the embedding


@dataclass(frozen=True)
class Learned(PositionConfig):
    """A vector for each position, learnt: as in GPT-2 and BERT."""

    def build(self, sizes: ModelSizes) -> LearnedEncoding:
        return LearnedEncoding(sizes.context, sizes.width)


class LearnedEncoding(PositionEncoding):
    """x + table[position]."""

    def __init__(self, context: int, width: int):
        super().__init__()
        self.table = nn.Embedding(context, width)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table(positions)


@dataclass(frozen=True)
class Sinusoidal(PositionConfig):
    """Sines and cosines of fixed wavelengths: Attention Is All You Need, 3.5, https://arxiv.org/abs/1706.03762."""

    def check_sizes(self, sizes: ModelSizes) -> None:
        if sizes.width % 2:
            raise LabError(f"Sinusoidal needs an even width, not {sizes.width}.")

    def build(self, sizes: ModelSizes) -> SinusoidalEncoding:
        self.check_sizes(sizes)
        return SinusoidalEncoding(sizes.context, sizes.width)


class SinusoidalEncoding(PositionEncoding):
    """x + table[position], with table[p, 2i] = sin(p / 10000^(2i/D)) and table[p, 2i + 1] the cosine of it."""

    table: Tensor

    def __init__(self, context: int, width: int):
        super().__init__()
        angles = _angles(10_000.0, context, width)
        self.register_buffer("table", torch.stack((angles.sin(), angles.cos()), -1).flatten(1), persistent=False)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table[positions]


# Turning queries and keys


@dataclass(frozen=True)
class Rotary(PositionConfig):
    """Rotary position embedding: RoFormer, https://arxiv.org/abs/2104.09864.

    scaling: how a model is used beyond the context that it was trained with; None as it was trained.
    """

    base: Annotated[float, Range(1, 1e12, exclude_low=True)] = 10_000.0
    scaling: LinearScaling | Llama3Scaling | YaRN | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def check_sizes(self, sizes: ModelSizes) -> None:
        if sizes.head_dim % 2:
            raise LabError(
                "Rotary rotates pairs of dimensions, so head_dim (or width / heads) must be even, not "
                f"{sizes.head_dim} (width {sizes.width} and {sizes.heads} heads)."
            )

    def build(self, sizes: ModelSizes) -> RotaryEncoding:
        self.check_sizes(sizes)
        return RotaryEncoding(self, sizes.context, sizes.head_dim)


class RotaryEncoding(PositionEncoding):
    """Turn the pair (x_i, x_{i + E/2}) at position p by the angle p · base^(-2i/E).

    A score q·k then depends on the distance between the two positions alone. Pairs are half a head apart, as
    in Llama's and Qwen's checkpoints; the paper pairs neighbours, which is the same up to the order of the
    numbers.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Rotary, context: int, head_dim: int):
        super().__init__()
        frequencies, attention_factor = rotary_frequencies(config.base, head_dim), 1.0
        if config.scaling is not None:
            frequencies, attention_factor = config.scaling.scale_frequencies(frequencies, config.base)
        angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)  # [context, E/2]
        self.register_buffer("cos", angles.cos() * attention_factor, persistent=False)
        self.register_buffer("sin", angles.sin() * attention_factor, persistent=False)

    def rotate_before_transpose(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)  # [(B,) T, 1, E/2]
        return apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of x [B, T, H, E]: (a, b) -> (a cos - b sin, b cos + a sin)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def rotary_frequencies(base: float, head_dim: int) -> Tensor:
    """base^(-2i/width) for each pair i: [width / 2]."""
    return base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def _angles(base: float, context: int, width: int) -> Tensor:
    """The angle of each position and pair: [context, width / 2]."""
    return torch.outer(torch.arange(context, dtype=torch.float32), rotary_frequencies(base, width))


# Added to the scores


@dataclass(frozen=True)
class ALiBi(PositionConfig):
    """Scores fall with the distance, each head at its own rate: Train Short, Test Long,
    https://arxiv.org/abs/2108.12409.
    """

    def build(self, sizes: ModelSizes) -> ALiBiEncoding:
        return ALiBiEncoding(sizes.heads)


class ALiBiEncoding(PositionEncoding):
    """score - m_h · distance, with m_h a geometric sequence that ends at 2^-8."""

    slopes: Tensor

    def __init__(self, heads: int):
        super().__init__()
        self.register_buffer("slopes", torch.tensor(_slopes(heads)).view(-1, 1, 1), persistent=False)

    def bias(self, q: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = relative_positions(query_positions, key_positions).abs().unsqueeze(-3)  # [(B,) 1, T, S]
        return (-self.slopes * distance).to(q.dtype)


def _slopes(heads: int) -> list[float]:
    """The paper's rates, and its authors' code's where the heads are no power of two: those of the power below, and
    between them every other one of the power above.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]


@dataclass(frozen=True)
class T5Buckets(PositionConfig):
    """A learnt number for each head and range of distances: T5, https://arxiv.org/abs/1910.10683, 2.1.

    num_buckets: how many ranges; near distances have one each, those up to `max_distance` share the rest, evenly in
    their logarithm.
    """

    num_buckets: Annotated[int, Range(4, 2**20)] = 32
    max_distance: Distance = 128

    shared_fields = ("max_distance",)
    older_names = {"num_buckets": "buckets", "max_distance": "furthest"}

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_buckets % 4:
            raise LabError(f"T5Buckets: num_buckets must be a multiple of 4, not {self.num_buckets}.")

    def check_sizes(self, sizes: ModelSizes) -> None:
        near = self.num_exact_buckets(sizes.causal)
        if self.max_distance <= near:
            raise LabError(
                f"T5Buckets: distances below {near} have one of the {self.num_buckets} buckets each, so max_distance "
                f"must be above {near}, not {self.max_distance}; or use fewer buckets."
            )

    def build(self, sizes: ModelSizes) -> T5BucketsEncoding:
        self.check_sizes(sizes)
        return T5BucketsEncoding(self, sizes.heads, sizes.causal)

    def num_exact_buckets(self, causal: bool) -> int:
        """How many distances have a bucket of their own, to each side where the model is not causal."""
        return self.num_buckets // (2 if causal else 4)


class T5BucketsEncoding(PositionEncoding):
    """score + table[bucket(distance), h], the same table in every layer."""

    def __init__(self, config: T5Buckets, heads: int, causal: bool):
        super().__init__()
        self.config, self.causal = config, causal
        self.table = nn.Embedding(config.num_buckets, heads)

    def bias(self, q: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        bucket = self.relative_position_bucket(relative_positions(query_positions, key_positions))  # [(B,) T, S]
        return self.table(bucket).movedim(-1, -3).to(q.dtype)

    def relative_position_bucket(self, relative_position: Tensor) -> Tensor:
        """The bucket of each key position - query position; a causal model has none after the query, any other one half
        for them.
        """
        buckets, after = self.config.num_buckets, torch.zeros_like(relative_position)
        if self.causal:
            away = (-relative_position).clamp(min=0)
        else:
            buckets //= 2
            after, away = (relative_position > 0) * buckets, relative_position.abs()
        near = self.config.num_exact_buckets(self.causal)
        share = torch.log(away.float().clamp(min=1) / near) / math.log(self.config.max_distance / near)
        far = (near + (share * (buckets - near)).long()).clamp(max=buckets - 1)
        return after + torch.where(away < near, away, far)


@dataclass(frozen=True)
class Shaw(PositionConfig):
    """A learnt vector for each distance up to `max_distance`, beside keys and values: Self-Attention with Relative
    Position Representations, https://arxiv.org/abs/1803.02155.
    """

    max_distance: Distance = 16

    shared_fields = ("max_distance",)
    older_names = {"max_distance": "furthest"}

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, sizes: ModelSizes) -> ShawEncoding:
        return ShawEncoding(self.max_distance, sizes.head_dim)


class ShawEncoding(PositionEncoding):
    """score + q · keys[clip(distance)] and output + sum of weight · values[clip(distance)], the same vectors in every
    head and layer.
    """

    reads_weights = True

    def __init__(self, max_distance: int, head_dim: int):
        super().__init__()
        self.max_distance = max_distance
        self.keys = nn.Embedding(2 * max_distance + 1, head_dim)
        self.values = nn.Embedding(2 * max_distance + 1, head_dim)

    def _index(self, query_positions: Tensor, key_positions: Tensor, like: Tensor) -> Tensor:
        """Which vector belongs to each pair, [B, H, T, S]; like: [B, H, …]."""
        index = (
            relative_positions(query_positions, key_positions).clamp(-self.max_distance, self.max_distance)
            + self.max_distance
        )
        return index.expand(like.shape[0], *index.shape[-2:]).unsqueeze(1).expand(-1, like.shape[1], -1, -1)

    def bias(self, q: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        by_distance = q @ self.keys.weight.to(q.dtype).T  # [B, H, T, 2 max_distance + 1]
        return by_distance.gather(-1, self._index(query_positions, key_positions, q))

    def value_term(self, weights: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        index = self._index(query_positions, key_positions, weights)
        by_distance = weights.new_zeros(*weights.shape[:-1], 2 * self.max_distance + 1).scatter_add(-1, index, weights)
        return by_distance @ self.values.weight.to(weights.dtype)


Position = Rotary | NoPosition | Learned | Sinusoidal | ALiBi | T5Buckets | Shaw
