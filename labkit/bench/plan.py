"""What `labkit plan` says beforehand, beside what training then takes: six cases of memory and time.

    labkit bench plan --json

Each case is a stage of some steps, in new processes (two of them under gloo). Memory is what the process's resident
set grows to at its peak, beyond what it was with all modules imported, the data made and one tiny model trained, for
what torch sets aside once. glibc gives freed memory back while memory is measured (mallopt), else the resident set
would also hold what malloc keeps for later. Time is of a step, on one thread; the speeds are measured as `labkit plan`
measures them, in the same processes, before and after those steps, and the link's before. All seconds are the clock's,
so nothing else should run on the machine. The estimate is made of as many batches, or rollouts, as are trained on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean, mean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import psutil

from labkit.configs import Count, check_fields
from labkit.errors import LabError

if TYPE_CHECKING:
    from labkit.runs.estimate import StageEstimate
    from labkit.runs.recipe import Recipe
    from labkit.training.speed import DeviceSpeed

LINK_BYTES = 8_000_000
USUAL_THRESHOLD = 32 << 20
"""The bytes from which on glibc gives memory back at once, as far as it moves them up by itself."""


class Case(NamedTuple):
    """What is estimated and measured: a stage with rows of `length` tokens, a model's width, depth and heads."""

    stage: Literal["pretrain", "sft", "ppo", "dpo"]
    width: int
    depth: int
    heads: int
    batch_size: int
    length: int
    optimizer: Literal["adamw", "muon"] = "adamw"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    processes: int = 1

    @property
    def name(self) -> str:
        shared = f"{self.processes} processes, {self.strategy}" if self.processes > 1 else "1 process"
        return f"{self.stage}, {self.width} x {self.depth}, {self.optimizer}, {shared}"


CASES = (
    Case("pretrain", 256, 6, 4, 8, 128, "muon"),
    Case("sft", 128, 4, 2, 12, 128, "muon", "ddp", 2),
    Case("ppo", 128, 4, 2, 16, 160),
    Case("dpo", 256, 4, 4, 8, 160),
    Case("pretrain", 512, 8, 8, 2, 128, "adamw", "fsdp", 2),
    Case("ppo", 256, 6, 4, 8, 160, "adamw", "fsdp", 2),
)


@dataclass(frozen=True)
class PlanBench:
    """cases: what is compared. steps: of each, or rollouts, where it samples."""

    cases: tuple[Case, ...] = CASES
    steps: Count = 4

    def __post_init__(self) -> None:
        check_fields(self)


def run(config: PlanBench | None = None, progress: Callable[[str], object] = print) -> dict[str, Any]:
    """{"cases": each with estimated and measured bytes and seconds, and their ratios}. Raises LabError where the system
    does not tell memory, or a process fails.
    """
    config = config or PlanBench()
    if not Path("/proc/self/clear_refs").exists():
        raise LabError("labkit bench plan reads /proc, which this system does not have.")
    found = []
    for case in config.cases:
        progress(case.name)
        found.append(compare_case(case, config.steps))
    return {"cases": found}


def compare_case(case: Case, steps: int) -> dict[str, Any]:
    """One case, estimated and measured."""
    from labkit.training.speed import DeviceSpeed

    measured = measure_case(case, steps)
    if None in (measured[0]["speed"], measured[0]["generation_speed"]):
        raise LabError(f"{case.name}: the time of memory access could not be measured. Repeat while nothing else runs.")
    first, grown = measured[0], max(one["bytes"] for one in measured)
    speed, generation_speed = DeviceSpeed(*first["speed"]), DeviceSpeed(*first["generation_speed"])
    estimate = estimate_case(case, steps, speed, generation_speed, first["link"])
    seconds = estimate.seconds / estimate.steps
    return {
        "case": case.name,
        **case._asdict(),
        "parameters": estimate.parameter_count,
        "estimated_bytes": round(estimate.peak_bytes),
        "measured_bytes": grown,
        "memory_ratio": estimate.peak_bytes / grown,
        "estimated_seconds": seconds,
        "measured_seconds": first["seconds"],
        "time_ratio": seconds / first["seconds"],
        "speed": first["speed"],
        "generation_speed": first["generation_speed"],
        "link": first["link"],
        "parts": estimate.to_dict(),
    }


def case_recipe(case: Case, steps: int) -> Recipe:
    """The recipe of a case: a plan that ends with its stage."""
    from labkit.model.feedforward import Gated
    from labkit.runs.plan import parse_plan
    from labkit.runs.presets import make_recipe
    from labkit.runs.recipe import TokenizerConfig
    from labkit.training.config import TrainConfig

    train = TrainConfig(
        steps, case.batch_size, case.length, optimizer=case.optimizer, precision="fp32", checkpoint_every=0
    )
    recipe = make_recipe("smoke")
    recipe = dataclasses.replace(recipe, tokenizer=TokenizerConfig(documents=100))
    model = dataclasses.replace(
        recipe.model,
        context=256,
        width=case.width,
        depth=case.depth,
        heads=case.heads,
        feed_forward=Gated(case.width * 11 // 4),
    )
    plan = {"pretrain": "pretrain", "sft": "pretrain,sft", "dpo": "pretrain,sft,dpo", "ppo": "pretrain,sft,reward,ppo"}
    recipe = dataclasses.replace(recipe, model=model, plan=parse_plan(plan[case.stage], recipe.plan))
    return recipe.with_stages(**{case.stage: dataclasses.replace(recipe.stages[case.stage], train=train)})


def estimate_case(
    case: Case, num_batches: int, speed: DeviceSpeed, generation_speed: DeviceSpeed, link: float | None
) -> StageEstimate:
    """What `labkit plan` says of the case, from so many batches. link: bytes that a process sends each second."""
    from labkit.runs.estimate import Devices, estimate_stages
    from labkit.training.processes import ParallelConfig

    parallel = ParallelConfig(case.strategy)
    devices = Devices(speed, case.processes, parallel, link, generation_speed=generation_speed)
    return estimate_stages(case_recipe(case, 1), devices, [case.stage], batches=num_batches)[0]


def measure_case(case: Case, steps: int) -> list[dict[str, Any]]:
    """What each process of a case has measured. Raises LabError where one fails."""
    with tempfile.TemporaryDirectory() as folder:
        several = ["torch.distributed.run", "--nproc-per-node", str(case.processes), "-m"]
        launcher = ["-m", *(several if case.processes > 1 else [])]
        arguments = [json.dumps(case._asdict()), str(steps), folder]
        command = [sys.executable, "-W", "ignore", *launcher, "labkit.bench.plan", *arguments]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise LabError(f"{case.name}: a process ended with exit code {made.returncode}: {made.stderr[-2000:]}")
        return [json.loads(file.read_text()) for file in sorted(Path(folder).iterdir())]


def _measured(case: Case, steps: int) -> dict[str, Any]:
    """In a process of its own: what a case takes."""
    os.environ["LABKIT_PARALLEL"] = case.strategy
    import torch

    from labkit.machine import peak_memory_mb, reset_peak_memory_stats
    from labkit.runs.estimate import real_model, stage_inputs_maker, tiny_stand_in_model
    from labkit.training.distributed import MMAP_THRESHOLD, set_mmap_threshold
    from labkit.training.processes import accelerator
    from labkit.training.speed import measure_generation_speed, measure_speed

    torch.set_num_threads(1)
    set_mmap_threshold(MMAP_THRESHOLD)
    recipe = case_recipe(case, steps)
    make = stage_inputs_maker(recipe, case.processes, accelerator().process_index)
    rollouts = recipe.stages[case.stage].rollout_schedule()
    steps *= rollouts.steps_per_rollout if rollouts else 1
    _trained(case, make, tiny_stand_in_model, 1)  # what torch and the processes' connections take once
    reset_peak_memory_stats()
    resident = psutil.Process().memory_info().rss
    _trained(case, make, real_model, steps)
    grown = round(peak_memory_mb() * 1e6) - resident
    if case.strategy == "ddp":  # FSDP sets it by itself
        set_mmap_threshold(USUAL_THRESHOLD)
    measured: dict[str, Any] = {"bytes": grown, "link": _link(case) if case.processes > 1 else None}
    before = measure_speed(), measure_generation_speed()
    measured["seconds"] = _trained(case, make, real_model, steps)
    after = measure_speed(), measure_generation_speed()
    for name, *both in zip(("speed", "generation_speed"), before, after, strict=True):
        measured[name] = _mean_speed(*both)
    return measured


def _mean_speed(before: DeviceSpeed, after: DeviceSpeed) -> list[float] | None:
    """That of both together; None where one does not tell what memory takes."""
    if before.bandwidth is None or after.bandwidth is None:
        return None
    flops = harmonic_mean([before.flops, after.flops])
    bandwidth = harmonic_mean([before.bandwidth, after.bandwidth])
    return [flops, bandwidth, mean([before.kernel_seconds, after.kernel_seconds])]


def _trained(case: Case, make: Any, make_model: Any, steps: int) -> float:
    """Train so many steps of the case's stage; the seconds that each took, on average."""
    from labkit.training.loop import fit

    stage, stage_inputs = make(case.stage, make_model)
    stage = dataclasses.replace(stage, train=dataclasses.replace(stage.train, steps=steps))
    model = stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)
    return [record.elapsed_seconds for record in fit(model, source, stage.objective, stage.train)][-1] / steps


def _link(case: Case) -> float:
    """Bytes that this process sends each second, by the sums or by the gathers of its strategy."""
    import torch
    from torch import distributed

    def exchange() -> float:
        share, whole = torch.zeros(LINK_BYTES // 4 // case.processes), torch.zeros(LINK_BYTES // 4)
        distributed.barrier()
        start = time.perf_counter()
        if case.strategy == "ddp":
            distributed.all_reduce(whole)
        else:
            distributed.all_gather_into_tensor(torch.empty_like(whole), share)
            distributed.reduce_scatter_tensor(torch.empty_like(share), whole)
        return time.perf_counter() - start

    taken = [exchange() for _ in range(4)][1:]
    return 2 * (case.processes - 1) / case.processes * LINK_BYTES / mean(taken)


def text_report(result: dict[str, Any]) -> str:
    """A line a case."""
    lines = [f"{'case':46} {'memory':>9} {'measured':>9} {'ratio':>6} {'a step':>9} {'measured':>9} {'ratio':>6}"]
    for one in result["cases"]:
        memory = (one["estimated_bytes"] / 1e6, one["measured_bytes"] / 1e6, one["memory_ratio"])
        seconds = (one["estimated_seconds"] * 1e3, one["measured_seconds"] * 1e3, one["time_ratio"])
        lines.append(
            "{:46} {:6,.0f} MB {:6,.0f} MB {:6.2f} {:6,.0f} ms {:6,.0f} ms {:6.2f}".format(
                one["case"], *memory, *seconds
            )
        )
    return "\n".join(lines)


def main() -> None:
    """One process of a case: python -m labkit.bench.plan CASE STEPS FOLDER"""
    from labkit.training.processes import accelerator

    case, steps, folder = sys.argv[1:]
    found = _measured(Case(**json.loads(case)), int(steps))
    (Path(folder) / f"{accelerator().process_index}.json").write_text(json.dumps(found))
    accelerator().end_training()


if __name__ == "__main__":
    main()
