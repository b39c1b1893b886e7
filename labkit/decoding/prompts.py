"""What every strategy asks of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.errors import LabError
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
