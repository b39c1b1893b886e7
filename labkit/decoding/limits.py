"""What a strategy costs, before anything is written: for those who serve several people from one machine."""

from __future__ import annotations

from typing import NamedTuple

from labkit.decoding.strategies import Strategy
from labkit.errors import LabError
from labkit.model.mixers import SelfAttention
from labkit.model.transformer import Transformer

WIDTH = {"beam": "beams", "contrastive": "k", "best": "n"}
"""The option that says how many rows a kind writes at once; the others write one."""


class GenerationCost(NamedTuple):
    """batch_size: texts that are written at once. processed_tokens: that models read, in all rows. flops:
    floating-point operations of these readings. kv_cache_bytes: of the keys and values of all rows.
    """

    batch_size: int
    processed_tokens: int
    flops: float
    kv_cache_bytes: float


MAX_PAGE_COST = GenerationCost(batch_size=32, processed_tokens=20_000, flops=4e12, kv_cache_bytes=1e9)
"""What one visitor of a page may ask for: under half a minute of two cores."""


def generation_cost(strategy: Strategy, prompt_tokens: int, new_tokens: int, model: Transformer) -> GenerationCost:
    """Of one text of at most `new_tokens` after a prompt of `prompt_tokens`, if nothing ends it earlier.

    For "best" the judge's reading is counted as if it were done by `model`, for "speculative" every guess as if it were
    read by the large model alone.
    """
    config = model.config
    new = max(0, min(new_tokens, config.context - prompt_tokens))
    rows = strategy.option(WIDTH[strategy.kind]) if strategy.kind in WIDTH else 1
    read = rows * new
    if strategy.kind == "best":
        read += rows * (prompt_tokens + new)
    if strategy.kind == "speculative":
        read = new * (1 + strategy.option("ahead"))
    length = prompt_tokens + new
    tokens = prompt_tokens + read
    attended = length if isinstance(config.mixer, SelfAttention) else 1
    vector = config.attention_config.key_value_heads * config.attention_config.head_dim
    memory = 8.0 * rows * attended * config.depth * vector  # keys and values in fp32
    return GenerationCost(
        rows, tokens, tokens * model.training_flops_per_token(length) / 3, memory
    )  # a forward pass is a third


def check_generation_cost(
    strategy: Strategy,
    prompt_tokens: int,
    new_tokens: int,
    model: Transformer,
    max_cost: GenerationCost = MAX_PAGE_COST,
) -> GenerationCost:
    """The cost. Raises LabError where any of its numbers is above that of `max_cost`, and says which and what to take
    less of.
    """
    found = generation_cost(strategy, prompt_tokens, new_tokens, model)
    said = {
        "batch_size": f"{found.batch_size:,} texts at once; the limit is {max_cost.batch_size:,}",
        "processed_tokens": f"{found.processed_tokens:,} tokens to process; the limit is {max_cost.processed_tokens:,}",
        "flops": f"{found.flops / 1e12:,.1f} TFLOP; the limit is {max_cost.flops / 1e12:,.1f} TFLOP",
        "kv_cache_bytes": f"{found.kv_cache_bytes / 1e9:,.1f} GB of key/value cache; the limit is "
        f"{max_cost.kv_cache_bytes / 1e9:,.1f} GB",
    }
    for name, words in said.items():
        if getattr(found, name) > getattr(max_cost, name):
            option = WIDTH.get(strategy.kind)
            less = f"a smaller {option}=" if name == "batch_size" else f"a smaller {option}= or fewer tokens"
            raise LabError(f"{strategy} is {words}. Use {less if option else 'fewer tokens'}.")
    return found
