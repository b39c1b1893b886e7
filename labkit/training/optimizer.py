"""Muon and AdamW as one optimizer, and learning-rate schedules as pure functions of the step.

Muon (Keller Jordan 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by the nearest
orthogonal one, so that every direction of the matrix learns at the same speed. It is meant for the matrices inside
the network; embeddings, the output head, norms and other vectors keep AdamW (Loshchilov & Hutter 2019).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from labkit.training.sharding import is_sharded, local_shard, map_full_tensors

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: steep at zero, so that five steps are enough


def newton_schulz(matrices: Tensor, *, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest (semi-)orthogonal matrix to each of [N, rows, columns], roughly: U V^T of its U S V^T.

    Newton-Schulz iteration of the quintic a x + b x^3 + c x^5, which drives every singular value to between about 0.7
    and 1.2 (Jordan 2024). All N matrices go through one batched product, which is what makes it cheap on a processor.
    """
    a, b, c = _QUINTIC
    X = matrices.to(dtype)
    wide = X.shape[-2] <= X.shape[-1]
    X = X if wide else X.mT  # the short side first: the Gram matrix X X^T is then the small one
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)  # b A + c A^2
        X = torch.baddbmm(X, B, X, beta=a)  # a X + B X
    return (X if wide else X.mT).to(matrices.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """AdamW for every parameter, but Muon for those named in `matrices`; both in one object with one `step`.

    parameters: (name, parameter) pairs, as of `model.named_parameters()`; those that need no gradient are left out.
    matrices: the names that Muon takes, each [rows, columns], or [E, rows, columns] for E matrices (experts). muon_lr:
    Muon's learning rate; adamw_lr: AdamW's. Weight decay is decoupled in both: p <- p (1 - lr weight_decay), and spares
    vectors (norms, biases). dtype: of the Newton-Schulz products.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        matrices: Iterable[str] = (),
        *,
        muon_lr: float,
        adamw_lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        dtype: torch.dtype = torch.bfloat16,
    ):
        self.named = {name: p for name, p in parameters if p.requires_grad}
        chosen = set(matrices) & set(self.named)
        rest = [p for name, p in self.named.items() if name not in chosen]
        muon = {"kind": "muon", "lr": muon_lr, "weight_decay": weight_decay, "momentum": momentum, "dtype": dtype}
        adam = {"kind": "adamw", "lr": adamw_lr, "betas": betas, "eps": eps}
        groups = [
            {**muon, "params": [p for name, p in self.named.items() if name in chosen]},
            {**adam, "params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {**adam, "params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], {})
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]
            for p in group["params"]:
                self.state[p] = _fresh_state(group["kind"], p)

    def set_lr_scale(self, scale: float) -> None:
        """Set each group's learning rate to `scale` times the one that it was built with."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * scale

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient. `closure` is not used: losses are computed by `fit`."""
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            if used:
                (self._muon if group["kind"] == "muon" else self._adamw)(used, group)

    def _muon(self, params: list[Tensor], group: dict) -> None:
        """M <- mu M + (1 - mu) G; p <- p - lr max(1, rows / columns)^(1/2) orthogonalize((1 - mu) G + mu M)."""
        mu, lr = group["momentum"], group["lr"]
        gradients = [local_shard(p.grad) for p in params if p.grad is not None]
        momenta = [local_shard(self.state[p]["momentum"]) for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - mu)
        nesterov = torch._foreach_lerp(gradients, momenta, mu)
        torch._foreach_mul_([local_shard(p) for p in params], 1 - lr * group["weight_decay"])
        orthogonal = self._orthogonal_shares if is_sharded(params[0]) else self._orthogonal
        for p, update in zip(params, orthogonal(params, nesterov, group["dtype"]), strict=True):
            local_shard(p).add_(update, alpha=-lr * math.sqrt(max(1.0, p.shape[-2] / p.shape[-1])))

    @staticmethod
    def _orthogonal(params: Sequence[Tensor], updates: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """The nearest orthogonal matrices to the updates of `params`; those of one shape in one batch."""
        by_shape = defaultdict(list)  # short side first, so that up- and down-projections share a batch
        for at, (p, update) in enumerate(zip(params, updates, strict=True)):
            flat = update.reshape(-1, *p.shape[-2:])
            turned = p.shape[-2] > p.shape[-1]
            by_shape[_sides(p)].append((at, turned, flat.mT if turned else flat))
        found = list(updates)
        for members in by_shape.values():
            stacked = newton_schulz(torch.cat([flat for *_, flat in members]), dtype=dtype)
            sizes = [len(flat) for *_, flat in members]
            for (at, turned, _), update in zip(members, stacked.split(sizes), strict=True):
                found[at] = (update.mT if turned else update).reshape(updates[at].shape)
        return found

    @staticmethod
    def _orthogonal_shares(params: Sequence[Any], updates: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """The same of shards: each matrix is gathered on one process, which computes its update."""

        def orthogonal(whole: Tensor) -> Tensor:
            return newton_schulz(whole.reshape(-1, *whole.shape[-2:]), dtype=dtype).reshape(whole.shape)

        return map_full_tensors(updates, params, orthogonal)

    def _adamw(self, params: list[Tensor], group: dict) -> None:
        """m, v <- moving averages of G, G^2; p <- p (1 - lr wd) - lr m' / (v'^(1/2) + eps), m' and v' unbiased."""
        states = [self.state[p] for p in params]
        adamw(
            [local_shard(p) for p in params],
            [local_shard(p.grad) for p in params if p.grad is not None],
            [local_shard(state["mean"]) for state in states],
            [local_shard(state["square"]) for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that the optimizer remembers, by "parameter/entry", ready for safetensors."""
        return {
            f"{name}/{entry}": value.contiguous()
            for name, p in self.named.items()
            for entry, value in self.state[p].items()
        }

    def load_tensors(self, tensors: dict[str, Tensor], current_to_older: Mapping[str, str] | None = None) -> None:
        """Take back what `tensors` gave. current_to_older: what parameters were called then, by their names of today.
        Raises KeyError when a parameter's entry is not there.
        """
        for name, p in self.named.items():
            saved = (current_to_older or {}).get(name, name)
            saved = saved if any(f"{saved}/{entry}" in tensors for entry in self.state[p]) else name
            for entry, value in self.state[p].items():
                value.copy_(tensors[f"{saved}/{entry}"])


def _fresh_state(kind: str, p: Tensor) -> dict[str, Tensor]:
    if kind == "muon":
        return {"momentum": torch.zeros_like(p)}
    step = torch.zeros((), dtype=torch.float32, device=p.device)
    return {"mean": torch.zeros_like(p), "square": torch.zeros_like(p), "step": step}


def _sides(p: Tensor) -> tuple[int, int]:
    """(short, long) side of the matrix or matrices in p [..., rows, columns]."""
    short, long = sorted(p.shape[-2:])
    return short, long


def muon_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters for Muon: matrices that are neither an embedding nor an output head.

    A head is known by its name: a module called `head`, or whose name ends in `_head`.
    """
    outside = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [
        name
        for name, p in model.named_parameters()
        if p.ndim in (2, 3)
        and min(p.shape[-2:]) > 1
        and id(p) not in outside
        and not any(part == "head" or part.endswith("_head") for part in name.split("."))
    ]


def cosine_schedule(step: int, *, steps: int, warmup_steps: int = 0, final_scale: float = 0.0) -> float:
    """Scale of the learning rate at `step` of `steps`: linear warm-up, then half a cosine from 1 down to `final_scale`.

    Loshchilov & Hutter 2017, without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return final_scale + (1 - final_scale) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_stable_decay(
    step: int, *, steps: int, warmup_steps: int = 0, decay_fraction: float = 0.4, final_scale: float = 0.0
) -> float:
    """Scale of the learning rate at `step` of `steps`: linear warm-up, 1, then linear to `final_scale`.

    The descent takes the last `decay_fraction` share of the steps (Hu et al. 2024, MiniCPM). The same run can be
    stopped and decayed at any length, since the scale before the descent does not depend on `steps`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = (steps - step) / max(1.0, decay_fraction * steps)
    return final_scale + (1 - final_scale) * min(1.0, left)
