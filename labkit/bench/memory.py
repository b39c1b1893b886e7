"""What a large text takes: the memory and seconds of reading, tokenizing and 20 steps of training, in three forms.

Counted is anonymous resident memory (RssAnon of /proc: what no file backs), sampled from outside, beyond that of a
process that imports torch and trains the same model for a step on random tokens. Linux only.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from labkit.configs import Range, check_fields
from labkit.errors import LabError

STEPS = 20
UNIQUE = 10_000_000
"""Bytes after which a text begins again."""


@dataclass(frozen=True)
class MemoryBench:
    """megabytes: of each text. out: where texts and runs go while they are measured; texts are removed."""

    megabytes: Annotated[int, Range(1, 100_000)] = 300
    out: Path = Path("runs/memory")

    def __post_init__(self) -> None:
        check_fields(self)


def random_english_prose(num_bytes: int, sentence_end: str = ".\n") -> str:
    """About `num_bytes` bytes of words that are as frequent as words are (Zipf), in sentences."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("etaoinshrdlucmfwypvbgkqjxz", range(26, 0, -1), k=draw.randint(1, 9)))
        for _ in range(40_000)
    ]
    chosen = draw.choices(words, [1 / (rank + 3) for rank in range(len(words))], k=num_bytes // 6)
    return "".join(" ".join(chosen[at : at + 12]).capitalize() + sentence_end for at in range(0, len(chosen), 12))


def random_chinese_text(num_bytes: int) -> str:
    """About `num_bytes` bytes of Chinese characters, as frequent as these are, in clauses; no blank, no line's end."""
    draw = random.Random(1)
    signs = [chr(0x4E00 + at) for at in range(5000)]
    draw.shuffle(signs)
    chosen = draw.choices(signs, [1 / (rank + 5) for rank in range(len(signs))], k=num_bytes // 3)
    return "".join(sign + (draw.choice("，，，。") if draw.random() < 0.08 else "") for sign in chosen)


FORMS: dict[str, Callable[[int], str]] = {
    "many lines": random_english_prose,
    "one line": lambda size: random_english_prose(size, ". "),
    "one line of Chinese": random_chinese_text,
}


def run(config: MemoryBench, say: Callable[[str], object] = print) -> dict[str, Any]:
    """{form: {"megabytes", "tokens", "seconds", "peak_mb", "torch_mb", "beyond_torch_mb"}}. Raises LabError where the
    system does not tell, or a run fails.
    """
    if not Path("/proc/self/status").is_file():
        raise LabError("labkit bench memory reads /proc, which this system does not have.")
    config.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for form, write in FORMS.items():
        say(f"{form}, {config.megabytes} MB")
        found[form] = _measure(config, form.replace(" ", "-"), write)
    return found


def _measure(config: MemoryBench, name: str, write: Callable[[int], str]) -> dict[str, Any]:
    text, made = config.out / f"{name}.txt", config.out / name
    shutil.rmtree(made, ignore_errors=True)
    block = write(min(UNIQUE, config.megabytes * 10**6))
    try:
        with open(text, "w", encoding="utf-8") as file:
            while file.tell() < config.megabytes * 10**6:
                file.write(block)
        start = time.perf_counter()
        peak = _peak("train", str(text), str(made))
        seconds = time.perf_counter() - start
    finally:
        text.unlink(missing_ok=True)
    torch = _peak("torch", str(made))
    tokens = next((made / "corpus").glob("*.bin")).stat().st_size // 2
    return {
        "megabytes": config.megabytes,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / 1e6),
        "torch_mb": round(torch / 1e6),
        "beyond_torch_mb": round((peak - torch) / 1e6),
    }


def _peak(*arguments: str) -> int:
    """The most anonymous memory of a process of this file, in bytes."""
    process = subprocess.Popen([sys.executable, "-m", "labkit.bench.memory", *arguments])
    status, most = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        line = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon")), "RssAnon: 0 kB")
        most = max(most, int(line.split()[1]) * 1024)
        time.sleep(0.01)
    if process.returncode:
        raise LabError(f"A measuring process ended with exit code {process.returncode}; its output is above.")
    return most


def _train(text: str, made: str) -> None:
    """What is measured: a run that reads a text and pretrains for some steps."""
    from labkit.runs.pipeline import run
    from labkit.runs.presets import make_recipe
    from labkit.stages import Pretrain

    recipe = make_recipe("lab", text=text)
    train = dataclasses.replace(recipe.stages["pretrain"].train, steps=STEPS, compile=False)
    for _ in run(recipe.with_stages(pretrain=Pretrain(train)), made):
        pass


def _torch(made: str) -> None:
    """What it is held against: the same model, a step on random tokens."""
    import numpy as np

    from labkit.model.transformer import Transformer
    from labkit.runs.folder import Run
    from labkit.text.sources import RandomChunkSource
    from labkit.training.loop import fit

    run = Run.open(made)
    stage, vocabulary = run.recipe.stages["pretrain"], run.tokenizer().vocab_size
    model = Transformer(dataclasses.replace(run.recipe.model, vocabulary=vocabulary))
    ids = np.random.default_rng(0).integers(vocabulary, size=100_000, dtype=np.uint16)
    source = RandomChunkSource(ids, stage.train.batch_size, stage.train.max_length)
    next(iter(fit(model, source, stage.objective, dataclasses.replace(stage.train, steps=1))))


def text_report(result: dict[str, Any]) -> str:
    """A line a form."""
    return "\n".join(
        f"{form:20} {one['megabytes']} MB: {one['beyond_torch_mb']:,} MB beyond torch and the model "
        f"({one['torch_mb']:,} MB), {one['tokens']:,} tokens, {one['seconds']:.0f} s"
        for form, one in result.items()
    )


if __name__ == "__main__":
    if sys.argv[1] == "train":
        _train(*sys.argv[2:])
    else:
        _torch(*sys.argv[2:])
