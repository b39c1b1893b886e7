"""``labkit generate RUN``: let the model of a run write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from labkit.commands.options import Draft, NewTokens, RunFolder, Stage, Stops, Text, TopP, parse_options
from labkit.configs import Count, CountOrNone, NonNegative, Seed


@dataclass(frozen=True)
class GenerateOptions:
    """Generate text with a run's model: continue a prompt, or with --chat reply to it."""

    run: RunFolder
    """The run's folder."""
    prompt: Text = ""
    """The text to continue; without one, the model starts a text by itself. Backslashes are not escapes; for a new
    line, write $'one line\\nanother' in bash."""
    chat: Annotated[bool, arg(help_behavior_hint="")] = False
    """Treat the prompt as a user message, and generate the reply."""
    count: Count = 1
    """How many texts to generate."""
    stage: Stage = None
    """Use the model after this stage; when not given, after the last one with --chat, else the base model after the
    first one."""
    temperature: NonNegative = 1.0
    """Sampling temperature. 0: greedy; 1: sample from the model's distribution."""
    top_k: CountOrNone = 0
    """Sample from the k most probable tokens only; 0: from all."""
    top_p: TopP = 1.0
    """Sample from the smallest set of most probable tokens whose probabilities sum to at least this (nucleus
    sampling)."""
    strategy: Annotated[str | None, arg(metavar="LINE", help_behavior_hint="")] = None
    """Decoding strategy, in place of --temperature, --top-k and --top-p: a line in quotes, as "beam beams=4",
    "contrastive k=5 alpha=0.6", "best n=8" (the answer with the highest reward of 8), "speculative ahead=4" (with
    --draft) or "repetition=1.2 temperature=0.8 min-p=0.1 ban=dog"; filters are applied in the order given."""
    stop: Stops = ()
    """Texts at which generation stops."""
    draft: Draft = None
    """For speculative decoding: the folder of the draft model's run, which must have the same tokenizer."""
    max_tokens: NewTokens = 200
    """Maximum number of new tokens in a text."""
    seed: Seed = 0
    """Random seed of sampling."""


def print_generations(options: GenerateOptions) -> int:
    """Print ``count`` texts, with an empty line between them."""
    import torch

    from labkit.decoding import generate
    from labkit.decoding.filters import sampling_filters
    from labkit.decoding.strategies import parse_strategy
    from labkit.errors import LabError
    from labkit.runs.decoding import decoding_resources
    from labkit.runs.folder import Run
    from labkit.text.chat import decode_reply, encode_prompt, encode_text_prompt
    from labkit.world import Message

    if options.strategy is not None and sampling_filters(options.temperature, options.top_k, options.top_p):
        raise LabError("--strategy replaces --temperature, --top-k and --top-p: write them into the strategy.")
    run = Run.open(options.run)
    tokenizer = run.tokenizer()
    model = run.model(options.stage or (None if options.chat else next(iter(run.recipe.stages))))
    begun = options.prompt
    if options.chat and not begun.strip():
        raise LabError("There is nothing to reply to: give a message with --prompt.")
    if options.chat:
        prompt = encode_prompt(tokenizer, [Message("user", begun)])
    else:  # real text is read as it is, without a space before it
        prompt = encode_text_prompt(tokenizer, begun, leading_space=run.recipe.text is None)
    resources = decoding_resources(run, options.stop, options.draft)
    limits: dict[str, Any] = {"max_new_tokens": options.max_tokens, "stop_ids": tokenizer.stop_ids}
    if options.strategy is not None:
        seeds = range(options.seed, options.seed + options.count)
        written = parse_strategy(options.strategy).generate(model, prompt, seeds=seeds, resources=resources, **limits)
    else:
        filters, generator = (
            sampling_filters(options.temperature, options.top_k, options.top_p),
            torch.Generator().manual_seed(options.seed),
        )
        written = generate(
            model,
            [prompt] * options.count,
            filters=filters,
            stop=resources.stop_strings(),
            generator=generator,
            **limits,
        )
    if options.chat or not begun:
        print("\n\n".join(decode_reply(tokenizer, ids) for ids in written))
    else:
        print("\n\n".join(begun + tokenizer.decode_continuation(prompt, ids) for ids in written))
    return 0


def command(arguments: list[str]) -> int:
    """`labkit generate`: its exit code."""
    return print_generations(parse_options(GenerateOptions, "generate", arguments))
