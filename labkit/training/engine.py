"""One model on one process or on several: each holds a copy of it (DDP) or a shard of it (FSDP2).

    engine = make_parallel_engine(model, device)
    loss_sum, count, metrics = engine.backward(objective, batch, last_micro_batch=True)   # engine.model has gradients
    value = engine.call_with_weights(lambda model: evaluate(model, step))                 # every process comes here
    engine.gather_full_weights_to_main_process()    # `model` has the weights; a sharded one, on the main process alone

An objective may call any method of the model: it is itself called inside the forward pass of a module that holds the
model, which is what torch's engines hook into. Gradients are sums over processes, as losses are.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from labkit.machine import warn_once
from labkit.model.blocks import Block
from labkit.training.config import Objective
from labkit.training.processes import accelerator, parallel_config, shards_models

R = TypeVar("R")
LossOutput = tuple[Tensor, Tensor, dict[str, Tensor]]
"""What an `Objective` gives: (loss_sum [], count [], metrics)."""


class Engine:
    """The model on one process. The other engines do what this one does, over all processes."""

    gathers = False
    """Whether weights are gathered as they are needed."""

    def __init__(self, model: nn.Module):
        self.model = model
        """What holds the parameters that are trained."""

    def call_with_weights(self, call: Callable[..., R], *given: Any) -> R:
        """call(model, *given), with the weights at hand; every process comes here, and computes as many passes."""
        return call(self.model, *given)

    def backward(self, objective: Objective, batch: Any, last_micro_batch: bool) -> LossOutput:
        """The objective of a batch, its gradient added to the parameters'. last_micro_batch: of a step's batches; the
        gradients are then those of all processes.
        """
        found = detach_output(objective(self.model, batch), keep_loss=True)
        found[0].backward()
        return detach_output(found)

    def gradient_norm(self, gradients: Sequence[Tensor]) -> float:
        """The norm of all gradients together."""
        return torch.nn.utils.get_total_norm(gradients).item()

    def gather_full_weights_to_main_process(self) -> None:
        """Give the trained weights back to the model that the engine was made of. With one process, or DDP, every rank
        has all of them already and keeps them; those of a sharded model are gathered on the CPU of rank 0 alone.
        """


def make_parallel_engine(model: nn.Module, device: torch.device, bf16: bool = False) -> Engine:
    """What the launcher asks for (see `parallel_config`). All processes begin with the first one's weights.
    A model that will be sharded is given on the CPU, so that no device holds more of it than a shard and one block.

    bf16: training computes in bf16. A sharded model's weights are then gathered in bf16, and whatever is computed with
    them is; its shards stay in fp32.
    """
    config = parallel_config()
    if config.activation_checkpointing:
        checkpoint_activations(model)
    if config.cpu_offload and (device.type == "cpu" or config.strategy == "ddp" or accelerator().num_processes == 1):
        warn_once("--cpu-offload does nothing here: it is for --parallel fsdp on several GPUs.")
    if accelerator().num_processes == 1:
        if config.strategy == "fsdp":
            warn_once("With one process, fsdp shards nothing: it is for several (torchrun --nproc-per-node 2).")
        return Engine(model.to(device))
    from labkit.training.distributed import Replicated, Sharded  # which take a second to import

    for p in model.parameters():
        broadcast(p.data)
    if shards_models():
        return Sharded(model, device, bf16, config.cpu_offload)
    return Replicated(model.to(device), device)


def checkpoint_activations(model: nn.Module) -> None:
    """Let each block keep its input only; once, however often the model is trained."""
    from torch.distributed._composable import checkpoint
    from torch.distributed._composable.contract import _get_registry

    for block in [module for module in model.modules() if isinstance(module, Block)]:
        if not _get_registry(block):
            checkpoint(block)


def make_parallel_eval_engine(model: nn.Module, device: torch.device, bf16: bool = False) -> Engine:
    """For a model that is not trained: shards of it where the launcher asks for shards, else a copy on each process.
    Shards are then all that is left of its weights: from now on it is called through the engine alone.
    """
    model = model.eval()
    if not shards_models():
        return Engine(model.to(device))
    from labkit.training.distributed import Sharded

    return Sharded(model, device, bf16, parallel_config().cpu_offload)


def call_on_device(model: nn.Module, call: Callable[[Any], R], bf16: bool = False) -> R:
    """call(model), computed on the device, before the model is trained; it keeps its weights. Where it will be sharded,
    a copy of it is for the call; every process comes here, and computes as many passes.
    """
    if not shards_models():
        return call(model)
    return make_parallel_eval_engine(copy.deepcopy(model), accelerator().device, bf16).call_with_weights(call)


@contextmanager
def gather_full_parameters(model: nn.Module) -> Iterator[None]:
    """Inside, a sharded model's weights are whole on every process, so that each may compute as often as it likes.
    FSDP2's hooks, which would ask for them in each forward pass of each block, are left out meanwhile: where tokens are
    generated one by one they take a tenth of the time and more.
    """
    sharded: list[Any] = [module for module in model.modules() if hasattr(module, "unshard")]
    hooks = [(module, module._forward_pre_hooks, module._forward_hooks) for module in sharded]
    for module in sharded:
        module.unshard()
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, before, after in hooks:
            module._forward_pre_hooks, module._forward_hooks = before, after
            module.reshard()


def detach_output(output: LossOutput, keep_loss: bool = False) -> LossOutput:
    """The numbers of an objective's output without what they were made of. keep_loss: but the loss."""
    loss_sum, count, metrics = output
    return (
        loss_sum if keep_loss else loss_sum.detach(),
        count.detach(),
        {name: value.detach() for name, value in metrics.items()},
    )
