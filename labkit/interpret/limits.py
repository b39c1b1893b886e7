"""What it costs to look at a text's attention, before it is read: attention maps grow with the square of its length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from labkit.errors import LabError
from labkit.interpret.inspection import ROWS
from labkit.interpret.patching import patchable_residual_sites
from labkit.model.transformer import Transformer

MAX_PAGE_BYTES = 1e9
"""Bytes that one visitor of a page may ask for."""
MAX_PATCHING_FLOPS = 4e12
"""Floating-point operations that one visitor may ask for."""


def attention_bytes(model: Transformer, tokens: int, source_tokens: int = 0) -> float:
    """Memory of an `Inspection` at so many tokens (and at the `source_tokens` tokens that an encoder reads), and of its
    `ablation_effects`:

        4 heads (2 layers T^2 + rows T^2)

    The scores and the weights of every layer are kept; for `ablation_effects` one layer's weights are there for as many
    copies of the text as are read at once.
    """
    config = model.config
    squares = tokens**2 * config.depth
    if config.encoder_depth:
        squares += source_tokens**2 * config.encoder_depth + tokens * source_tokens * config.depth
    return 4.0 * config.heads * (2 * squares + ROWS * max(tokens, source_tokens) ** 2)


def check_attention_memory(
    model: Transformer, tokens: int, source_tokens: int = 0, max_bytes: float = MAX_PAGE_BYTES
) -> float:
    """The bytes. Raises LabError above `max_bytes`, and says how long a text may be."""
    found = attention_bytes(model, tokens, source_tokens)
    if found > max_bytes:
        longest = math.floor(max(tokens, source_tokens) * math.sqrt(max_bytes / found))
        raise LabError(
            f"The attention of a text of {max(tokens, source_tokens):,} tokens takes {found / 1e9:,.1f} GB; the limit "
            f"is {max_bytes / 1e9:,.1f} GB. Use a text of at most {longest:,} tokens."
        )
    return found


def check_patching_cost(
    model: Transformer, clean_ids: Sequence[int], corrupted_ids: Sequence[int], max_flops: float = MAX_PATCHING_FLOPS
) -> float:
    """The floating-point operations of `activation_patching` two texts. Raises LabError above `max_flops`."""
    readings = len(patchable_residual_sites(model, clean_ids, corrupted_ids)) + model.config.depth * model.config.heads
    found = (
        readings * len(corrupted_ids) * model.training_flops_per_token(len(corrupted_ids)) / 3
    )  # a forward pass is a third
    if found > max_flops:
        raise LabError(
            f"Patching these texts takes {readings:,} forward passes of {len(corrupted_ids):,} tokens, "
            f"{found / 1e12:,.1f} TFLOP; the limit is {max_flops / 1e12:,.1f} TFLOP. Use shorter texts, or texts that "
            "differ only near their end."
        )
    return found
