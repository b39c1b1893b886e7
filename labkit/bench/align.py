"""Steps of alignment beside TRL's: DPO, reward model, GRPO and PPO, rollouts included. Same model, same batch, one run.

Each side trains in a process of its own, and they take turns, some steps each, so that whatever else the machine does
slows both alike; the ratios of their medians are what counts. Both have the same weights, pairs and prompts, AdamW, as
many rows, answers and epochs. TRL (1.10.0, which still has PPO) runs at its fastest for that: no gradient
checkpointing, the reference's log-probabilities computed before, and the precision that is faster in a first trial.
The weights are drawn by chance, so that hardly an answer of either side ends before `max_new_tokens`.

The floor beside a step is the time of its matrix products alone (see `align_flops`), in bf16 at the speed that one
large product reaches, measured before the turns and after them. The target is half of TRL's time, or 1.3 times the
floor where half lies below the floor.

    labkit bench align --json [--trl FOLDER]
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from labkit.bench.align_flops import step_flops
from labkit.bench.align_turns import TrainingProcess, Turn
from labkit.bench.align_worker import AlignBatch, Precision, StageName
from labkit.bench.train import SHAPES, ModelShape
from labkit.configs import Count, check_fields
from labkit.errors import LabError

TRL_VERSION = "1.10.0"
"""The last that has all four trainers."""
TARGET_OF_TRL, TARGET_OF_FLOOR = 0.5, 1.3
STEPS: dict[StageName, int] = {"dpo": 4, "reward": 4, "grpo": 1, "ppo": 1}
"""Of one turn; of PPO rollouts."""


@dataclass(frozen=True)
class AlignBench:
    """What to time. stages: which. shape: of the model. prompts: how many are answered by the demo run's fine-tuned
    model to make the pairs. rounds, trial_rounds: how often the sides take turns, in the measurement and in the trial
    of TRL's precisions. trl: the folder of an installed TRL (pip install --no-deps --target FOLDER trl==1.10.0); when
    None, the installed one, or one from PyPI where that is of another version.
    """

    stages: tuple[StageName, ...] = ("dpo", "reward", "grpo", "ppo")
    shape: ModelShape = SHAPES[1]
    batch: AlignBatch = AlignBatch()
    prompts: Count = 256
    rounds: Count = 7
    trial_rounds: Count = 1
    trl: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def run(config: AlignBench | None = None, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """All timings, as what JSON can write. Seconds are of an optimizer step, medians over the turns; processor_seconds
    the same of the processor's time. ratio: labkit's over TRL's, below 1 labkit is faster. Raises LabError without
    transformers, where TRL cannot be installed, and where a process fails.
    """
    try:
        import transformers
    except ImportError as error:
        raise LabError("labkit bench align compares with TRL: pip install 'labkit[bench]'.") from error
    import torch

    from labkit.machine import peak_matmul_flops

    config = config or AlignBench()
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        trl = _trl_folder(config, folder, progress)
        progress("making pairs")
        make_materials(config, folder)
        for stage in config.stages:
            before = peak_matmul_flops()
            timed = _time_stage(stage, config, folder, trl, progress)
            peak = max(before, peak_matmul_flops())
            found.append({"stage": stage, **timed, **_floor(stage, config, folder, timed, peak)})
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": TRL_VERSION,
        "threads": torch.get_num_threads(),
        "model": config.shape.name,
        "batch": dataclasses.asdict(config.batch),
        "stages": found,
    }


def make_materials(config: AlignBench, folder: Path) -> None:
    """What both sides read: the model with its tokenizer in transformers' form, pairs, and the batch."""
    import torch

    from labkit.files import write_json, write_jsonl
    from labkit.hub import save_pretrained
    from labkit.model import Gated, ModelConfig, Transformer
    from labkit.paths import demo_folder
    from labkit.preferences.annotate import AnnotationConfig, generate_annotated_pairs
    from labkit.runs.folder import Run
    from labkit.text.pairs import pair_to_row
    from labkit.world import World

    demo, shape = Run.open(demo_folder()), config.shape
    tokenizer = demo.tokenizer()
    model_config = ModelConfig(
        tokenizer.vocab_size,
        256,
        shape.width,
        shape.depth,
        shape.heads,
        shape.key_value_heads,
        feed_forward=Gated(shape.intermediate_size),
        qk_norm=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer(model_config)
    save_pretrained(model, folder / "model")
    tokenizer.save(folder / "model")
    write_json(folder / "model" / "generation_config.json", tokenizer.generation_config)
    model_file = folder / "model" / "config.json"
    write_json(model_file, json.loads(model_file.read_text()) | tokenizer.generation_config)
    annotated = generate_annotated_pairs(
        demo.stage("sft").model(),
        tokenizer,
        World.load(demo.recipe.tinyworld_size),
        AnnotationConfig(num_generations=2),
        "train",
        config.prompts,
    )
    write_jsonl(folder / "pairs.jsonl", [pair_to_row(one.pair) for one in annotated])
    write_json(folder / "batch.json", dataclasses.asdict(config.batch))


def _time_stage(
    stage: StageName, config: AlignBench, folder: Path, trl: Path | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Both sides of one stage in turns, and TRL's precisions before."""
    from labkit.machine import has_bf16

    precisions: tuple[Precision, ...] = ("fp32", "bf16") if has_bf16() else ("fp32",)
    steps, epochs = STEPS[stage], config.batch.ppo_epochs if stage == "ppo" else 1
    with ExitStack() as running:

        def started(library: str, precision: Precision) -> TrainingProcess:
            arguments = [library, stage, precision, str(folder)]
            path = [trl] if library == "trl" and trl else []
            process = TrainingProcess(f"{stage} by {library}, {precision}", arguments, path)
            running.callback(process.close)
            return process

        ours = started("labkit", precisions[-1])
        theirs = {precision: started("trl", precision) for precision in precisions}
        for process in (ours, *theirs.values()):
            progress(f"{process.name}: starting")
            process.wait_until_ready()
        trials = {
            precision: median(process.take(steps).seconds for _ in range(config.trial_rounds))
            for precision, process in theirs.items()
        }
        best = min(trials, key=trials.__getitem__)
        for precision, process in theirs.items():
            if precision != best:
                process.close()
        progress(f"{stage}: {config.rounds} turns beside TRL in {best}")
        turns: dict[str, list[Turn]] = {"labkit": [], "trl": []}
        for _ in range(config.rounds):
            turns["labkit"].append(ours.take(steps))
            turns["trl"].append(theirs[best].take(steps))
        sides = {
            "labkit": {"precision": precisions[-1]} | _medians(turns["labkit"], epochs) | ours.end(),
            "trl": {"precision": best} | _medians(turns["trl"], epochs) | theirs[best].end(),
        }
    return {
        **sides,
        "trials": {precision: seconds / epochs for precision, seconds in trials.items()},
        "ratio": sides["labkit"]["seconds"] / sides["trl"]["seconds"],
        "processor_ratio": sides["labkit"]["processor_seconds"] / sides["trl"]["processor_seconds"],
    }


def _medians(turns: list[Turn], epochs: int) -> dict[str, Any]:
    return {
        "seconds": median(turn.seconds for turn in turns) / epochs,
        "processor_seconds": median(turn.processor_seconds for turn in turns) / epochs,
        "turns": [turn.seconds / epochs for turn in turns],
    }


def _floor(stage: StageName, config: AlignBench, folder: Path, timed: dict[str, Any], peak: float) -> dict[str, Any]:
    """What the step's products take at `peak` FLOP/s, and what follows for the target."""
    flops = step_flops(stage, config.batch, folder)
    floor, half = flops / peak, TARGET_OF_TRL * timed["trl"]["seconds"]
    target = half if half >= floor else TARGET_OF_FLOOR * floor
    return {
        "flops": flops,
        "peak_flops_per_second": peak,
        "floor_seconds": floor,
        "target_seconds": target,
        "target_met": timed["labkit"]["seconds"] <= target,
    }


def _trl_folder(config: AlignBench, folder: Path, progress: Callable[[str], None]) -> Path | None:
    """Where TRL is, None for the installed one. Raises LabError for a folder with another version."""
    if config.trl is not None:
        there = [one.version for one in metadata.distributions(path=[str(config.trl)]) if one.name == "trl"]
        if TRL_VERSION not in there:
            raise LabError(
                f"{config.trl} does not contain TRL {TRL_VERSION}: "
                f"pip install --no-deps --target {config.trl} trl=={TRL_VERSION}."
            )
        return config.trl
    try:
        if metadata.version("trl") == TRL_VERSION:
            return None
    except metadata.PackageNotFoundError:
        pass
    progress(f"installing TRL {TRL_VERSION} for this run alone")
    target = folder / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    made = subprocess.run([*command, f"trl=={TRL_VERSION}"], capture_output=True, text=True)
    if made.returncode:
        raise LabError(f"TRL {TRL_VERSION} could not be installed; give --trl FOLDER. pip said: {made.stderr[-500:]}")
    return target


def text_report(report: dict[str, Any]) -> str:
    """A line a stage."""
    lines = [
        f"{'a step':8} {'labkit':>10} {'TRL':>10} {'':6} {'labkit/TRL':>10} {'(CPU)':>6} {'floor':>10} {'target':>10}"
        f" {'':4} {'memory':>8} {'TRL':>8}"
    ]
    for one in report["stages"]:
        ours, theirs = one["labkit"], one["trl"]
        lines.append(
            f"{one['stage']:8} {ours['seconds'] * 1e3:7,.0f} ms {theirs['seconds'] * 1e3:7,.0f} ms "
            f"{theirs['precision']:6} {one['ratio']:10.2f} {one['processor_ratio']:6.2f} "
            f"{one['floor_seconds'] * 1e3:7,.0f} ms {one['target_seconds'] * 1e3:7,.0f} ms "
            f"{'met' if one['target_met'] else '':4} {ours['training_mb']:5,} MB {theirs['training_mb']:5,} MB"
        )
    return "\n".join(lines)
