"""What one training step takes of each of several processes: memory by what it is for, and work.

One process and DDP: the whole model, and under DDP a second copy of the gradients, in the buckets that are summed over
the processes. FSDP2: shares of weights, gradients and optimizer state; and whole, while they are needed, the weights
and gradients of one block (of the next one too, which is gathered meanwhile), and all of what is outside the blocks
(embedding, head, last norm). As in torch's fully_shard (Zhao et al. 2023, https://arxiv.org/abs/2304.11277).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labkit.model.blocks import Block
from labkit.training.config import Objective, TrainConfig, build_optimizer
from labkit.training.cost import CostCounter, Work
from labkit.training.engine import checkpoint_activations
from labkit.training.optimizer import MuonAdamW, newton_schulz
from labkit.training.processes import ParallelConfig
from labkit.training.sharding import rows_per_shard

ALONE = ParallelConfig()


class StepCost(NamedTuple):
    """Of each process, in bytes. communication_bytes: the most that is gathered or summed, beside what a process holds
    anyway. peak_bytes: the most at any moment. work: of a whole step; sent_bytes: what each process sends in it.
    """

    parameter_bytes: float
    gradient_bytes: float
    optimizer_state_bytes: float
    communication_bytes: float
    peak_bytes: float
    work: Work
    sent_bytes: float

    @property
    def activation_bytes(self) -> float:
        """What the peak has beside the rest: what the forward pass keeps, and what the passes need for a moment."""
        return max(0.0, self.peak_bytes - sum(self[:4]))


def count_step(
    model: nn.Module,
    batch: Any,
    objective: Objective,
    config: TrainConfig,
    *,
    parallel: ParallelConfig = ALONE,
    processes: int = 1,
    bf16: bool = False,
    mask_true_share: float = 1.0,
) -> StepCost:
    """Count a step of `fit` on a model with fake weights, inside `fake_tensors`.

    batch: one process's. bf16: whether products are in it. mask_true_share: see `CostCounter`.
    """
    sharded = processes > 1 and parallel.strategy == "fsdp"
    own = processes if sharded else 1
    if parallel.activation_checkpointing:
        checkpoint_activations(model)
    optimizer = build_optimizer(model, config, torch.bfloat16 if bf16 else torch.float32)
    state, held = sum(share_bytes(value, own) for value in optimizer.tensors().values()), model_bytes(model, own)
    buckets = held if processes > 1 and not sharded else 0
    counter = CostCounter(mask_true_share)
    for tensor in (*model.parameters(), *model.buffers(), *optimizer.tensors().values()):
        counter.track_tensor(tensor, 0)
    counter.change_live_bytes(held + state + buckets)
    gathered = GatheredWeights(model, counter, processes) if sharded else None
    with counter, counter.even_routing(model), gathered or nullcontext():
        once = _count_passes(counter, model, batch, objective, config, bf16, gathered)
        update = _count_update(counter, model, optimizer) if gathered is None else Work()
    if gathered is not None:
        update = gathered.count_update(optimizer)
    work = Work().plus(once, config.gradient_accumulation_steps).plus(update)
    communication = gathered.most if gathered else buckets
    exchanged = _exchanges(config, processes, sharded) * model_bytes(model)
    sent = sent_bytes(exchanged, processes)
    return StepCost(held, held, state, communication, counter.peak_bytes, work.plus(copied(exchanged)), sent)


def model_bytes(model: nn.Module, processes: int = 1) -> int:
    """Of a model's weights, or of the share of them that each process holds."""
    return sum(share_bytes(p, processes) for p in model.parameters())


def share_bytes(tensor: Tensor, processes: int = 1) -> int:
    """Of a tensor, or of the rows of it that each process holds: as many, rounded up."""
    rows = tensor.shape[0] if tensor.ndim else 1
    return rows_per_shard(rows, processes) * tensor.numel() // max(1, rows) * tensor.element_size()


def _count_passes(
    counter: CostCounter,
    model: nn.Module,
    batch: Any,
    objective: Objective,
    config: TrainConfig,
    bf16: bool,
    gathered: GatheredWeights | None,
) -> Work:
    """Of one batch, forward and backward. Where there are several, the second finds the gradients of the first."""
    for _ in range(min(2, config.gradient_accumulation_steps)):
        before = counter.work
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss_sum = objective(model, batch)[0]
        loss_sum.backward()
        del loss_sum
        if gathered:
            gathered.reduce_scatter_gradients(gathered.outside)
    return counter.work.plus(before, -1)


def _count_update(counter: CostCounter, model: nn.Module, optimizer: MuonAdamW) -> Work:
    """The norm of the gradients, their scaling, and the optimizer's step."""
    before = counter.work
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    torch.nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, 0.5)
    optimizer.step()
    return counter.work.plus(before, -1)


def _exchanges(config: TrainConfig, processes: int, sharded: bool) -> int:
    """How often a process has a number of each weight to gather, or to add up, in a step: FSDP gathers weights twice
    and adds up gradients once for each batch, DDP's sum of the last is one of each.
    """
    if processes == 1:
        return 0
    return 3 * config.gradient_accumulation_steps if sharded else 2


def sent_bytes(size: float, processes: int) -> float:
    """What each process of a ring sends, to gather or to add up so many bytes."""
    return size * (processes - 1) / processes


def copied(size: float) -> Work:
    """What is exchanged goes through a buffer: one more copy, read and written."""
    return Work(0, 2 * size, 0)


class GatheredWeights(AbstractContextManager["GatheredWeights"]):
    """FSDP2's memory beside the shares, by hooks where fully_shard has its own. most: bytes gathered at once."""

    def __init__(self, model: nn.Module, counter: CostCounter, processes: int):
        self.model, self.counter, self.processes = model, counter, processes
        self.blocks = [module for module in model.modules() if isinstance(module, Block)]
        inside = {id(p) for block in self.blocks for p in block.parameters()}
        self.outside = [p for p in model.parameters() if id(p) not in inside]
        self.now = self.most = 0
        self.backward: nn.Module | None = None
        self.hooks: list[Any] = []

    def add_gathered_bytes(self, num_bytes: int) -> None:
        """Of what is gathered, so many bytes more, or fewer."""
        self.now += num_bytes
        self.most = max(self.most, self.now)
        self.counter.change_live_bytes(num_bytes)

    def __enter__(self) -> GatheredWeights:
        self.add_gathered_bytes(sum(map(share_bytes, self.outside)))
        for block in self.blocks:
            self.hooks += [
                block.register_forward_pre_hook(lambda module, given: self._gather(module)),
                block.register_forward_hook(lambda module, given, made: self._free_gathered(module)),
                block.register_full_backward_pre_hook(lambda module, given: self._gather(module, for_backward=True)),
            ]
            left = _Countdown(list(block.parameters()), self._block_done)
            self.hooks += [p.register_post_accumulate_grad_hook(left) for p in block.parameters()]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _gather(self, block: nn.Module, for_backward: bool = False) -> None:
        """Once for what is received, and once for the weights that are made of it."""
        if self.backward is None:  # else they are there, for a forward pass that is computed again
            self.add_gathered_bytes(2 * model_bytes(block))
        self.backward = block if for_backward else self.backward

    def _free_gathered(self, block: nn.Module) -> None:
        if self.backward is None:
            self.add_gathered_bytes(-2 * model_bytes(block))

    def _block_done(self, parameters: Sequence[Tensor]) -> None:
        self.reduce_scatter_gradients(parameters)
        self.add_gathered_bytes(-2 * sum(map(share_bytes, parameters)))
        self.backward = None

    def reduce_scatter_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Gradients are copied together, summed over the processes, and a share of the sum is kept."""
        whole = sum(map(share_bytes, parameters))
        self.add_gathered_bytes(whole)
        self.counter.change_live_bytes(sum(share_bytes(p, self.processes) for p in parameters))
        for p in parameters:
            p.grad = None
        self.add_gathered_bytes(-whole)

    def count_update(self, optimizer: MuonAdamW) -> Work:
        """Shares are updated where they are; Muon's matrices are gathered, one on each process at a time."""
        alone = CostCounter()
        for p in self.model.parameters():
            p.grad = torch.empty_like(p)
        with alone:
            work = _count_update(alone, self.model, optimizer)
        matrices = [p for group in optimizer.param_groups if group["kind"] == "muon" for p in group["params"]]
        if matrices:
            largest = CostCounter()
            with largest:
                matrix = torch.empty_like(max(matrices, key=Tensor.numel))
                newton_schulz(matrix.reshape(-1, *matrix.shape[-2:]))
            updates = 2 * sum(share_bytes(p, self.processes) for p in matrices)
            self.counter.change_live_bytes(updates + largest.peak_bytes)
            self.counter.change_live_bytes(-updates - largest.peak_bytes)
        norm = 9 * model_bytes(self.model)  # in double precision: read 4, write 8, read 8, write 8, read 8 for each 4
        return Work().plus(work.plus(Work(0, norm, 0)), 1 / self.processes)


class _Countdown:
    """A hook of several parameters, which calls `done` once each of them has its gradient."""

    def __init__(self, parameters: Sequence[Tensor], done: Callable[[Sequence[Tensor]], None]):
        self.parameters, self.done, self.left = parameters, done, len(parameters)

    def __call__(self, p: Tensor) -> None:
        self.left -= 1
        if not self.left:
            self.left = len(self.parameters)
            self.done(self.parameters)
