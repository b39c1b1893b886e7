"""How fast a device trains, measured: its products, its memory, and what every operation costs beside.

    seconds = flops / F + moved_bytes / M + kernels · c

as in a roofline (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785), but that its terms are added. F is the
speed of the best product of two large matrices. M and c are worked out from what two training steps take beyond their
products at F: one of a few tokens, nearly all of which is c, and one of a thousand, most of which is M. So no
efficiency is assumed; what small products take beyond F is in M, as much as a Transformer's step loses by it.

Where tokens are generated one by one, both are others: each operation is called from Python anew, without a backward
pass, and a product of a few rows takes as long as its weights take to be read. So there M and c are worked out of two
such steps, of a small model and a large one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.losses import next_token_loss
from labkit.machine import peak_matmul_flops, synchronize
from labkit.model.feedforward import Gated
from labkit.model.transformer import ModelConfig, Transformer
from labkit.training.config import TrainConfig, build_optimizer
from labkit.training.cost import CostCounter, Work
from labkit.training.processes import accelerator

STEPS = 7
"""Timed of each; the median counts."""
MEASUREMENTS = 3
"""At most, until one tells what memory takes."""


class TimedStep(NamedTuple):
    """A step that is timed: a model's width and depth, and how many tokens in how many rows it reads."""

    width: int
    depth: int
    batch_size: int
    length: int


SHORT, LONG = TimedStep(64, 4, 1, 16), TimedStep(256, 2, 8, 128)
"""Training steps."""
SMALL, LARGE = TimedStep(64, 4, 4, 64), TimedStep(512, 4, 4, 64)
"""Steps that generate a token in each row, after so many others."""


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


def measure_speed(bf16: bool = False) -> DeviceSpeed:
    """Of training on this machine, with as many threads as torch is set to, in about three seconds; again where they do
    not tell what memory takes, as when something else slowed the products down.
    """
    return _until_bandwidth(lambda: _measured_once(_training_step, SHORT, LONG, bf16))


def measure_generation_speed(bf16: bool = False) -> DeviceSpeed:
    """The same of generating tokens, for work that is counted with `moves_operands`."""
    return _until_bandwidth(lambda: _measured_once(_generation_step, SMALL, LARGE, bf16))


def _until_bandwidth(measure: Callable[[], DeviceSpeed]) -> DeviceSpeed:
    speed = measure()
    for _ in range(MEASUREMENTS - 1):
        if speed.bandwidth is None:
            speed = measure()
    return speed


MakeStep = Callable[[TimedStep, bool], tuple[Callable[[], object], CostCounter]]


def _measured_once(make_step: MakeStep, short: TimedStep, long: TimedStep, bf16: bool) -> DeviceSpeed:
    flops = peak_matmul_flops(torch.bfloat16 if bf16 else torch.float32)
    (seconds, work), (more_seconds, more_work) = (_timed(*make_step(one, bf16)) for one in (short, long))
    return solve_speed(flops, seconds, work, more_seconds, more_work)


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


def _model_and_ids(reference: TimedStep) -> tuple[Transformer, Tensor]:
    (width, depth, rows, length), device = reference, accelerator().device
    with torch.random.fork_rng(devices=[]):
        model = Transformer(ModelConfig(1024, 2 * length, width=width, depth=depth, feed_forward=Gated(3 * width)))
    return model.to(device), torch.arange(rows * length, device=device).view(rows, length) % 1024


def _training_step(reference: TimedStep, bf16: bool) -> tuple[Callable[[], object], CostCounter]:
    model, ids = _model_and_ids(reference)
    optimizer = build_optimizer(model, TrainConfig(optimizer="adamw"), torch.bfloat16 if bf16 else torch.float32)
    mask = torch.ones_like(ids, dtype=torch.bool)

    def step() -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            loss_sum, _ = next_token_loss(model(ids), ids, mask)
        loss_sum.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, CostCounter()


def _generation_step(reference: TimedStep, bf16: bool) -> tuple[Callable[[], object], CostCounter]:
    model, ids = _model_and_ids(reference)
    state = model.eval().new_state(len(ids), 2 * ids.shape[1])

    @torch.no_grad()
    def step(read: Tensor = ids[:, :1]) -> Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            return model.logits(model.hidden_states(read, None, None, state)).float().softmax(-1).cumsum(-1)

    step(ids)
    return step, CostCounter(moves_operands=True)


def _timed(step: Callable[[], object], counter: CostCounter) -> tuple[float, Work]:
    """Seconds of a step, and its work."""
    device, taken = accelerator().device, []
    with counter:
        step()
    for _ in range(STEPS):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), counter.work
