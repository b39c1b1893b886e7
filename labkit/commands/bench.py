"""``labkit bench``: run one benchmark."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from labkit.commands.options import parse_options
from labkit.configs import Count, Seed
from labkit.errors import count_with_noun
from labkit.runs.arguments import Folder, Preset, Switch, default_preset


@dataclass(frozen=True)
class BenchOptions:
    """Run one benchmark.

    train: time of labkit's training step, and of transformers' with its fastest settings. generate: generation speed,
    and that of transformers, and of llama.cpp where it is installed. world: TinyWorld documents generated per second.
    run: whole runs over several seeds, each in a new process with an empty torch.compile cache, and the medians of
    their metrics. app: how long the app takes to start, to answer and to show attention. memory: peak memory for
    reading, tokenizing and training on a large text (Linux only). claims: how often every stage beats its baseline,
    over --seeds, --precisions and --threads; exit code 1 if one does not. plan: memory and time that `labkit plan`
    estimates for six cases, beside what is measured (Linux only). align: time and memory of a step of DPO, reward
    model, GRPO and PPO, and of TRL's, beside the time of the matrix products alone.
    """

    what: Annotated[
        Positional[Literal["train", "generate", "world", "run", "app", "claims", "memory", "plan", "align"]],
        arg(metavar="{train,generate,world,run,app,claims,memory,plan,align}"),
    ]
    """Which benchmark to run."""
    json: Switch = False
    """Print all results as JSON."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """For run and claims: one run per seed."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """For run and claims: the preset to run."""
    precisions: tuple[Literal["bf16", "fp32"], ...] = ("bf16", "fp32")
    """For claims: one run per precision; bf16 is left out on a CPU without it."""
    threads: tuple[Count, ...] = (1, 2)
    """For claims: one run per number of CPU threads."""
    out: Folder = None
    """For run, claims and memory: the folder of the runs; runs/bench, runs/claims or runs/memory when not given. For
    run and claims, finished runs in that folder are reused."""
    model: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """For generate: the GGUF file of a model to generate with, instead of the default sizes."""
    megabytes: Count = 300
    """For memory: the size of each text, in MB."""
    trl: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """For align: the folder that TRL 1.10.0 was installed in (pip install --no-deps --target FOLDER trl==1.10.0). When
    not given, the installed TRL if it is that version, else it is installed for the benchmark alone."""


def command(arguments: list[str]) -> int:
    """`labkit bench`: its exit code."""
    options = parse_options(BenchOptions, "bench", arguments)
    from labkit.machine import describe_machine

    text, result, code = _claims(options) if options.what == "claims" else (*_measured(options), 0)
    machine: Any = result.get("machine") or describe_machine()
    result = {**result, "machine": machine}
    where = f"{machine['processor']}, {count_with_noun(machine['cores'], 'core')}"
    if not machine.get("device", "cpu").startswith("cpu"):
        where = f"{machine['device']}, beside {where}"
    print(json.dumps(result, indent=2) if options.json else f"{text}\n\nMeasured on {where}.")
    return code


def _measured(options: BenchOptions) -> tuple[str, dict[str, Any]]:
    """What a benchmark found, in words and as what JSON can write."""

    def say(line: str) -> None:
        print(f"bench {options.what}: {line} ...", file=sys.stderr)

    result: dict[str, Any]
    if options.what == "train":
        from labkit.bench import train

        result = train.run(train.TrainBench(), say)
        return train.text_report(result), result
    if options.what == "generate":
        from labkit.bench import generate

        asked = generate.GenerateBench()
        if options.model:
            asked = dataclasses.replace(asked, new_tokens=48, gguf_file=options.model)
        result = generate.run(asked, say)
        return generate.text_report(result), result
    if options.what in ("world", "app"):
        from labkit.bench import app, world

        result = {**world.run(world.WorldBench())} if options.what == "world" else app.run()
        return "\n".join(f"{name:26} {value}" for name, value in result.items()), result
    if options.what == "memory":
        from labkit.bench import memory

        result = memory.run(memory.MemoryBench(options.megabytes, options.out or memory.MemoryBench.out), say)
        return memory.text_report(result), result
    if options.what == "plan":
        from labkit.bench import plan

        result = plan.run(progress=say)
        return plan.text_report(result), result
    if options.what == "align":
        from labkit.bench import align

        result = align.run(align.AlignBench(trl=options.trl), say)
        return align.text_report(result), result
    from labkit.bench import run

    result = run.run(run.RunBench(options.seeds, options.preset, options.out or run.RunBench.out))
    return run.markdown_tables(result), result


def _claims(options: BenchOptions) -> tuple[str, dict[str, Any], int]:
    """The same of the claims, and the exit code: 1 if a stage does not beat its baseline."""
    from labkit.bench import claims

    out = options.out or claims.ClaimsBench.out
    asked = claims.ClaimsBench(options.seeds, options.preset, options.precisions, options.threads, out)
    result = claims.run(asked, lambda line: print(f"bench claims: {line}", file=sys.stderr))
    return claims.markdown_table(result), result, 1 if claims.failed_claims(result) else 0
