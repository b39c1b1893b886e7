"""A Transformer's weights in transformers' own model of the same shape."""

from __future__ import annotations

import tempfile
from typing import Any

from labkit.hub import save_pretrained
from labkit.model.transformer import Transformer


def as_transformers(model: Transformer, attn_implementation: str = "sdpa") -> Any:
    """transformers' model of the same family, with a copy of the weights, on its device, in training mode.

    attn_implementation: transformers' ``attn_implementation``, "sdpa" or "eager".
    """
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation=attn_implementation, dtype=torch.float32
        )
    theirs.config.use_cache = False
    return theirs.train().to(model.embedding.weight.device)
