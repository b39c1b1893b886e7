"""Look inside a model while it reads: what each token attends to."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.model.transformer import Transformer
from labkit.text.tokenizer import Tokenizer


class Attention(NamedTuple):
    """tokens: the T pieces of a text, as they are written. weights [L, H, T, T]: of each layer's heads, in fp32; row i
    says how much token i takes from each token, and adds up to 1.
    """

    tokens: list[str]
    weights: Tensor


class Recorder:
    """A tap that keeps what it is shown, by name, and changes nothing. wanted: how the names end, one or several."""

    def __init__(self, wanted: str | tuple[str, ...]):
        self.wanted = wanted
        self.kept: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name.endswith(self.wanted):
            self.kept[name] = x.detach().float().cpu()
        return x


@torch.no_grad()
def attention(model: Transformer, tokenizer: Tokenizer, ids: Sequence[int]) -> Attention:
    """What the model attends to while it reads `ids`. Raises LabError for no token, or more than its context."""
    context = model.config.context
    if not 0 < len(ids) <= context:
        raise LabError(f"A text of {len(ids)} tokens cannot be looked at: give 1 to {context}.")
    recorder = Recorder("attention.weights")
    device = model.embedding.weight.device
    was_training = model.training
    model.eval()
    model(torch.tensor([list(ids)], device=device), tap=recorder)
    model.train(was_training)
    weights = torch.stack([layer[0] for layer in recorder.kept.values()])
    return Attention([tokenizer.token(token) for token in ids], weights)


def for_viewer(found: Attention) -> dict[str, Any]:
    """What the viewer reads: {"tokens", "layers", "heads", "weights"}, the weights as bytes (0 to 255) in base64.

    Bytes are a fortieth of the same numbers as JSON, and finer than an eye can tell.
    """
    layers, heads = found.weights.shape[:2]
    data = (found.weights * 255).round().to(torch.uint8).contiguous().numpy().tobytes()
    return {
        "tokens": found.tokens,
        "layers": layers,
        "heads": heads,
        "weights": base64.b64encode(data).decode("ascii"),
    }
