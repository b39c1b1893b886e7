"""What a block does to each token by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.configs import Count, NonNegative, Positive, Range, check_fields
from labkit.errors import LabError
from labkit.losses import load_balancing_loss
from labkit.machine import all_reduce_sum, disable_compile
from labkit.model.taps import Tap, no_tap

IntermediateSize = Annotated[int, Range(1, 2**22)]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's: https://arxiv.org/abs/1606.08415
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),  # Primer, https://arxiv.org/abs/2109.08668
}


@dataclass(frozen=True)
class Gated:
    """The gated feed-forward: GLU Variants Improve Transformer, https://arxiv.org/abs/2002.05202. With "silu" it is
    SwiGLU, with "gelu" GEGLU.

    ``intermediate_size`` is the number of gated units; 8/3 of the width gives as many parameters as a plain one of four
    widths.
    """

    intermediate_size: IntermediateSize
    activation: Activation = "silu"

    shared_fields = ("intermediate_size", "activation")
    older_names = {"intermediate_size": "hidden"}

    def __post_init__(self) -> None:
        check_fields(self)

    def config_for_block(self, index: int) -> Gated:
        """The feed-forward of the block of this number, from 0 on."""
        return self

    def build(self, width: int, bias: bool = False, tap_prefix: str = "") -> GatedFeedForward:
        return GatedFeedForward(self, width, bias)


class GatedFeedForward(nn.Module):
    """x [B, T, D] -> W_down (f(W_gate x) * W_up x) [B, T, D].

    W_gate and W_up are one matrix, gate first: one large product is faster than two small ones.
    """

    def __init__(self, config: Gated, width: int, bias: bool):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gate_up = nn.Linear(width, 2 * config.intermediate_size, bias=bias)
        self.down = nn.Linear(config.intermediate_size, width, bias=bias)

    def forward(self, x: Tensor, tap: Tap = no_tap, token_mask: Tensor | None = None) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.activation(gate) * up)


@dataclass(frozen=True)
class Plain:
    """Two matrices with an activation between them: Attention Is All You Need, 3.3,
    https://arxiv.org/abs/1706.03762.
    """

    intermediate_size: IntermediateSize
    activation: Activation = "gelu"

    shared_fields = ("intermediate_size", "activation")
    older_names = {"intermediate_size": "hidden"}

    def __post_init__(self) -> None:
        check_fields(self)

    def config_for_block(self, index: int) -> Plain:
        """The feed-forward of the block of this number, from 0 on."""
        return self

    def build(self, width: int, bias: bool = False, tap_prefix: str = "") -> PlainFeedForward:
        return PlainFeedForward(self, width, bias)


class PlainFeedForward(nn.Module):
    """x [B, T, D] -> W_down f(W_up x) [B, T, D]."""

    def __init__(self, config: Plain, width: int, bias: bool):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = nn.Linear(width, config.intermediate_size, bias=bias)
        self.down = nn.Linear(config.intermediate_size, width, bias=bias)

    def forward(self, x: Tensor, tap: Tap = no_tap, token_mask: Tensor | None = None) -> Tensor:
        return self.down(self.activation(self.up(x)))


@dataclass(frozen=True)
class MoE:
    """Each token goes to a few of `num_experts`: Mixtral, https://arxiv.org/abs/2401.04088; with ``top_k=1`` and
    ``norm_topk_prob=False`` Switch Transformers, https://arxiv.org/abs/2101.03961.

    expert: what each of them is. norm_topk_prob: let the weights of a token's experts add up to 1. capacity_factor: in
    training an expert takes at most this many times its even share of a row's tokens, the first that come, and the
    others pass by; None drops no token, and evaluation never does. sparse_step: only every so manyth block has experts,
    the second the first of them (all when 1), and the others one `expert` for all tokens. aux_loss_coef: the weight of
    `losses.load_balancing_loss` in training.
    """

    expert: Gated | Plain
    num_experts: Annotated[int, Range(1, 4096)] = 8
    top_k: Count = 2
    norm_topk_prob: bool = True
    capacity_factor: Positive | None = None
    sparse_step: Count = 1
    aux_loss_coef: NonNegative = 0.01

    older_names = {
        "num_experts": "experts",
        "norm_topk_prob": "renormalise",
        "sparse_step": "every",
        "capacity_factor": "capacity",
        "aux_loss_coef": "balance",
    }

    def __post_init__(self) -> None:
        check_fields(self)
        if self.top_k > self.num_experts:
            raise LabError(f"MoE: top_k must be from 1 to the {self.num_experts} experts, not {self.top_k}.")

    @property
    def intermediate_size(self) -> int:
        """Of one expert."""
        return self.expert.intermediate_size

    def config_for_block(self, index: int) -> FeedForward:
        """The feed-forward of the block of this number, from 0 on."""
        return self if index % self.sparse_step == 1 % self.sparse_step else self.expert

    def build(self, width: int, bias: bool = False, tap_prefix: str = "") -> MixtureOfExperts:
        return MixtureOfExperts(self, width, bias, tap_prefix)


class MixtureOfExperts(nn.Module):
    """x [B, T, D] -> sum over a token's experts e of weight_e · expert_e(x) [B, T, D]."""

    def __init__(self, config: MoE, width: int, bias: bool, tap_prefix: str):
        super().__init__()
        self.config, self.tap_prefix = config, tap_prefix
        self.load_balance = torch.zeros(())
        """`load_balancing_loss` of the tokens that were last read."""
        self.router = nn.Linear(width, config.num_experts, bias=False)
        self.experts = nn.ModuleList(config.expert.build(width, bias) for _ in range(config.num_experts))

    @disable_compile  # which tokens go where is known only then, so each step would be compiled anew
    def forward(self, x: Tensor, tap: Tap = no_tap, token_mask: Tensor | None = None) -> Tensor:
        """x [B, T, D] -> [B, T, D]; `load_balance` is then of these tokens, in training of those of all processes.
        token_mask [B, T]: False for padding, which no expert takes and nothing counts.
        """
        logits = F.linear(x.float(), self.router.weight.float())  # a close choice is not left to rounding
        shares = tap(f"{self.tap_prefix}.router", logits.softmax(-1))  # [B, T, experts]
        weights, chosen = shares.topk(self.config.top_k, dim=-1)
        together = self.training and torch.is_grad_enabled()  # elsewhere a process may be alone
        total = (all_reduce_sum,) if together else ()
        self.load_balance = load_balancing_loss(shares, chosen, token_mask, *total)
        if self.config.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        taken = self._taken(chosen, token_mask)  # [B, T, experts]
        by_expert = torch.zeros_like(shares).scatter(-1, chosen, weights) * taken
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            where = taken[..., e]
            y[where] = y[where] + (expert(x[where]) * by_expert[..., e][where].unsqueeze(-1)).to(y.dtype)
        return y

    def _taken(self, chosen: Tensor, token_mask: Tensor | None) -> Tensor:
        """Which expert takes which token: chosen [B, T, top_k], token_mask [B, T] -> [B, T, experts] bool."""
        wanted = F.one_hot(chosen, self.config.num_experts).sum(-2)  # [B, T, experts], 0 or 1
        if token_mask is not None:
            wanted = wanted * token_mask.unsqueeze(-1)
        if self.config.capacity_factor is None or not self.training:
            return wanted.bool()
        even = (
            wanted.sum((1, 2)) / self.config.num_experts
        )  # [B]: of the tokens that a row sends to each of its experts
        room = (self.config.capacity_factor * even).round().clamp(min=1)
        return (wanted * (wanted.cumsum(1) <= room[:, None, None])).bool()


FeedForward = Gated | Plain | MoE
