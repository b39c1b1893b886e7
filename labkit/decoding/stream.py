"""Write on from one prompt, token by token, as a person reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from labkit.decoding.filters import Filter
from labkit.decoding.generate import draw
from labkit.errors import LabError
from labkit.model.transformer import Transformer


def stream(
    model: Transformer,
    prompt: Sequence[int],
    *,
    steps: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """The tokens that ``generate`` returns for this one prompt, each as soon as it is drawn.

    Takes the same arguments, and from the same generator the same randomness, so the tokens are the same.
    Raises LabError for a prompt that is empty or leaves no room in the context.
    """
    context = model.config.context
    if not 0 < len(prompt) < context:
        raise LabError(f"The prompt has {len(prompt)} tokens; it needs at least one, and fewer than {context}.")
    device = model.embedding.weight.device
    draws = torch.rand(1, max_new_tokens, generator=generator).to(device)  # [1, N]
    room = min(max_new_tokens, context - len(prompt))
    tokens = torch.tensor([list(prompt)], device=device)  # [1, T]
    state = model.new_state(1, len(prompt) + room)
    model.eval()
    for step in range(room):
        with torch.no_grad():
            logits = model.logits(model.hidden(tokens, state=state)[:, -1:]).squeeze(1).float()  # [1, V]
            for filter_ in steps:
                logits = filter_(logits)
            token = draw(logits, draws[:, step])
        if int(token) in stop_ids:
            return
        yield int(token)
        tokens = token.unsqueeze(-1)
