"""The engines of several processes: each holds a copy of the model (DDP), or a shard of it (FSDP2)."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from labkit.model.blocks import Block
from labkit.training.config import Objective
from labkit.training.engine import Engine, LossOutput, detach_output
from labkit.training.sharding import gather_to, local_shard

R = TypeVar("R")
_M_MMAP_THRESHOLD = -3  # of mallopt(3)
MMAP_THRESHOLD = 1 << 16


class Replicated(Engine):
    """DDP: every process holds the whole model."""

    def __init__(self, model: nn.Module, device: torch.device):
        super().__init__(model)
        self.root = DistributedDataParallel(
            _Root(model),
            device_ids=[device] if device.type == "cuda" else None,
            forward_sync_buffers=False,
            find_unused_parameters=True,  # those that no process used are left without a gradient
        )
        self.root.register_comm_hook(None, _summed)

    def backward(self, objective: Objective, batch: Any, last_micro_batch: bool) -> LossOutput:
        with nullcontext() if last_micro_batch else self.root.no_sync():
            found = self.root(_objective, objective, batch)
            found[0].backward()
        return detach_output(found)


class Sharded(Engine):
    """FSDP2: every process holds a shard of each parameter, of its gradient and of its optimizer state.

    The memory of `model`'s own weights is freed until `gather_full_weights_to_main_process`; a copy of its modules
    holds the shards. Each block is moved to the device, sharded and freed before the next one is; at the end each
    weight is gathered by itself, to the main process's CPU. So a device holds the whole model at no time.
    """

    gathers = True

    def __init__(self, model: nn.Module, device: torch.device, bf16: bool, cpu_offload: bool):
        weights = {id(p): p for p in model.parameters()}
        super().__init__(copy.deepcopy(model, dict(weights)))  # modules are copied, weights are not
        self.given, self.device = model, device
        if device.type == "cpu":
            set_mmap_threshold(MMAP_THRESHOLD)
        root = _Root(self.model, bf16)
        self.scalars = [p for p in root.parameters() if p.ndim == 0]  # which have no dimension to be split along
        options: Any = {
            "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
            "offload_policy": CPUOffloadPolicy() if cpu_offload and device.type != "cpu" else OffloadPolicy(),
            "mp_policy": _gathered_in_bf16() if bf16 else MixedPrecisionPolicy(),
        }
        for block in [module for module in root.modules() if isinstance(module, Block)]:
            whole = list(block.parameters())
            fully_shard(block, **options)
            _free_memory(whole)
        for p in self.scalars:
            p.data = p.data.to(device)
        self.root: Any = fully_shard(root, ignored_params=set(self.scalars), **options)
        _free_memory(list(weights.values()))
        for module in self._sharded_modules():
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)

    def _sharded_modules(self) -> list[FSDPModule]:
        return [module for module in self.root.modules() if isinstance(module, FSDPModule)]

    def call_with_weights(self, call: Callable[..., R], *given: Any) -> R:
        found = self.root(call, *given)
        self.root.reshard()  # as a backward pass, which may not come, would do
        return found

    def backward(self, objective: Objective, batch: Any, last_micro_batch: bool) -> LossOutput:
        # Each part's gradients are summed over the processes at once: kept until the last they would be whole.
        found = self.root(_objective, objective, batch)
        found[0].backward()
        if last_micro_batch:
            for p in self.scalars:
                if p.grad is not None:
                    dist.all_reduce(p.grad)
        return detach_output(found)

    def gradient_norm(self, gradients: Sequence[Tensor]) -> float:
        parts = [g for g in gradients if isinstance(g, DTensor)]
        whole = [g for g in gradients if not isinstance(g, DTensor)]
        own = sum((local_shard(g).double().square().sum() for g in parts), torch.zeros((), dtype=torch.float64))
        own = own.to(self.device)
        dist.all_reduce(own)
        return math.sqrt(own.item() + sum(g.double().square().sum().item() for g in whole))

    def gather_full_weights_to_main_process(self) -> None:
        self.root.reshard()
        for given, held in zip(self.given.parameters(), self.model.parameters(), strict=True):
            if isinstance(held, DTensor):
                whole = gather_to(local_shard(held.detach()), held.shape, owner=0)
                given.data = whole.cpu().clone()  # without the room for equal shards; without rows but on the first
            else:
                given.data = held.detach().cpu()
            given.grad = None


class _Root(nn.Module):
    """What torch's engines hook into: its forward pass is any computation with the model. bf16: by autocast, as the
    weights that a sharded model gathers are then.
    """

    def __init__(self, model: nn.Module, bf16: bool = False):
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(self, call: Callable[..., R], *given: Any) -> R:
        if not self.bf16:
            return call(self.model, *given)
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            return call(self.model, *given)


def _gathered_in_bf16() -> MixedPrecisionPolicy:
    """Autocast alone would keep a copy of all weights, in bf16, from the forward pass to the backward pass."""
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def set_mmap_threshold(size: int) -> None:
    """Let glibc return the memory of each tensor of at least so many bytes when it is freed: in pieces between those of
    the gathered blocks it would keep three times what is held.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, size)


def _free_memory(weights: Sequence[Tensor]) -> None:
    """Free the memory of weights whose shards are held elsewhere."""
    for p in weights:
        if p.ndim > 0:
            p.data = p.data.new_empty(0)


def _objective(model: nn.Module, objective: Objective, batch: Any) -> LossOutput:
    return detach_output(objective(model, batch), keep_loss=True)


def _summed(state, bucket):  # DDP refuses an annotation that is a text, as all of this file's are
    """A communication hook of DDP, which would divide by the number of processes."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])
