"""The processes that train together, as `accelerate launch` started them."""

from __future__ import annotations

from functools import cache

import torch
from accelerate import Accelerator

from labkit.errors import LabError


@cache
def accelerator() -> Accelerator:
    """The one Accelerator: device and processes, as `accelerate launch` set them; on its own, one process.

    Precision is the recipe's, not the launcher's. Raises LabError for launchers that take the weights apart.
    """
    # Without cpu=True accelerate would see two processes on a machine without a GPU as two of one process each.
    processes = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
    if processes.distributed_type.value in ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP"):
        raise LabError(
            f"labkit trains on several processes that each hold the whole model; {processes.distributed_type.value} "
            f"splits it. Launch without it: accelerate launch --multi_gpu, or --cpu."
        )
    return processes
