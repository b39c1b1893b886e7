"""Writing beside transformers' `generate` on the same weights, and beside llama.cpp, in one run.

Each side writes in fp32 and in bf16; they take turns, round by round, and the ratio of the best medians is what counts.
On a GPU transformers also writes with its static cache, which it compiles. llama.cpp, on a CPU only and whose threads
would keep it busy between its turns, comes after them, in F16 and Q8_0. Every side writes the same number of tokens
after the same prompt and does not stop before.

labkit bench generate --json
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from labkit.bench.train import SHAPES, ModelShape
from labkit.configs import Count, check_fields
from labkit.errors import LabError


@dataclass(frozen=True)
class GenerateBench:
    """What to time. batch_sizes: rows written at once. modes: "greedy" and "sampled", at temperature 0.8 among the 40
    likeliest. prompt_tokens, new_tokens: how many of each. rounds: how often the sides take turns. gguf_file: a GGUF
    file of a model to write with in place of the shapes, one row at a time.
    """

    shapes: tuple[ModelShape, ...] = SHAPES
    batch_sizes: tuple[Count, ...] = (1, 32)
    modes: tuple[Literal["greedy", "sampled"], ...] = ("greedy", "sampled")
    prompt_tokens: Count = 16
    new_tokens: Count = 112
    rounds: Count = 5
    gguf_file: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)


Side = Callable[[], None]


def run(config: GenerateBench | None = None, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Tokens a second of every side, and `ratios`: ours over transformers', above 1 ours is faster. Raises LabError
    without transformers; llama.cpp takes part where the package xllamacpp is installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise LabError("labkit bench generate compares with transformers: pip install 'labkit[bench]'.") from error
    import torch

    from labkit.machine import default_device

    config = config or GenerateBench()
    transformers.logging.set_verbosity_error()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in _models(config):
            for batch in (1,) if config.gguf_file else config.batch_sizes:
                for mode in config.modes:
                    progress(f"{name}, {mode}, {batch} at a time")
                    generator = torch.Generator().manual_seed(0)
                    prompts = torch.randint(model.config.vocabulary, (batch, config.prompt_tokens), generator=generator)
                    speeds = _race(_sides(model, prompts, mode, config), batch, config)
                    if batch == 1 and default_device().type == "cpu":
                        speeds |= _llama_cpp(model, prompts[0].tolist(), mode, config, Path(folder) / name)
                    found.append({"model": name, "batch": batch, "mode": mode, **_compared(speeds)})
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return versions | {
        "threads": torch.get_num_threads(),
        "new": config.new_tokens,
        "prompt": config.prompt_tokens,
        "timings": found,
    }


def text_report(report: dict[str, Any]) -> str:
    """The report in a few lines."""
    lines = [f"tokens per second, {report['new']} new ones after {report['prompt']}"]
    for timing in report["timings"]:
        sides = "  ".join(f"{name} {speed:,.0f}" for name, speed in timing["tokens_per_second"].items())
        lines.append(f"{timing['model']:8} {timing['mode']:8} {timing['batch']:3}: {timing['ratio']:5.2f} x   {sides}")
    return "\n".join(lines)


def _models(config: GenerateBench) -> list[tuple[str, Any]]:
    import torch

    from labkit.hub.gguf import load_gguf
    from labkit.machine import default_device
    from labkit.model.feedforward import Gated
    from labkit.model.transformer import ModelConfig, Transformer

    if config.gguf_file is not None:
        return [(config.gguf_file.stem, load_gguf(config.gguf_file).to(default_device()))]
    tokenizer, models = _tokenizer(), []
    for s in config.shapes:
        torch.manual_seed(0)
        shape = ModelConfig(
            tokenizer.vocab_size,
            256,
            s.width,
            s.depth,
            s.heads,
            s.key_value_heads,
            feed_forward=Gated(s.intermediate_size),
        )
        models.append((s.name, Transformer(shape).eval().to(default_device())))
    return models


def _tokenizer() -> Any:
    """The demo run's: llama.cpp wants one in the file, and nothing is said with it."""
    from labkit.paths import demo_folder
    from labkit.text.tokenizer import Tokenizer

    return Tokenizer.load(demo_folder())


def _sides(model: Any, prompts: Any, mode: str, config: GenerateBench) -> dict[str, Side]:
    """What writes, by its name; the first word says whose it is."""
    from labkit.machine import has_bf16

    sides: dict[str, Side] = {}
    for half in (False, True) if has_bf16() else (False,):
        precision = "bf16" if half else "fp32"
        sides[f"ours {precision}"] = _ours(model, prompts, mode, half, config)
        sides[f"transformers {precision}"] = _theirs(model, prompts, mode, half, config)
        if model.embedding.weight.device.type == "cuda":
            static = {"cache_implementation": "static"}
            sides[f"transformers {precision} compiled"] = _theirs(model, prompts, mode, half, config, **static)
    return sides


def _ours(model: Any, prompts: Any, mode: str, half: bool, config: GenerateBench) -> Side:
    from labkit.decoding import Filter, Temperature, TopK
    from labkit.decoding.compiled import CompiledGenerator

    filters: list[Filter] = [Temperature(0)] if mode == "greedy" else [Temperature(0.8), TopK(40)]
    writer = CompiledGenerator(
        model, batch_size=len(prompts), max_length=config.prompt_tokens + config.new_tokens, filters=filters, bf16=half
    )

    def write() -> None:
        rows = writer.generate(prompts.tolist(), max_new_tokens=config.new_tokens)
        assert all(len(row) == config.new_tokens for row in rows)

    return write


def _theirs(model: Any, prompts: Any, mode: str, half: bool, config: GenerateBench, **cache: str) -> Side:
    import torch

    from labkit.bench.llama import as_transformers

    theirs = as_transformers(model).eval().to(torch.bfloat16 if half else torch.float32)
    theirs.config.use_cache = theirs.generation_config.use_cache = True
    theirs.generation_config.eos_token_id = None
    sampled: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 40}
    options = (sampled if mode == "sampled" else {"do_sample": False}) | cache
    rows_to_read = prompts.to(model.embedding.weight.device)

    def write() -> None:
        rows = theirs.generate(rows_to_read, max_new_tokens=config.new_tokens, pad_token_id=0, **options)
        assert rows.shape[1] == config.prompt_tokens + config.new_tokens

    return write


def _llama_cpp(model: Any, prompt: list[int], mode: str, config: GenerateBench, folder: Path) -> dict[str, float]:
    """Tokens a second of llama.cpp's own server, without the network between; nothing where xllamacpp is missing."""
    try:
        import xllamacpp
    except ImportError:
        return {}
    import torch

    from labkit.hub.gguf import save_gguf

    files = {"file": config.gguf_file} if config.gguf_file else {}
    for kind in () if config.gguf_file else ("f16", "q8_0"):
        files[kind] = folder.with_name(f"{folder.name}-{kind}.gguf")
        if not files[kind].exists():
            save_gguf(model, _tokenizer(), files[kind], kind)
    options: dict[str, Any] = {"max_tokens": config.new_tokens, "ignore_eos": True, "cache_prompt": False}
    options |= {"temperature": 0} if mode == "greedy" else {"temperature": 0.8, "top_k": 40, "top_p": 1.0, "min_p": 0.0}
    speeds: dict[str, float] = {}
    for kind, file in files.items():
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.warmup, params.verbosity = str(file), 256, False, -1
        params.cpuparams.n_threads = torch.get_num_threads()
        server = xllamacpp.Server(params)

        def write(server: Any = server) -> None:
            written = server.handle_completions({"prompt": prompt, **options})
            assert written["usage"]["completion_tokens"] == config.new_tokens

        speeds |= _race({f"llama.cpp {kind}": write}, 1, config)
        del write, server  # and with them its threads
    return speeds


def _race(sides: dict[str, Side], batch: int, config: GenerateBench) -> dict[str, float]:
    """Tokens a second of each side in turns, the first round (which compiles and allocates) not counted."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(config.rounds + 1):
        for name, write in sides.items():
            start = time.perf_counter()
            write()
            if round_:
                taken[name].append(time.perf_counter() - start)
    return {name: batch * config.new_tokens / statistics.median(seconds) for name, seconds in taken.items()}


def _compared(speeds: dict[str, float]) -> dict[str, Any]:
    def best(side: str) -> float:
        return max(speed for name, speed in speeds.items() if name.startswith(side))

    return {"tokens_per_second": speeds, "ratio": best("ours") / best("transformers")}
