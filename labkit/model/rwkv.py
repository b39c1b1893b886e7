"""RWKV-7: a mixer with a state of fixed size, and so a cost a token that does not grow with the text.

RWKV-7 "Goose" with Expressive Dynamic State Evolution, https://arxiv.org/abs/2503.14456. Each head keeps a matrix S
[N, N] from keys to values, and with each token forgets a little (w), takes out what was stored under a key (a, b) and
stores a value under a key:

    S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_tᵀ + v_t k_tᵀ        o_t = S_t r_t
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.configs import Range, check_fields
from labkit.errors import LabError
from labkit.model.context import ForwardContext, token_shift
from labkit.model.initial import register_weight_renames
from labkit.model.mixers import AttentionConfig

CHUNK = 32
"""Tokens that `wkv7_chunked` takes at once: no w is below exp(-1/√e), so their product stays far within fp32."""

Rank = Annotated[int, Range(1, 2**16)]


@dataclass(frozen=True)
class RWKV:
    """ranks: how wide the layers are that work out decay, rate, value and gate, which are products of two thin
    matrices; by the width, as in the authors' code, when None.
    """

    ranks: tuple[Rank, Rank, Rank, Rank] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def check_sizes(self, width: int, config: AttentionConfig) -> None:
        """Raises LabError for heads that do not make up the width."""
        if config.query_heads * config.head_dim != width or config.key_value_heads != config.query_heads:
            raise LabError(
                f"RWKV: heads × head_dim must equal the width, with a key for each head; {config.query_heads} heads of "
                f"{config.head_dim} with {config.key_value_heads} keys do not make {width}."
            )

    def build(self, width: int, config: AttentionConfig, index: int, tap_prefix: str) -> RWKVMixer:
        self.check_sizes(width, config)
        return RWKVMixer(width, config, self.ranks_at_width(width), index, tap_prefix)

    def ranks_at_width(self, width: int) -> tuple[int, int, int, int]:
        """Its own, or those that are usual for the width."""
        return self.ranks or default_ranks(width)


def default_ranks(width: int) -> tuple[int, int, int, int]:
    """The authors' choice (github.com/BlinkDL/RWKV-LM, RWKV-v7): multiples of 32 that grow with the width."""

    def near(size: float) -> int:
        return max(32, 32 * round(size / 32))

    root = math.sqrt(width)
    return near(1.8 * root), near(1.8 * root), near(1.3 * root), near(0.6 * width**0.8)


class RWKVState(NamedTuple):
    """last_input [B, D]: the vector of the token before; wkv_state [B, H, N, N]: each head's S, in fp32."""

    last_input: Tensor
    wkv_state: Tensor

    def select(self, rows: Tensor) -> RWKVState:
        return RWKVState(self.last_input[rows], self.wkv_state[rows])


class TokenShiftLerp(nn.Module):
    """x + (previous - x) · mu: each token mixed with the one before it, learnt for each number."""

    def __init__(self, width: int):
        super().__init__()
        register_weight_renames(self, {"share": "mu"})
        self.mu = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        return x + (previous - x) * self.mu


class LowRank(nn.Module):
    """initial_bias + up activation(down x): a product of two thin matrices."""

    def __init__(self, width: int, rank: int, activation: Callable[[Tensor], Tensor], initial_bias: Tensor | None):
        super().__init__()
        self.f = activation
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        self.start = None if initial_bias is None else nn.Parameter(initial_bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.f(self.down(x)))
        return y if self.start is None else y + self.start


class RWKVMixer(nn.Module):
    """RWKV-7's time mixing; section 4 of the paper. Its channel mixing is `ModelConfig.token_shift` before a `Plain`
    feed-forward with "relu2".

    index: of its block; all but the first mix their values with the first's. xi, alpha, rho, and mu of the token
    shifts: as in the paper (RWKV's own code calls them k_k, k_a, r_k and x_r, …).
    """

    def __init__(
        self, width: int, config: AttentionConfig, ranks: tuple[int, int, int, int], index: int, tap_prefix: str
    ):
        super().__init__()
        register_weight_renames(self, {"removal": "xi", "replacement": "alpha", "bonus": "rho"})
        self.heads, self.head_dim, self.tap_prefix = config.query_heads, config.head_dim, tap_prefix
        decay, rate, value, gate = ranks
        self.shifts = nn.ModuleDict({part: TokenShiftLerp(width) for part in ("r", "w", "k", "v", "a", "g")})
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        # Decays begin spread out over the numbers of each head, from long to short memory.
        self.decay = LowRank(width, decay, torch.tanh, torch.linspace(-6, 1, self.head_dim).repeat(self.heads))
        self.rate = LowRank(width, rate, nn.Identity(), torch.zeros(width))
        self.gate = LowRank(width, gate, torch.sigmoid, None)
        self.mix_values = LowRank(width, value, nn.Identity(), torch.zeros(width)) if index else None
        self.xi = nn.Parameter(torch.full((width,), 0.7))
        self.alpha = nn.Parameter(torch.ones(width))
        self.rho = nn.Parameter(torch.zeros(width))
        self.norm = nn.GroupNorm(self.heads, width, eps=config.head_dim * config.norm_eps)
        self.out = nn.Linear(width, width, bias=False)

    def new_state(self, batch_size: int, max_length: int) -> RWKVState:
        like, N = self.out.weight, self.head_dim
        matrix = like.new_zeros(batch_size, self.heads, N, N, dtype=torch.float32)
        return RWKVState(like.new_zeros(batch_size, self.heads * N), matrix)

    def forward(self, x: Tensor, state: RWKVState | None, context: ForwardContext) -> tuple[Tensor, RWKVState | None]:
        """x [B, T, D] -> [B, T, D], and the state after the T tokens."""
        last, matrix = self.new_state(len(x), 0) if state is None else state
        before, last = token_shift(x, last, context)
        xs = {part: shift(x, before) for part, shift in self.shifts.items()}
        r, k, v = self.receptance(xs["r"]), self.key(xs["k"]), self.value(xs["v"])
        rate = torch.sigmoid(self.rate(xs["a"]).float())
        removed = F.normalize(self._split(k.float() * self.xi), dim=-1)
        k = k.float() * (1 + (rate - 1) * self.alpha)
        if self.mix_values is None:
            context.v_first = v
        else:
            assert context.v_first is not None
            v = v + (context.v_first - v) * torch.sigmoid(self.mix_values(xs["v"]))
        log_w = -math.exp(-0.5) * torch.sigmoid(self.decay(xs["w"]).float())
        r, log_w, k, v = (self._split(t.float()) for t in (r, log_w, k, v))
        moves = WKVInputs(r, log_w, k, v, -removed, removed * self._split(rate))
        y, matrix = wkv7(moves, matrix, context.token_mask, context.document_starts)
        y = context.tap(f"{self.tap_prefix}.read", y)
        gain, bias = self.norm.weight.float(), self.norm.bias.float()
        y = F.group_norm(y.flatten(0, 1).flatten(1), self.heads, gain, bias, self.norm.eps)
        extra = (r * k * self._split(self.rho)).sum(-1, keepdim=True) * v  # [B, T, H, N]
        y = (y.view(x.shape) + extra.flatten(2)).to(x.dtype)
        return self.out(y * self.gate(xs["g"])), None if state is None else RWKVState(last, matrix)

    def _split(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., H, N]."""
        return x.unflatten(-1, (self.heads, self.head_dim))


class WKVInputs(NamedTuple):
    """What each token does to a head's matrix, and asks of it: [B, T, H, N] each, in fp32. log_w: w's logarithm."""

    r: Tensor
    log_w: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor


def wkv7(
    inputs: WKVInputs, state: Tensor, token_mask: Tensor | None = None, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What each token reads [B, T, H, N], and the state [B, H, N, N] after them all.

    token_mask [B, T]: False for padding, which changes nothing. document_starts [B, T]: the state is empty before such
    a token. In fp32, whatever autocast says.
    """
    if token_mask is not None:
        log_w, k, b = (t * token_mask[..., None, None] for t in (inputs.log_w, inputs.k, inputs.b))
        inputs = inputs._replace(log_w=log_w, k=k, b=b)
    form = wkv7_recurrent if inputs.r.shape[1] == 1 else wkv7_chunked
    with torch.autocast(state.device.type, enabled=False):
        return form(inputs, state, document_starts)


def wkv7_recurrent(inputs: WKVInputs, state: Tensor, document_starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """`wkv7` as its equation says it, a token at a time."""
    r, log_w, k, v, a, b = inputs
    read = []
    for t in range(r.shape[1]):
        if document_starts is not None:
            state = state.masked_fill(document_starts[:, t, None, None, None], 0)
        removed = state @ a[:, t].unsqueeze(-1)  # [B, H, N, 1]
        state = state * log_w[:, t].exp().unsqueeze(-2)
        state = state + removed * b[:, t].unsqueeze(-2) + v[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2)
        read.append((state @ r[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(read, 1), state


def wkv7_chunked(inputs: WKVInputs, state: Tensor, document_starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """`wkv7` of `CHUNK` tokens at a time, by products of matrices.

    With P_t the product of the decays up to t, what is removed at t is u_t = S_{t-1} a_t, which is
    S_0 (P_{t-1} a_t) + Σ_{i<t} u_i (b_i/P_i · P_{t-1} a_t) + v_i (k_i/P_i · P_{t-1} a_t): a triangular system of
    equations for all u of the chunk at once. What is read follows, and the state after it.
    """
    read = []
    pieces = [t.transpose(1, 2).split(CHUNK, dim=2) for t in inputs]  # of [B, H, C, N]
    begun = None if document_starts is None else document_starts.split(CHUNK, dim=1)
    for i, chunk in enumerate(zip(*pieces, strict=True)):
        y, state = _chunk(WKVInputs(*chunk), state, None if begun is None else begun[i])
        read.append(y)
    return torch.cat(read, 2).transpose(1, 2), state


def _chunk(moves: WKVInputs, state: Tensor, begins: Tensor | None) -> tuple[Tensor, Tensor]:
    """Moves of [B, H, C, N], state [B, H, N, N] -> what is read [B, H, C, N], and the state after."""
    r, log_w, k, v, a, b = moves
    C = r.shape[2]
    total = log_w.cumsum(2)
    up, down = total.exp(), (-total).exp()
    r, a, k, b = r * up, a * (total - log_w).exp(), k * down, b * down
    kept, carried = up[:, :, -1:], torch.ones((), device=r.device)
    sees = torch.ones(C, C, dtype=torch.bool, device=r.device).tril()
    if begins is not None:
        document = begins.cumsum(1)  # [B, C], 0 for the one that the state is of
        sees = (sees & (document.unsqueeze(2) == document.unsqueeze(1))).unsqueeze(1)  # [B, 1, C, C]
        carried = (document == 0)[:, None, :, None]
    earlier = sees & ~torch.eye(C, dtype=torch.bool, device=r.device)
    removed = (a @ state.transpose(-1, -2)) * carried + (a @ k.transpose(-1, -2) * earlier) @ v
    system = torch.eye(C, device=r.device) - a @ b.transpose(-1, -2) * earlier
    u = torch.linalg.solve_triangular(system, removed, upper=False, unitriangular=True)
    y = (r @ state.transpose(-1, -2)) * carried
    y = y + (r @ b.transpose(-1, -2) * sees) @ u + (r @ k.transpose(-1, -2) * sees) @ v
    if begins is not None:
        latest = sees[:, :, -1].unsqueeze(-1)  # [B, 1, C, 1]: of the last token's document
        u, v, state = u * latest, v * latest, state * carried[:, :, -1:]
    return y, state * kept + u.transpose(-1, -2) @ (b * kept) + v.transpose(-1, -2) @ (k * kept)
