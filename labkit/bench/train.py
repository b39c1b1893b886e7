"""The training step beside transformers' LlamaForCausalLM: same shape, same weights, same batch, one run.

A step is forward, loss, backward and AdamW. Each side runs at its best: precisions, attention kernels and
forms of AdamW are tried first, shortly, and the fastest of each side then take turns, block by block, so that
whatever else the machine does slows both alike; the ratios of their medians are what counts. The losses of
both, in fp32 from the same weights on the same batches, must be the same curve.

labkit bench train --json
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from labkit.configs import Count, check_fields
from labkit.errors import LabError

TimedStep = Callable[[], float]


@dataclass(frozen=True)
class ModelShape:
    """A model to time, tokens in rows of ``sequence_length``."""

    name: str
    width: Count
    depth: Count
    heads: Count
    key_value_heads: Count
    intermediate_size: Count
    vocabulary: Count = 904
    sequence_length: Count = 192

    def __post_init__(self) -> None:
        check_fields(self)


SHAPES = (
    ModelShape("1M", width=128, depth=4, heads=2, key_value_heads=2, intermediate_size=352),
    ModelShape("3M", width=192, depth=6, heads=3, key_value_heads=3, intermediate_size=512),
)


@dataclass(frozen=True)
class TrainBench:
    """What to time. batch_size: rows of a step. rounds: how often the sides take turns, ``steps_per_round`` at a time.
    trial_steps: steps of each first try. loss_curve_steps: steps of the loss curves. compiled: time torch.compile too,
    where there is a C++ compiler. threads: of torch (its own choice when None).
    """

    shapes: tuple[ModelShape, ...] = SHAPES
    batch_size: Count = 8
    rounds: Count = 9
    steps_per_round: Count = 6
    trial_steps: Count = 4
    loss_curve_steps: Count = 200
    compiled: bool = True
    threads: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)


class StepVariant(NamedTuple):
    """One way to run a step. library: whose model; attention: transformers' `attn_implementation`, labkit has
    one of its own; adamw: torch's "fused" or "foreach".
    """

    library: Literal["labkit", "transformers"]
    precision: str
    attention: str
    adamw: Literal["fused", "foreach"]
    compiled: bool

    @property
    def name(self) -> str:
        words = [self.library, "compiled" if self.compiled else "eager", self.precision]
        return " ".join(
            [*words, *([f"{self.attention} attention"] if self.library == "transformers" else []), self.adamw]
        )


def run(config: TrainBench | None = None, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """All timings and loss curves, as what JSON can write; ``progress`` is told what is being done.

    Seconds are of one step, medians over the blocks. ``ratios`` are transformers / labkit: eager, compiled,
    and compiled_to_eager, labkit compiled against transformers' best eager; above 1 labkit is faster.
    """
    try:
        import transformers
    except ImportError as error:
        raise LabError("labkit bench train compares with transformers: pip install 'labkit[bench]'.") from error
    import torch

    from labkit.machine import has_bf16, has_compiler

    config = config or TrainBench()
    compiled = config.compiled and has_compiler()
    precisions = ("fp32", "bf16") if has_bf16() else ("fp32",)
    with _threads(config.threads):
        shapes = [_time(shape, config, precisions, compiled, progress) for shape in config.shapes]
        progress("loss curves")
        curve = compare_loss_curves(config.shapes[0], config.batch_size, config.loss_curve_steps)
        threads = torch.get_num_threads()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": threads,
        "bf16": has_bf16(),
        "compiled": compiled,
        "rows": config.batch_size,
        "shapes": shapes,
        "loss_curve": curve,
    }


def text_report(report: dict[str, Any]) -> str:
    """The report in a few lines."""
    lines = []
    for shape in report["shapes"]:
        lines.append(f"{shape['name']}: {shape['parameters']:,} parameters, {shape['tokens']:,} tokens a step")
        for name, timing in shape["timings"].items():
            lines.append(f"  {name:50} {timing['seconds'] * 1e3:8.1f} ms {timing['tokens_per_second']:10,.0f} tokens/s")
        lines += [f"  {name:50} {ratio:8.2f} times as fast" for name, ratio in shape["ratios"].items()]
    curve = report["loss_curve"]
    lines.append(
        f"loss over {curve['steps']} steps: {curve['labkit'][0]:.3f} to {curve['labkit'][-1]:.3f}; "
        f"the curves differ by at most {curve['max_difference']:.1e}"
    )
    return "\n".join(lines)


def _time(
    shape: ModelShape, config: TrainBench, precisions: tuple[str, ...], compiled: bool, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The report of one shape."""
    model = _model(shape)
    tokens = config.batch_size * shape.sequence_length
    variants = candidate_variants(precisions)
    progress(f"{shape.name}: trying {len(variants)} variants")
    trials = _interleave({v: _step(v, shape, config.batch_size) for v in variants}, blocks=2, steps=config.trial_steps)
    best = {
        library: sorted((v for v in trials if v.library == library), key=trials.__getitem__)
        for library in ("labkit", "transformers")
    }
    finalists = [best["labkit"][0], *best["transformers"][:2]]
    if compiled:
        attentions = dict.fromkeys(v.attention for v in best["transformers"])
        finalists.append(best["labkit"][0]._replace(compiled=True))
        finalists += [best["transformers"][0]._replace(compiled=True, attention=kernel) for kernel in attentions]
    progress(f"{shape.name}: timing {', '.join(v.name for v in finalists)}")
    steps = {v: _step(v, shape, config.batch_size) for v in finalists}
    seconds = _interleave(steps, blocks=config.rounds, steps=config.steps_per_round)
    return {
        "name": shape.name,
        "parameters": model.parameter_count,
        "tokens": tokens,
        "length": shape.sequence_length,
        "timings": {v.name: {"seconds": s, "tokens_per_second": tokens / s} for v, s in seconds.items()},
        "trials": {v.name: s for v, s in trials.items()},
        "ratios": _ratios(seconds),
    }


def candidate_variants(precisions: tuple[str, ...]) -> list[StepVariant]:
    """Every eager variant: labkit, and transformers with each attention kernel, with each form of AdamW."""
    own = StepVariant("labkit", "fp32", "own", "fused", False)
    kernels = [own, *(own._replace(library="transformers", attention=kernel) for kernel in ("sdpa", "eager"))]
    return [
        kernel._replace(precision=precision, adamw=adamw)
        for kernel in kernels
        for precision in precisions
        for adamw in ("fused", "foreach")
    ]


def _ratios(seconds: dict[StepVariant, float]) -> dict[str, float]:
    def best(library: str, compiled: bool) -> float:
        return min(
            (s for v, s in seconds.items() if (v.library, v.compiled) == (library, compiled)), default=float("nan")
        )

    ratios = {"eager": best("transformers", False) / best("labkit", False)}
    if any(v.compiled for v in seconds):
        ratios["compiled"] = best("transformers", True) / best("labkit", True)
        ratios["compiled_to_eager"] = best("transformers", False) / best("labkit", True)
    return ratios


def _interleave(runs: dict[StepVariant, TimedStep], *, blocks: int, steps: int) -> dict[StepVariant, float]:
    """Median seconds of a step of each, taking turns; the first steps, which compile and allocate, do not
    count.
    """
    for step in runs.values():
        step(), step()
    taken: dict[StepVariant, list[float]] = {variant: [] for variant in runs}
    for _ in range(blocks):
        for variant, step in runs.items():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            taken[variant].append((time.perf_counter() - start) / steps)
    return {variant: statistics.median(seconds) for variant, seconds in taken.items()}


def _model(shape: ModelShape) -> Any:
    """Our model of the shape, its weights from a fixed seed, on `default_device`."""
    import torch

    from labkit.machine import default_device
    from labkit.model import Gated, ModelConfig, Transformer

    config = ModelConfig(
        vocabulary=shape.vocabulary,
        context=shape.sequence_length,
        width=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        key_value_heads=shape.key_value_heads,
        feed_forward=Gated(shape.intermediate_size),
        qk_norm=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Transformer(config).to(default_device())


def _step(variant: StepVariant, shape: ModelShape, rows: int) -> TimedStep:
    """A training step of the variant, from the shape's own weights; each call takes the next batch, returns
    its loss.
    """
    import torch

    from labkit.bench.llama import as_transformers
    from labkit.losses import next_token_loss
    from labkit.machine import autocast

    model = _model(shape)
    device = model.embedding.weight.device
    if variant.library == "transformers":
        model = as_transformers(model, variant.attention)
    fused = variant.adamw == "fused"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused, foreach=not fused)

    def loss_of(inputs: Any, labels: Any, mask: Any) -> Any:
        with autocast(device, variant.precision):
            logits = model(inputs) if variant.library == "labkit" else model(input_ids=inputs).logits
        loss = next_token_loss(logits, labels, mask)
        return loss.loss_sum / loss.label_count

    compute = torch.compile(loss_of, dynamic=False) if variant.compiled else loss_of
    stream = random_batches(shape, rows)

    def step() -> float:
        loss = compute(*(tensor.to(device) for tensor in next(stream)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def random_batches(shape: ModelShape, batch_size: int) -> Iterator[tuple[Any, Any, Any]]:
    """Endless batches with something to learn: from one token to the next is a fixed step, one time in four a
    chance one.

    inputs, labels [B, T] int64, mask [B, T] bool, all True.
    """
    import torch

    generator = torch.Generator().manual_seed(1)
    shape_of = (batch_size, shape.sequence_length + 1)
    mask = torch.ones(batch_size, shape.sequence_length, dtype=torch.bool)
    while True:
        start = torch.randint(shape.vocabulary, (batch_size, 1), generator=generator)
        chance = torch.randint(shape.vocabulary, shape_of, generator=generator)
        moves = torch.where(torch.rand(shape_of, generator=generator) < 0.25, chance, 7)
        tokens = (start + moves.cumsum(1)) % shape.vocabulary
        yield tokens[:, :-1], tokens[:, 1:], mask


def compare_loss_curves(shape: ModelShape, batch_size: int, steps: int) -> dict[str, Any]:
    """The losses of both sides in fp32, nats per token, and the largest difference between them."""
    ours, theirs = (
        _step(StepVariant(side, "fp32", "eager", "fused", False), shape, batch_size)
        for side in ("labkit", "transformers")
    )
    curves = [[step() for _ in range(steps)] for step in (ours, theirs)]
    difference = max(abs(a - b) for a, b in zip(*curves, strict=True))
    return {"steps": steps, "max_difference": difference, "labkit": curves[0], "transformers": curves[1]}


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch's threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
