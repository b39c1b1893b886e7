"""Devices for tests: simulated ones, which every machine has, and a real GPU for tests marked `gpu`."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from accelerate.state import AcceleratorState

from labkit import machine
from labkit.training import processes
from tests.simulated_device import simulated_device

DEVICES = ["simulated cuda", "simulated mps", pytest.param("cuda", marks=pytest.mark.gpu)]


def forget_device() -> None:
    """Let `default_device` and accelerate choose again, and what was said once be said again."""
    machine.warn_once.cache_clear()
    machine._resolve_device.cache_clear()
    processes.accelerator.cache_clear()
    AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def use_device(name: str) -> Iterator[torch.device]:
    """Inside, labkit computes on a device: "cpu", "cuda", or one of this machine's that is simulated."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Computing on")
        forget_device()
        stack.callback(forget_device)
        if name.startswith("simulated"):
            name = str(stack.enter_context(simulated_device(name.removeprefix("simulated "))))
        patch.setenv("LABKIT_DEVICE", name.replace("mps:0", "mps"))
        patch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
        yield machine.default_device()
