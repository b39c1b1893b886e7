"""What every strategy asks of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labkit.errors import LabError
from labkit.machine import check_memory_available
from labkit.model.context import EncoderOutput
from labkit.model.transformer import Transformer

LONGEST = 2**20
"""New tokens that may be asked for; the model's context ends a text earlier."""


def check_prompt(model: Transformer, prompt: Sequence[int], which: str = "The prompt") -> None:
    """Raises LabError for a prompt that is empty, has a token that is not in the vocabulary or leaves no room in the
    context, and for a model that does not write word by word.
    """
    context = model.config.context
    if not model.causal:
        raise LabError("This model cannot generate text: its attention is bidirectional.")
    if not prompt:
        raise LabError(f"{which} is empty; it needs at least one token.")
    if len(prompt) >= context:
        raise LabError(f"{which} has {len(prompt)} tokens and leaves no room for new tokens in a context of {context}.")
    check_in_vocabulary(model, prompt, which)


def check_in_vocabulary(model: Transformer, tokens: Sequence[int], which: str) -> None:
    """Raises LabError for a token that is not in the vocabulary."""
    unknown = [token for token in tokens if not 0 <= token < model.config.vocabulary]
    if unknown:
        raise LabError(
            f"{which} has the token {unknown[0]}, which is not in a vocabulary of {model.config.vocabulary}."
        )


def check_generation_memory(model: Transformer, batch_size: int, prompt_tokens: int, max_new_tokens: int) -> None:
    """Raises LabError for a number of new tokens that makes no sense, and where the keys and values of so many rows
    after a prompt of so many tokens are more than the memory of the model's device.
    """
    if not 1 <= max_new_tokens <= LONGEST:
        raise LabError(f"The number of new tokens must be from 1 to {LONGEST:,}, not {max_new_tokens:,}.")
    config = model.config
    length = min(config.context, prompt_tokens + max_new_tokens)
    each = length * 2 * config.depth * config.attention_config.key_value_heads * config.attention_config.head_dim
    what = f"Writing {batch_size:,} texts of up to {length:,} tokens at once"
    check_memory_available(4.0 * batch_size * each, what, model.embedding.weight.device)


def run_encoder(model: Transformer, encoder_prompts: Sequence[Sequence[int]] | None) -> EncoderOutput | None:
    """What the encoder makes of its prompts, one a row; None for a model without. Raises LabError where there is an
    encoder and nothing to read, or the reverse.
    """
    if model.encoder is None and encoder_prompts is None:
        return None
    if model.encoder is None:
        raise LabError("This model has no encoder, so it takes no source text: put the text in the prompt.")
    if not encoder_prompts or not all(encoder_prompts):
        raise LabError("This model has an encoder: give it a source of at least one token for each prompt.")
    for ids in encoder_prompts:
        check_in_vocabulary(model, ids, "The source")
    device, S = model.embedding.weight.device, max(map(len, encoder_prompts))
    tokens = torch.tensor([[*ids, *[0] * (S - len(ids))] for ids in encoder_prompts], device=device)
    lengths = torch.tensor([[len(ids)] for ids in encoder_prompts], device=device)
    return model.encode(tokens, torch.arange(S, device=device) < lengths)
