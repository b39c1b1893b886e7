"""What every strategy asks of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labkit.errors import LabError
from labkit.model.reading import Memory
from labkit.model.transformer import Transformer


def check_prompt(model: Transformer, prompt: Sequence[int], which: str = "The prompt") -> None:
    """Raises LabError for a prompt that is empty or leaves no room in the context, and for a model that does not write
    word by word.
    """
    context = model.config.context
    if not model.causal:
        raise LabError("This model does not write word by word: its tokens see later ones.")
    if not prompt:
        raise LabError(f"{which} is empty; begin it with at least one token.")
    if len(prompt) >= context:
        raise LabError(f"{which} has {len(prompt)} tokens and leaves no room in a context of {context}.")


def remembered(model: Transformer, sources: Sequence[Sequence[int]] | None) -> Memory | None:
    """What the encoder makes of the sources, one a row; None for a model without. Raises LabError where there is an
    encoder and nothing to read, or the reverse.
    """
    if model.encoder is None and sources is None:
        return None
    if model.encoder is None:
        raise LabError("This model has no encoder, so there is no source to read: put it in the prompt.")
    if not sources or not all(sources):
        raise LabError("This model has an encoder: give it a source of at least one token for each prompt.")
    device, S = model.embedding.weight.device, max(map(len, sources))
    tokens = torch.tensor([[*source, *[0] * (S - len(source))] for source in sources], device=device)
    lengths = torch.tensor([[len(source)] for source in sources], device=device)
    return model.encode(tokens, torch.arange(S, device=device) < lengths)
