"""``labkit plan RECIPE``: what each stage will take of a device, before anything is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from labkit.configs import Count, Positive
from labkit.errors import LabError, count_with_noun
from labkit.runs.arguments import DATA_FIELDS, DataSource, Plan, Switch, default_preset
from labkit.runs.settings import override_recipe, parse_known_args

if TYPE_CHECKING:
    from labkit.runs.estimate import StageEstimate
    from labkit.runs.folder import Run
    from labkit.runs.recipe import Recipe
    from labkit.training.speed import DeviceSpeed

LOWEST_PEAK = 1e9
"""FLOP/s; one core of a laptop makes some 50e9."""


@dataclass(frozen=True)
class PlanOptions:
    """Estimate, without training, the memory that each stage needs on each device, and the time that it takes.

    Every field of the recipe can be set too, as in `labkit run`: --model.width 1024 --pretrain.train.steps 500.
    --parallel fsdp and --activation-checkpointing work as in training. Memory is counted by running each stage's own
    code on tensors that have shapes but no values (PyTorch's FakeTensor). Time is estimated from the operations counted
    and the speed of this machine, which is measured first (matrix products, memory bandwidth, overhead per operation).
    """

    recipe: Annotated[Positional[str | None], arg(metavar="[RECIPE]", help_behavior_hint="")] = None
    """A preset, a run's folder, or its recipe.json; the preset that LABKIT_PRESET names, else lab, when not given."""
    devices: Count = 1
    """The number of devices, each with one process."""
    memory: Annotated[Positive | None, arg(metavar="GB", help_behavior_hint="")] = None
    """Memory of one device in GB (10^9 bytes); a column then says which stages fit."""
    flops: Annotated[Positive | None, arg(metavar="FLOP/S", help_behavior_hint="")] = None
    """Peak speed of one device in FLOP/s, for example 989e12. The utilisation (MFU) is assumed to be the same as
    measured on this machine. When not given, the device is this machine."""
    link: Annotated[Positive | None, arg(metavar="GB/S", help_behavior_hint="")] = None
    """Bandwidth between devices in GB/s. When not given, the time does not include communication."""
    plan: Plan = None
    """The stages in their order, as in `labkit run`; the recipe's when not given."""
    text: DataSource = None
    """Text to pretrain on instead of TinyWorld, as in `labkit run`."""
    instructions: DataSource = None
    """Conversations to fine-tune on, as in `labkit run`."""
    preferences: DataSource = None
    """Preference pairs for the reward model and the stages that learn from preferences, as in `labkit run`."""
    json: Switch = False
    """Print all estimates as JSON, in bytes and seconds."""


def command(arguments: list[str]) -> int:
    """`labkit plan`: its exit code."""
    options, rest = parse_known_args(PlanOptions, "plan", arguments)
    _check_flops(options.flops)
    run = _run(options)
    recipe = override_recipe(_recipe(options, run), rest, "plan", options.plan)
    from labkit.machine import has_bf16, warn_once
    from labkit.runs.estimate import Devices, estimate_stages
    from labkit.training.processes import accelerator, parallel_config
    from labkit.training.speed import measure_generation_speed, measure_speed

    parallel = parallel_config()
    if parallel.cpu_offload:
        raise LabError(
            "labkit plan does not estimate --cpu-offload. Leave it out: training with it takes less memory of the "
            "device than the estimate."
        )
    if options.devices == 1 and parallel.strategy == "fsdp":
        warn_once("With one device, fsdp shards nothing: it is for several (--devices 2).")
    if options.devices > 1 and parallel.strategy == "fsdp" and accelerator().device.type == "cpu":
        from labkit.training.distributed import MMAP_THRESHOLD, set_mmap_threshold

        set_mmap_threshold(MMAP_THRESHOLD)  # as FSDP does in training, which takes time
    speed = measure_speed(has_bf16())
    share = 1.0 if options.flops is None else speed.flops / options.flops
    link = None if options.link is None else options.link * 1e9
    elsewhere = options.flops is not None or accelerator().device.type == "cuda"
    samples = any(stage.rollout_schedule() is not None for stage in recipe.stages.values())
    generation_speed = measure_generation_speed(has_bf16()) if samples else None
    devices = Devices(
        speed.slowed_down(share),
        options.devices,
        parallel,
        link,
        bf16=has_bf16() or options.flops is not None,
        generation_speed=generation_speed and generation_speed.slowed_down(share),
        cpu=not elsewhere,
    )
    if run is not None and (changed := _drawn_anew(recipe, run)):
        warn_once(
            f"With these settings, {', '.join(changed)} is a different model from that in {run.path}: its size is "
            f"the recipe's, with the vocabulary of the run's tokenizer."
        )
    estimates = estimate_stages(recipe, devices, run=run)
    if options.json:
        given = {"devices": options.devices, "parallel": parallel.strategy, "speed": devices.speed._asdict()}
        if devices.generation_speed is not None:
            given["generation_speed"] = devices.generation_speed._asdict()
        print(json.dumps(given | {"stages": [_as_json(one, options.memory) for one in estimates]}, indent=2))
    else:
        print(table(estimates, options.memory))
        shared = options.devices > 1 and parallel.strategy == "fsdp"
        compiled = [] if shared else [name for name, stage in recipe.stages.items() if stage.train.compile]
        print("\n".join(["", *_notes(options, speed, generation_speed, estimates, compiled, elsewhere)]))
    return 0


def _check_flops(flops: float | None) -> None:
    """Raises LabError for a peak that no device is so slow to have."""
    if flops is not None and flops < LOWEST_PEAK:
        raise LabError(
            f"--flops {flops:g} is {flops:g} FLOP/s, which no device is so slow to have. In TFLOP/s it is --flops "
            f"{flops:g}e12."
        )


def _recipe(options: PlanOptions, run: Run | None) -> Recipe:
    """The run's or the preset's, with the options' sources."""
    from labkit.runs.presets import make_recipe

    sources = {field: getattr(options, field) for field in DATA_FIELDS}
    if run is None:
        return make_recipe(options.recipe or default_preset(), **sources)
    given = {field: place for field, place in sources.items() if place is not None}
    new = {field: place for field, place in given.items() if not run.relocate_input_if_unchanged(field, place)}
    return dataclasses.replace(run.recipe, **new)


def _run(options: PlanOptions) -> Run | None:
    """The run whose folder or recipe.json is named; None for a preset."""
    from labkit.runs.folder import Run
    from labkit.runs.presets import PRESETS

    name = options.recipe or default_preset()
    if name in PRESETS:
        return None
    folder = Path(name).parent if Path(name).name == "recipe.json" else Path(name)
    if not (folder / "recipe.json").is_file():
        raise LabError(f"There is no preset {name!r} and no run in {folder}; the presets are {', '.join(PRESETS)}.")
    return Run.open(folder)


def _drawn_anew(recipe: Recipe, run: Run) -> list[str]:
    """The stages that begin with random weights, of which the run has a model that the recipe would not make."""
    from labkit.runs.estimate import trained_stage

    first = [name for name in recipe.stages if recipe.predecessor(name) is None and name in run.recipe.stages]
    return [name for name in first if run.stage(name).trained and trained_stage(recipe, run, name) is None]


def _as_json(one: StageEstimate, memory: float | None) -> dict[str, Any]:
    return one.to_dict() | ({} if memory is None else {"fits": one.peak_bytes <= memory * 1e9})


def table(estimates: list[StageEstimate], memory: float | None) -> str:
    """A line a stage; of each device."""
    columns = [
        "stage",
        "weights",
        "gradients",
        "optimizer",
        "frozen",
        "activations",
        "other",
        "peak",
        "per step",
        "total",
    ]
    rows = [[*columns, *(["fits"] if memory else [])]]
    for one in estimates:
        step = one.step
        sizes = [
            step.parameter_bytes,
            step.gradient_bytes,
            step.optimizer_state_bytes,
            one.frozen_model_bytes,
            step.activation_bytes,
        ]
        others = max(step.communication_bytes, one.kv_cache_bytes)
        row = [one.stage, *map(_size, [*sizes, others, one.peak_bytes])]
        row += [_duration(one.seconds / one.steps), _duration(one.seconds)]
        rows.append(row + ([("yes" if one.peak_bytes <= memory * 1e9 else "NO")] if memory else []))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def _size(count: float) -> str:
    """12.3 MB, 4.56 GB; of 10^6 and 10^9 bytes."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB" if count else "-"


def _duration(seconds: float) -> str:
    """45 ms, 1.2 s, 34 min, 5.6 h."""
    for unit, size, until in (("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0)):
        if seconds < until:
            return f"{seconds / size:,.0f} {unit}" if unit == "ms" else f"{seconds / size:,.1f} {unit}"
    return f"{seconds / 3600:,.1f} h"


def _notes(
    options: PlanOptions,
    speed: DeviceSpeed,
    generation_speed: DeviceSpeed | None,
    estimates: Sequence[StageEstimate],
    compiled: Sequence[str],
    elsewhere: bool,
) -> list[str]:
    """What the table is of, and what it leaves out. generation_speed: None where no stage samples. compiled: the stages
    that torch.compile would compile. elsewhere: whether the device planned for is another than this CPU.
    """
    largest = max(one.parameter_count for one in estimates)
    where = "here" if options.flops is None else f"here; the device's peak is {options.flops / 1e12:,.1f} TFLOP/s"
    lines = [
        f"Memory is per device ({count_with_noun(options.devices, 'device')}). The largest model trained has "
        f"{largest:,} parameters. Matrix products: {speed.flops / 1e9:,.0f} GFLOP/s {where}.",
        "frozen: models that are not trained, such as a reference or reward model. other: buffers for communication, "
        "or the key/value cache while sampling.",
        "Not in the time: evaluation after each stage, training the tokenizer, and annotating preference pairs.",
    ]
    measured = {"training steps": speed, "sampling": generation_speed}
    unknown = [name for name, one in measured.items() if one is not None and one.bandwidth is None]
    if unknown:
        lines.append(
            f"Not in the time: memory access in {' and '.join(unknown)}, whose share could not be measured. Run the "
            "command again while nothing else runs on this machine."
        )
    if elsewhere:
        lines.append(
            "activations: counted for unfused attention, as on a CPU. Fused attention on a GPU does not store the "
            "attention scores, so activations take less there, above all with long rows."
        )
    if options.devices > 1 and options.link is None:
        lines.append("Not in the time: communication between devices; --link GB/S adds it.")
    if compiled:
        lines.append(f"{', '.join(compiled)}: torch.compile is on, so memory and time will be lower than estimated.")
    return lines
