"""The whole run, for several seeds: the medians behind the README's table.

Each run is a process of its own with an empty compile cache, so its time is what a newcomer waits: start, tokenizer,
compilation, training, measuring, report. The controls of PPO and DPO, made afterwards, do not count.

labkit bench run --seeds 0 1 2
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from labkit.bench.finished import check_same_recipe
from labkit.configs import Seed, check_fields
from labkit.errors import LabError
from labkit.reporting.metrics import BY_KIND, COSTS, metric_spec
from labkit.runs.presets import make_recipe


class MetricSpread(TypedDict):
    """A metric over several runs."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class RunBench:
    """One run of the preset for each of the seeds, in folders under out."""

    seeds: tuple[Seed, ...] = (0, 1, 2)
    preset: str = "lab"
    out: Path = Path("runs/bench")

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.seeds:
            raise LabError("bench run needs at least one seed: --seeds 0 1 2")


def run(config: RunBench) -> dict[str, Any]:
    """Make the runs that are not there yet; their medians, lowest and highest values, as what JSON can write.

    {"preset", "seeds", "wall_seconds": {"median", "lowest", "highest"}, "stages": {STAGE: {NAME: the same}},
    "machine"}. Raises LabError when a run fails.
    """
    reports = [_report(config, seed) for seed in config.seeds]
    result = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "wall_seconds": _spread([report["wall_seconds"] for report in reports]),
        "stages": summarize_stages([report["stages"] for report in reports]),
        "machine": reports[0]["machine"],
    }
    (config.out / f"{config.preset}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (config.out / f"{config.preset}.md").write_text(markdown_tables(result) + "\n", encoding="utf-8")
    return result


def summarize_stages(runs: Sequence[Sequence[dict[str, Any]]]) -> dict[str, dict[str, MetricSpread]]:
    """The "stages" of several report.json -> {stage: {name of a metric or cost: its spread}}."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for run_stages in runs:
        for stage in run_stages:
            names = gathered.setdefault(stage["stage"], {})
            for name, value in {**stage["metrics"], **{cost: stage[cost] for cost in COSTS if cost in stage}}.items():
                names.setdefault(name, []).append(value)
    return {stage: {name: _spread(values) for name, values in names.items()} for stage, names in gathered.items()}


def markdown_tables(result: dict[str, Any]) -> str:
    """The medians as Markdown tables, a column a stage; in brackets the lowest and highest where they differ.

    First all measures and costs, then the share of right answers by question type.
    """
    by_stage = result["stages"]
    names = dict.fromkeys(name for values in by_stage.values() for name in values)
    rows = [[metric_spec(name).label, *_cells(name, by_stage)] for name in names if not name.startswith(BY_KIND)]
    gains = [_smallest_gain(values) for values in by_stage.values()]
    rows.append(["smallest gain of a question type over the accuracy without the story", *gains])
    kinds = [name for name in names if name.startswith("accuracy/")]
    last = [*by_stage.values()][-1:]
    by_kind = [[_kind(name), *_cells(name, by_stage), *(_alone(name, values) for values in last)] for name in kinds]
    wall, seeds = result["wall_seconds"], result["seeds"]
    return "\n\n".join(
        [
            _markdown(["", *by_stage], rows),
            _markdown(["accuracy by question type", *by_stage, "without the story"], by_kind),
            f"Medians over seeds {', '.join(map(str, seeds))} (lowest–highest); "
            f"{_minutes(wall)} in all, from start to report.",
        ]
    )


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(name: str, by_stage: dict[str, dict[str, MetricSpread]]) -> list[str]:
    return [_cell(name, values[name]) if name in values else "" for values in by_stage.values()]


def _kind(name: str) -> str:
    return name.partition("/")[2].replace("_", " ")


def _alone(name: str, values: dict[str, MetricSpread]) -> str:
    alone = name.replace("accuracy/", "question_only/")
    return _cell(alone, values[alone]) if alone in values else ""


def _smallest_gain(values: dict[str, MetricSpread]) -> str:
    """The question type that is least above what its question alone gives, by medians: "where +31 percentage
    points"."""
    gains = {
        name.partition("/")[2]: values[name.replace("question_only/", "accuracy/")]["median"] - alone["median"]
        for name, alone in values.items()
        if name.startswith("question_only/")
    }
    if not gains:
        return ""
    kind = min(gains, key=lambda each: gains[each])
    return f"{kind} {100 * gains[kind]:+.0f} percentage points"


def _cell(name: str, spread: MetricSpread) -> str:
    show = metric_spec(name).format
    lowest, middle, highest = show(spread["lowest"]), show(spread["median"]), show(spread["highest"])
    return middle if lowest == highest else f"{middle} ({lowest}–{highest})"


def _minutes(spread: MetricSpread) -> str:
    lowest, middle, highest = (f"{spread[name] / 60:.1f}" for name in ("lowest", "median", "highest"))
    return f"{middle} min ({lowest}–{highest})"


def _spread(values: Sequence[float]) -> MetricSpread:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def _report(config: RunBench, seed: int) -> dict[str, Any]:
    """The report of one seed's run, made now unless it is there; with the seconds from start to report."""
    folder = config.out / f"{config.preset}-{seed}"
    check_same_recipe(folder, make_recipe(config.preset, seed=seed))
    clock = folder / "wall_seconds.json"
    if not clock.is_file():
        print(f"bench run: {folder} ...", file=sys.stderr)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, "-m", "labkit", "run", "--preset", config.preset, "--seed", str(seed)]
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
            made = subprocess.run([*command, "--out", str(folder)], env=environment, stdout=subprocess.DEVNULL)
        if made.returncode:
            raise LabError(f"the run in {folder} ended with exit code {made.returncode}; see above.")
        clock.write_text(json.dumps(round(time.perf_counter() - start, 1)), encoding="utf-8")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for name, metrics in _control(folder).items():
        stage = next(stage for stage in report["stages"] if stage["stage"] == name)
        stage["metrics"] |= {f"control_{key}": metrics[key] for key in ("gold_gain", "right")}
    return {**report, "wall_seconds": json.loads(clock.read_text(encoding="utf-8"))}


def _control(folder: Path) -> dict[str, dict[str, float]]:
    """See `time_matched_sft_metrics`; made once, and kept in the run's folder."""
    from labkit.bench.control import time_matched_sft_metrics

    kept = folder / "control.json"
    if not kept.is_file():
        kept.write_text(json.dumps(time_matched_sft_metrics(folder)), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))
