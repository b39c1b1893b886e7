"""The processes that train together, as `accelerate launch` or `torchrun` started them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from labkit.errors import LabError
from labkit.machine import default_device

STRATEGIES = ("ddp", "fsdp")
"""What LABKIT_PARALLEL may be."""
_TIMEOUT = timedelta(hours=12)
"""How long a process waits for the others: the main one annotates and evaluates for them. That one of them has died is
known at once, by its connections and by the launcher.
"""


@dataclass(frozen=True)
class ParallelConfig:
    """How a model is trained on several processes. It changes where numbers are kept, not what they are.

    Attributes:
        strategy: ddp: each process holds the whole model, gradients are summed (torch's DistributedDataParallel).
            fsdp: each holds a shard of weights, gradients and optimizer state, and a block's weights are gathered
            while it computes (torch's fully_shard, FSDP2; Zhao et al. 2023, https://arxiv.org/abs/2304.11277).
        activation_checkpointing: keep a block's input only, and compute the rest again in the backward pass.
        cpu_offload: fsdp keeps its shards in the processor's memory, and on the GPU what is computed with.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    activation_checkpointing: bool = False
    cpu_offload: bool = False

    def command_line_flags(self) -> list[str]:
        """The options of the command line that ask for it."""
        switches = [name for name in ("activation_checkpointing", "cpu_offload") if getattr(self, name)]
        parallel = ["--parallel", self.strategy] if self.strategy != "ddp" else []
        return [*parallel, *(f"--{name.replace('_', '-')}" for name in switches)]


@cache
def accelerator() -> Accelerator:
    """The one Accelerator: processes, as the launcher set them, on `default_device`; on its own, one process.

    Precision is the recipe's, not the launcher's. Raises LabError for launchers whose strategy labkit has not.
    """
    for name in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if _is_set(f"ACCELERATE_USE_{name}"):
            raise LabError(
                f"labkit trains by DDP or FSDP2, not by {name}. Launch with accelerate launch --multi_gpu (or --cpu), "
                f"with --use_fsdp, or with torchrun and --parallel ddp or fsdp."
            )
    if _is_set("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION") != "2":
        raise LabError("labkit shards models by FSDP2: launch with accelerate launch --use_fsdp --fsdp_version 2.")
    device = default_device()
    if "LOCAL_RANK" not in os.environ:  # no launcher: the device may be any
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    # Without cpu=True accelerate would see two processes on a machine without a GPU as two of one process each.
    cpu = device.type == "cpu"
    return Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[_process_group(device)])


def _process_group(device: torch.device) -> InitProcessGroupKwargs:
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:  # objects, and what is offloaded, go by gloo
        return InitProcessGroupKwargs(backend="cuda:nccl,cpu:gloo", timeout=_TIMEOUT)
    return InitProcessGroupKwargs(timeout=_TIMEOUT)


@cache
def parallel_config() -> ParallelConfig:
    """What LABKIT_PARALLEL says, and LABKIT_ACTIVATION_CHECKPOINTING and LABKIT_CPU_OFFLOAD (the options of the same
    names set them); else what `accelerate launch --use_fsdp` asks for. Raises LabError for a strategy that is none.
    """
    launcher = _is_set("ACCELERATE_USE_FSDP")
    strategy = os.environ.get("LABKIT_PARALLEL") or ("fsdp" if launcher else "ddp")
    if strategy not in STRATEGIES:
        raise LabError(f"LABKIT_PARALLEL can be {' or '.join(STRATEGIES)}, not {strategy!r}.")
    asked = {
        field: _is_set(f"LABKIT_{field.upper()}") or (launcher and _is_set(theirs))
        for field, theirs in (
            ("activation_checkpointing", "FSDP_ACTIVATION_CHECKPOINTING"),
            ("cpu_offload", "FSDP_OFFLOAD_PARAMS"),
        )
    }
    return ParallelConfig("fsdp" if strategy == "fsdp" else "ddp", **asked)


def shards_models() -> bool:
    """Whether models are sharded over several processes (FSDP2)."""
    return accelerator().num_processes > 1 and parallel_config().strategy == "fsdp"


def initial_device() -> torch.device:
    """Where a model is before an engine takes it: on the CPU where it will be sharded, of which a device then holds a
    shard and one block at a time, not the whole; else on the device.
    """
    return torch.device("cpu") if shards_models() else accelerator().device


def on_any_process(condition: bool) -> bool:
    """Whether the condition holds on any of the processes, each of which comes here."""
    if accelerator().num_processes == 1:
        return condition
    count = torch.tensor(int(condition))
    torch.distributed.all_reduce(count)
    return bool(count)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on")
