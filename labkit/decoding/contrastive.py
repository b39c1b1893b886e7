"""Contrastive search: a likely token that does not say again what was said."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F

from labkit.decoding.prompts import check_prompt
from labkit.errors import LabError
from labkit.model.transformer import Transformer


@torch.no_grad()
def contrastive_search(
    model: Transformer,
    prompt: Sequence[int],
    *,
    k: int,
    alpha: float,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
) -> list[int]:
    """New tokens, each of the k likeliest the one with the largest (1 - alpha) · probability - alpha · the largest
    cosine between its vector and those of all tokens before.

    A Contrastive Framework for Neural Text Generation, https://arxiv.org/abs/2202.06417. The vectors are those that the
    head reads. Raises LabError for k below 1, alpha outside 0 to 1, and as `check_prompt`.
    """
    if k < 1 or not 0 <= alpha <= 1:
        raise LabError(f"Contrastive search takes k of 1 or more and alpha from 0 to 1, not {k} and {alpha}.")
    check_prompt(model, prompt)
    device = model.embedding.weight.device
    room = min(max_new_tokens, model.config.context - len(prompt))
    was_training = model.training
    model.eval()
    state = model.new_state(1, len(prompt) + room)
    vectors = model.hidden(torch.tensor([list(prompt)], device=device), state=state)[0]  # [T, D]
    written: list[int] = []
    while len(written) < room:
        shares, tokens = model.logits(vectors[-1:])[0].float().softmax(-1).topk(min(k, model.config.vocabulary))
        tried = state.select(torch.zeros(len(tokens), dtype=torch.int64, device=device))
        new = model.hidden(tokens.unsqueeze(-1), state=tried)[:, 0]  # [k, D]
        alike = F.normalize(new.float(), dim=-1) @ F.normalize(vectors.float(), dim=-1).T  # [k, T]
        best = int(((1 - alpha) * shares - alpha * alike.amax(-1)).argmax())
        if int(tokens[best]) in stop_ids:
            break
        written.append(int(tokens[best]))
        state, vectors = tried.select(torch.tensor([best], device=device)), torch.cat((vectors, new[best : best + 1]))
    model.train(was_training)
    return written
