"""``labkit bench``: measure one thing."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from labkit.commands.options import parse
from labkit.configs import Count, Seed
from labkit.runs.arguments import Folder, Preset, Switch, default_preset

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class BenchOptions:
    """Measure one thing.

    train: our training step beside transformers', at its best. world: how fast the world writes. run: the whole run
    for several seeds, each in a process of its own with nothing compiled before, and the medians of its measures. app:
    how long the app lets its user wait. generate: writing beside transformers, and llama.cpp where it is installed.
    memory: what it takes to read, tokenize and train on a large text (Linux only).
    claims: whether every stage beats its baseline, over --seeds, --precisions and --threads; exit code 1 where one does
    not.
    """

    what: Annotated[
        Positional[Literal["train", "generate", "world", "run", "app", "claims", "memory"]],
        arg(metavar="{train,generate,world,run,app,claims,memory}"),
    ]
    """What to measure."""
    json: Switch = False
    """Print everything that was measured, as JSON."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """For run and claims: one run for each."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """For run and claims: how much."""
    precisions: tuple[Literal["bf16", "fp32"], ...] = ("bf16", "fp32")
    """For claims: one run for each that the processor has."""
    threads: tuple[Count, ...] = (1, 2)
    """For claims: one run for each number of threads."""
    out: Folder = None
    """For run, claims and memory: the folder of the runs, runs/bench, runs/claims or runs/memory when not given.
    Finished ones of run and claims found there are not made again."""
    model: Path | None = None
    """For generate: a GGUF file of a model to write with, in place of the default shapes."""
    megabytes: Count = 300
    """For memory: the size of each text."""


def command(arguments: list[str]) -> int:
    """`labkit bench`: its exit code."""
    options = parse(BenchOptions, "bench", arguments)
    from labkit.machine import describe_machine

    result: dict[str, Any]
    code = 0
    if options.what == "train":
        from labkit.bench import train

        result = train.run(train.TrainBench(), lambda line: print(f"bench train: {line} ...", file=sys.stderr))
        text = train.table(result)
    elif options.what == "generate":
        from labkit.bench import generate

        config = generate.GenerateBench(new=48, file=options.model) if options.model else generate.GenerateBench()
        result = generate.run(config, lambda line: print(f"bench generate: {line} ...", file=sys.stderr))
        text = generate.table(result)
    elif options.what in ("world", "app"):
        from labkit.bench import app, world

        result = world.run(world.WorldBench()) if options.what == "world" else app.run()
        text = "\n".join(f"{name:26} {value}" for name, value in result.items())
    elif options.what == "memory":
        from labkit.bench import memory

        asked_memory = memory.MemoryBench(options.megabytes, options.out or memory.MemoryBench.out)
        result = memory.run(asked_memory, lambda line: print(f"bench memory: {line} ...", file=sys.stderr))
        text = memory.table(result)
    elif options.what == "claims":
        from labkit.bench import claims

        out = options.out or claims.ClaimsBench.out
        asked = claims.ClaimsBench(options.seeds, options.preset, options.precisions, options.threads, out)
        result = claims.run(asked, lambda line: print(f"bench claims: {line}", file=sys.stderr))
        text = claims.table(result)
        code = 1 if claims.failed(result) else 0
    else:
        from labkit.bench import run

        result = run.run(run.RunBench(options.seeds, options.preset, options.out or run.RunBench.out))
        text = run.table(result)
    machine: Any = result.get("machine") or describe_machine()
    result = {**result, "machine": machine}
    text = f"{text}\n\nMeasured on {machine['processor']}, {machine['cores']} cores."
    print(json.dumps(result, indent=2) if options.json else text)
    return code
