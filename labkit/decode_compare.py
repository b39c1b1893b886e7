"""The same prompt under several strategies, in the terminal: the texts, where they part, and their scores."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from labkit.talk import RunFolder, Stage

if TYPE_CHECKING:
    from labkit.decoding.strategies import Strategy
    from labkit.model.transformer import Transformer
    from labkit.text.tokenizer import Tokenizer

DEFAULT = ("greedy", "temperature=1", "temperature=0.8 top-p=0.9", "beam beams=4")


@dataclass(frozen=True)
class CompareOptions:
    """Write on from one prompt under several strategies, which see the same random numbers, and score what comes."""

    run: RunFolder
    """The run's folder."""
    prompt: str = ""
    """A message to reply to; without one, a task of the run's world."""
    strategies: Annotated[tuple[str, ...], arg(metavar="LINE [LINE ...]", help_behavior_hint="")] = DEFAULT
    """Each a line in quotes, as greedy, "temperature=0.8 top-k=40 top-p=0.9", "beam beams=4 length-penalty=0.8" or
    "contrastive k=5 alpha=0.6". Filters work in the order in which they stand."""
    seeds: int = 8
    """How many texts each strategy of chance writes for its scores."""
    stage: Stage = None
    """The model after this stage; after the last when not given."""
    max_tokens: int = 100
    """The longest text."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print everything as JSON."""


@dataclass(frozen=True)
class Compared:
    """strategy: as a line. text: of the first seed. parts: its first word that differs from the first strategy's text,
    -1 when none does. scores: means over the seeds; errors: their standard errors, 0 where chance has no part.
    """

    strategy: str
    text: str
    parts: int
    scores: dict[str, float]
    errors: dict[str, float]


def compare(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    strategies: Sequence[Strategy],
    *,
    seeds: int,
    max_new_tokens: int,
) -> list[Compared]:
    """All strategies on one prompt; the same seed gives each of them the same draws."""
    from labkit.decoding.scores import distinct, log_likelihood, repetition, self_bleu

    found: list[Compared] = []
    first: list[str] = []
    for strategy in strategies:
        many = range(seeds) if strategy.draws else range(1)
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop_ids": tokenizer.specials}
        texts = strategy.write(model, prompt, seeds=many, **options)
        by_text = {
            "nats a token": [log_likelihood(model, prompt, text) for text in texts if text],
            "repetition": [repetition(text) for text in texts],
            "tokens": [float(len(text)) for text in texts],
        }
        scores = {name: statistics.mean(values) if values else float("nan") for name, values in by_text.items()}
        scores |= {"distinct-2": distinct(texts), "self-BLEU": self_bleu(texts)}
        errors = {name: statistics.stdev(x) / len(x) ** 0.5 if len(x) > 1 else 0.0 for name, x in by_text.items()}
        words = tokenizer.decode(texts[0]).split()
        first = first or words
        parts = next((i for i, (a, b) in enumerate(zip(first, words, strict=False)) if a != b), -1)
        if parts < 0 and len(first) != len(words):
            parts = min(len(first), len(words))
        found.append(Compared(str(strategy), " ".join(words), parts, scores, errors))
    return found


def table(found: Sequence[Compared]) -> str:
    """The texts, the first word that differs in brackets, and under them the scores."""
    lines = []
    for one in found:
        words = one.text.split(" ")
        if 0 <= one.parts < len(words):
            words[one.parts] = f"[{words[one.parts]}]"
        lines += [one.strategy, f"    {' '.join(words)}"]
    names = list(found[0].scores)
    width = max(len(one.strategy) for one in found)
    lines += ["", f"{'':{width}}" + "".join(f"{name:>18}" for name in names)]
    for one in found:
        cells = [_cell(one.scores[name], one.errors.get(name, 0.0)) for name in names]
        lines.append(f"{one.strategy:{width}}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def _cell(value: float, error: float) -> str:
    if value != value:
        return "-"
    return f"{value:.3f}" + (f" ± {error:.3f}" if error else "")


def main(options: CompareOptions) -> int:
    """`labkit decode-compare`."""
    import json

    from labkit.decoding.strategies import parse
    from labkit.runs import Run
    from labkit.talk import unescape
    from labkit.text.chat import encode_prompt
    from labkit.world import Message

    strategies = [parse(line) for line in options.strategies]
    run = Run.open(Path(options.run))
    tokenizer, model = run.tokenizer(), run.model(options.stage)
    asked = unescape(options.prompt) or _task(run)
    prompt = encode_prompt(tokenizer, [Message("user", asked)])
    limits: dict[str, Any] = {"seeds": options.seeds, "max_new_tokens": options.max_tokens}
    found = compare(model, tokenizer, prompt, strategies, **limits)
    if options.json:
        rows = [dataclasses.asdict(one) for one in found]
        print(json.dumps({"prompt": asked, "seeds": options.seeds, "strategies": rows}, indent=2))
    else:
        print(f"{asked}\n\n{table(found)}")
    return 0


def _task(run: Any) -> str:
    from labkit.errors import LabError
    from labkit.world import World

    if run.recipe.text is not None or run.recipe.instructions is not None:
        raise LabError("This run has no world to take a task from: say what to reply to, with --prompt.")
    return World.load(run.recipe.world_size).task("test", 0, 0, "write").messages[-1].content
