"""Whether every stage beats its baseline: over seeds, in bf16 and in fp32, with one thread and with two.

One seed on one machine is no claim: another processor has other kernels, these have other last bits, and so the same
seed gives another model there. Each combination is a run in a process of its own.

labkit bench claims --preset smoke --seeds 0 1 2 3 4
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from labkit.bench.finished import check_same_recipe
from labkit.configs import Count, Seed, check_fields
from labkit.errors import LabError, count_with_noun
from labkit.runs.presets import make_recipe
from labkit.runs.recipe import Recipe
from labkit.stages.claims import gold_change_in_words
from labkit.stages.registry import stage_claims

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class ClaimsBench:
    """One run of the preset for each seed, precision and number of threads, in folders under out."""

    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4)
    preset: str = "smoke"
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    threads: tuple[Count, ...] = (1, 2)
    out: Path = Path("runs/claims")

    def __post_init__(self) -> None:
        check_fields(self)


class RunVariant(NamedTuple):
    """What one run is made with."""

    seed: int
    precision: Precision
    threads: int

    @property
    def label(self) -> str:
        return f"seed {self.seed}, {self.precision}, {self.threads} thread{'s' if self.threads > 1 else ''}"


def run(config: ClaimsBench, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Make the runs that are not there yet and gather their claims, as what JSON can write.

    {"preset", "machine", "runs": [{"seed", "precision", "threads", "processor", "claims": [{"stage", "metric",
    "value", "baseline", "margin", "holds"}], "gold": {STAGE: words}}], "left_out": [words]}. A precision that the
    processor has not is left out, and said. Raises LabError when a run fails, when one that is there is of another
    recipe, or when nothing is left to run.
    """
    from labkit.machine import has_bf16

    possible = [name for name in config.precisions if name == "fp32" or has_bf16()]
    left_out = [] if len(possible) == len(config.precisions) else ["bf16: this processor has no bf16 arithmetic"]
    combinations = [RunVariant(*each) for each in itertools.product(config.seeds, possible, config.threads)]
    if not combinations:
        raise LabError(
            "bench claims has nothing to run: give --seeds, --threads, and --precisions that the CPU supports."
        )
    for each in combinations:
        check_same_recipe(_folder(config, each), _recipe(config, each))
    reports = [_report(config, each, say) for each in combinations]
    runs = [each._asdict() | _gathered(report) for each, report in zip(combinations, reports, strict=True)]
    processors = " and ".join(dict.fromkeys(each["processor"] for each in runs))
    machine = {**reports[-1]["machine"], "processor": processors}
    return {"preset": config.preset, "machine": machine, "runs": runs, "left_out": left_out}


def failed_claims(result: dict[str, Any]) -> list[str]:
    """The claims that do not hold, in words."""
    return [
        f"{RunVariant(each['seed'], each['precision'], each['threads']).label}: {claim['stage']}"
        for each in result["runs"]
        for claim in each["claims"]
        if not claim["holds"]
    ]


def markdown_table(result: dict[str, Any]) -> str:
    """Markdown: for each stage its claim, in how many runs it holds, and the smallest and median margin."""
    lines = ["| stage | claim | holds | smallest margin | median |", "| --- | --- | ---: | ---: | ---: |"]
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for each in result["runs"]:
        for claim in each["claims"]:
            by_stage.setdefault(claim["stage"], []).append(claim)
    for stage, claims in by_stage.items():
        margins = [claim["margin"] for claim in claims]
        side = "above" if claims[0]["better"] == "higher" else "below"
        holds = f"{sum(claim['holds'] for claim in claims)} of {len(claims)}"
        says = f"{claims[0]['metric']}, {side} {claims[0]['baseline_name']}"
        lines.append(f"| {stage} | {says} | {holds} | {min(margins):.3f} | {median(margins):.3f} |")
    gold = [f"{_label(each)}: {name} {words}" for each in result["runs"] for name, words in each["gold"].items()]
    left = [f"Left out: {words}." for words in result["left_out"]]
    runs = count_with_noun(len(result["runs"]), "run")
    head = f"{runs} of the preset {result['preset']} on {result['machine']['processor']}."
    return "\n".join([head, *left, "", *lines, "", *gold])


def _gathered(report: dict[str, Any]) -> dict[str, Any]:
    """What one run has to show: its claims, and how gold changed in the stages that were measured by it."""
    found = stage_claims(report["stages"])
    claims = [claim._asdict() | {"margin": claim.margin, "holds": claim.holds} for claim in found]
    gold = {stage["stage"]: gold_change_in_words(stage["metrics"]) for stage in report["stages"]}
    said = {name: words for name, words in gold.items() if words}
    return {"processor": report["machine"]["processor"], "claims": claims, "gold": said}


def _label(each: dict[str, Any]) -> str:
    return RunVariant(each["seed"], each["precision"], each["threads"]).label


def _folder(config: ClaimsBench, combination: RunVariant) -> Path:
    return config.out / f"{config.preset}-{combination.seed}-{combination.precision}-{combination.threads}"


def _recipe(config: ClaimsBench, combination: RunVariant) -> Recipe:
    """The preset's, with the combination's seed and precision."""
    recipe = make_recipe(config.preset, seed=combination.seed)

    def changed(config: Any) -> Any:
        return dataclasses.replace(config, precision=combination.precision)

    stages = {name: dataclasses.replace(stage, train=changed(stage.train)) for name, stage in recipe.stages.items()}
    return recipe.with_parts({"annotation": changed(recipe.annotation), **stages})


def _report(config: ClaimsBench, combination: RunVariant, say: Callable[[str], None]) -> dict[str, Any]:
    """The report of one combination's run, which is made, or resumed, unless it is finished."""
    folder = _folder(config, combination)
    say(f"{folder} ...")
    settings = [f"--{stage}.train.precision" for stage in make_recipe(config.preset).stages]
    flags = [part for flag in (*settings, "--annotation.precision") for part in (flag, combination.precision)]
    command = [sys.executable, "-m", "labkit", "run", "--preset", config.preset, "--seed", str(combination.seed)]
    resume = ["--resume"] if (folder / "recipe.json").is_file() else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(combination.threads)}
    made = subprocess.run(
        [*command, "--out", str(folder), *resume, *flags], env=environment, capture_output=True, text=True
    )
    if made.returncode:
        raise LabError(f"the run in {folder} ended with exit code {made.returncode}: {made.stderr[-2000:]}")
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))
