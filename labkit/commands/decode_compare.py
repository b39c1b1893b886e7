"""``labkit decode-compare RUN``: the same prompts under several strategies, side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from labkit.commands.options import Draft, NewTokens, RunFolder, Stage, Stops, Text, parse_options
from labkit.configs import Count, CountOrNone

if TYPE_CHECKING:
    from labkit.evaluation.strategies import StrategyResult

DEFAULT = ("greedy", "temperature=1", "temperature=0.8 top-p=0.9", "beam beams=4")
Switch = Annotated[bool, arg(help_behavior_hint="")]


@dataclass(frozen=True)
class DecodeCompareOptions:
    """Generate from the same prompts with several strategies, on the same random numbers, and score the texts."""

    run: RunFolder
    """The run's folder."""
    prompt: Text = ""
    """The user message to reply to; without one, a held-out story-writing task of the run's TinyWorld."""
    tasks: CountOrNone = 0
    """Instead of one prompt, use this many held-out TinyWorld tasks, of all types in turn; 0: use --prompt. The 95 %
    confidence intervals are then over tasks."""
    strategies: Annotated[tuple[str, ...], arg(metavar="LINE [LINE ...]", help_behavior_hint="")] = DEFAULT
    """Each strategy a line in quotes, as greedy, "temperature=0.8 top-k=40 top-p=0.9", "beam beams=4
    length-penalty=0.8", "contrastive k=5 alpha=0.6", "best n=8" or "speculative ahead=4". Filters are applied in the
    order given."""
    samples: Count = 8
    """How many texts to sample from each prompt for the scores; strategies without sampling generate one."""
    stage: Stage = None
    """Use the model after this stage; after the last one when not given."""
    draft: Draft = None
    """For speculative decoding: the folder of the draft model's run, which must have the same tokenizer."""
    stop: Stops = ()
    """Texts at which generation stops."""
    max_tokens: NewTokens = 100
    """Maximum number of new tokens in a text."""
    json: Switch = False
    """Print texts and scores as JSON."""
    older_names = {"samples": "seeds"}


def print_strategy_comparison(options: DecodeCompareOptions) -> int:
    """Generate and score the texts, and print both; the exit code."""
    import json

    from labkit.decoding.strategies import parse_strategy
    from labkit.evaluation.strategies import compare_strategies, format_strategies_table
    from labkit.runs.decoding import decoding_resources, world_and_prompts
    from labkit.runs.folder import Run

    strategies = [parse_strategy(line) for line in options.strategies]
    run = Run.open(Path(options.run))
    model = run.model(options.stage)
    world, asked = world_and_prompts(run, options.prompt, options.tasks)
    resources = decoding_resources(
        run, options.stop, options.draft, world, {tuple(one.ids): one.task for one in asked if one.task}
    )
    limits: dict[str, Any] = {"seeds": options.samples, "max_new_tokens": options.max_tokens}
    limits |= {"world": world, "resources": resources, "annotator": run.recipe.annotation.annotator}
    found = compare_strategies(model, run.tokenizer(), asked, strategies, **limits)
    if options.json:
        rows = [dataclasses.asdict(one) | {"scores": _by_name(one)} for one in found]
        prompts = [one.text for one in asked]
        print(json.dumps({"prompts": prompts, "samples": options.samples, "strategies": rows}, indent=2))
    else:
        print(f"{asked[0].text}\n\n{format_strategies_table(found)}")
    return 0


def _by_name(one: StrategyResult) -> dict[str, dict[str, float | None]]:
    """JSON has no word for what is no number."""
    return {
        name: {"mean": None if score.value != score.value else score.value, "half_width": score.half_width_95}
        for name, score in one.scores.items()
    }


def command(arguments: list[str]) -> int:
    """`labkit decode-compare`: its exit code."""
    return print_strategy_comparison(parse_options(DecodeCompareOptions, "decode-compare", arguments))
