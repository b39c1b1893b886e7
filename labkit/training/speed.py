"""How fast a device trains, measured: its products, its memory, and what every operation costs beside.

    seconds = flops / F + moved_bytes / M + kernels · c

as in a roofline (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785), but that its terms are added. F is the
speed of the best product of two large matrices. M and c are worked out from what two training steps take beyond their
products at F: one of a few tokens, nearly all of which is c, and one of a thousand, most of which is M. So no
efficiency is assumed; what small products take beyond F is in M, as much as a Transformer's step loses by it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from labkit.losses import next_token_loss
from labkit.machine import peak_matmul_flops
from labkit.model.feedforward import Gated
from labkit.model.transformer import ModelConfig, Transformer
from labkit.training.config import TrainConfig, build_optimizer
from labkit.training.cost import CostCounter, Work
from labkit.training.processes import accelerator

STEPS = 7
"""Timed of each; the median counts."""
MEASUREMENTS = 3
"""At most, until one tells what memory takes."""


class ReferenceStep(NamedTuple):
    """A training step that is timed: a model's width and depth, and how many tokens in how many rows it reads."""

    width: int
    depth: int
    batch_size: int
    length: int


SHORT, LONG = ReferenceStep(64, 4, 1, 16), ReferenceStep(256, 2, 8, 128)


class DeviceSpeed(NamedTuple):
    """flops: of products, each second. bandwidth: bytes that all else moves, each second; None where no measurement
    told it. kernel_seconds: of each operation.
    """

    flops: float
    bandwidth: float | None
    kernel_seconds: float

    def seconds(self, work: Work) -> float:
        """That so much work takes; without what memory takes, where that is not known."""
        moving = work.moved_bytes / self.bandwidth if self.bandwidth else 0.0
        return work.flops / self.flops + moving + work.kernels * self.kernel_seconds

    def slowed_down(self, factor: float) -> DeviceSpeed:
        """The speed of a device on which everything takes `factor` times as long."""
        bandwidth = self.bandwidth and self.bandwidth / factor
        return DeviceSpeed(self.flops / factor, bandwidth, self.kernel_seconds * factor)


def measure_speed(bf16: bool = False, clock: Callable[[], float] = time.perf_counter) -> DeviceSpeed:
    """Of this machine, with as many threads as torch is set to, in about three seconds; again where they do not tell
    what memory takes, as when something else slowed the products down.
    """
    speed = _measured_once(bf16, clock)
    for _ in range(MEASUREMENTS - 1):
        if speed.bandwidth is None:
            speed = _measured_once(bf16, clock)
    return speed


def _measured_once(bf16: bool, clock: Callable[[], float]) -> DeviceSpeed:
    flops = peak_matmul_flops(torch.bfloat16 if bf16 else torch.float32, clock=clock)
    (short, short_work), (long, long_work) = (_timed(step, bf16, clock) for step in (SHORT, LONG))
    return solve_speed(flops, short, short_work, long, long_work)


def solve_speed(
    flops: float, short_seconds: float, short_work: Work, long_seconds: float, long_work: Work
) -> DeviceSpeed:
    """The speeds by which two steps take so many seconds: two equations for the two numbers beside `flops`.

    Where the long step takes no longer than its products and operations, bandwidth is None.
    """
    left = [
        (taken - work.flops / flops, work) for taken, work in ((short_seconds, short_work), (long_seconds, long_work))
    ]
    (a, one), (b, other) = left
    determinant = one.moved_bytes * other.kernels - other.moved_bytes * one.kernels
    kernel = max(0.0, (one.moved_bytes * b - other.moved_bytes * a) / determinant)
    byte = (b - other.kernels * kernel) / other.moved_bytes
    return DeviceSpeed(flops, 1 / byte if byte > 0 else None, kernel)


def _timed(reference: ReferenceStep, bf16: bool, clock: Callable[[], float]) -> tuple[float, Work]:
    """Seconds of a step, and its work."""
    (width, depth, rows, length), device = reference, accelerator().device
    with torch.random.fork_rng(devices=[]):
        model = Transformer(ModelConfig(1024, length, width=width, depth=depth, feed_forward=Gated(3 * width)))
    model.to(device)
    optimizer = build_optimizer(model, TrainConfig(optimizer="adamw"), torch.bfloat16 if bf16 else torch.float32)
    ids = torch.arange(rows * length, device=device).view(rows, length) % 1024
    mask = torch.ones_like(ids, dtype=torch.bool)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss_sum, _ = next_token_loss(model(ids), ids, mask)
        loss_sum.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type != "cpu":
            torch.accelerator.synchronize()

    with CostCounter() as counter:
        step()
    taken = []
    for _ in range(STEPS):
        start = clock()
        step()
        taken.append(clock() - start)
    return statistics.median(taken), counter.work
