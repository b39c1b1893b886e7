"""Which of a text's inner numbers make the difference to another text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.interpret.inspection import ROWS
from labkit.interpret.taps import ActivationRecorder, PatchActivations
from labkit.model.mixers import SelfAttention
from labkit.model.transformer import Transformer


class AnswerIds(NamedTuple):
    """The tokens whose log-odds are measured: by default what the clean text predicts, and what the corrupted does."""

    clean: int
    corrupted: int


class PatchingResult(NamedTuple):
    """residual_recovered [1 + L, T]: how much of the difference comes back when the vector of one token after one layer
    (0: the embeddings) is the clean text's, in the corrupted; heads_recovered [L, H]: likewise of what one head gives
    to all tokens. 0: nothing, 1: all of it. answer_ids: whose log-odds are measured. clean_log_odds,
    corrupted_log_odds: log P(answer_ids.clean) - log P(answer_ids.corrupted) in nats, in either text.
    """

    residual_recovered: Tensor
    heads_recovered: Tensor
    answer_ids: AnswerIds
    clean_log_odds: float
    corrupted_log_odds: float


Progress = Callable[[int, int], None]
"""Told how many of how many readings are done."""


@torch.no_grad()
def activation_patching(
    model: Transformer,
    clean_ids: Sequence[int],
    corrupted_ids: Sequence[int],
    answer_ids: AnswerIds | None = None,
    progress: Progress | None = None,
) -> PatchingResult:
    """Read the corrupted text with single numbers of the clean one put in, and see what the last token then predicts.

    answer_ids: by default the likeliest next token of each text; where that is the same one, those two whose
    log-probabilities change most. Activation patching, as in Interpretability in the Wild,
    https://arxiv.org/abs/2211.00593. Raises LabError for texts of different length, that are the same, or predict the
    same, and for a model with an encoder or without attention.
    """
    if len(clean_ids) != len(corrupted_ids):
        raise LabError(
            f"The texts have {len(clean_ids)} and {len(corrupted_ids)} tokens; a vector is patched into the same "
            "position of the other text, so they must have the same number of tokens. Replace words by others with as "
            "many tokens."
        )
    if model.encoder is not None or not isinstance(model.config.mixer, SelfAttention):
        raise LabError("Patching needs a decoder-only attention model.")
    if not 0 < len(clean_ids) <= model.config.context:
        raise LabError(f"The text has {len(clean_ids)} tokens; give 1 to {model.config.context}.")
    device = model.embedding.weight.device
    recorder = ActivationRecorder(("embedding", ".output", ".heads"))
    one, other = (torch.tensor([list(text)], device=device) for text in (clean_ids, corrupted_ids))
    model.eval()
    before = model(one, tap=recorder)[0, -1].float().log_softmax(-1)
    after = (
        model(other, tap=ActivationRecorder(()))[0, -1].float().log_softmax(-1)
    )  # a tap: with the same kernels as above
    answer_ids = answer_ids or _answers(before, after)
    a, b = answer_ids
    clean, corrupted = float(before[a] - before[b]), float(after[a] - after[b])
    if abs(clean - corrupted) < 1e-6:
        raise LabError("Both texts give the same prediction, so there is no difference to explain.")
    L, H, T = model.config.depth, model.config.heads, len(clean_ids)
    stream = [
        (layer, t) for layer, t in patchable_residual_sites(model, clean_ids, corrupted_ids) if (layer, t) != (L, T - 1)
    ]
    layers = ["embedding", *(f"blocks.{i}.output" for i in range(L))]
    places = [(layers[layer], t) for layer, t in stream]
    places += [(f"blocks.{i}.attention.heads", h) for i in range(L) for h in range(H)]
    found = []
    for start in range(0, len(places), ROWS):
        chunk = places[start : start + ROWS]
        x = model.hidden_states(other.expand(len(chunk), -1), tap=PatchActivations(recorder.activations, chunk))[:, -1:]
        logits = model.logits(x)[:, 0].float()
        found.append(((logits[:, a] - logits[:, b]) - corrupted) / (clean - corrupted))
        if progress is not None:
            progress(min(start + ROWS, len(places)), len(places))
    values, heads = torch.cat(found).cpu().split((len(stream), L * H))
    grid = torch.zeros(1 + L, T)
    if stream:
        grid[tuple(torch.tensor(stream).T)] = values
    grid[L, T - 1] = 1.0  # the first text's last vector is its whole prediction
    return PatchingResult(grid, heads.view(L, H), answer_ids, clean, corrupted)


def patchable_residual_sites(
    model: Transformer, clean_ids: Sequence[int], corrupted_ids: Sequence[int]
) -> list[tuple[int, int]]:
    """The (layer, token) of `PatchingResult.residual_recovered` whose vector can differ between two texts of equal
    length and matter: the embeddings of tokens that differ; in a causal model nothing before the first of them; and of
    the last layer, which no other token reads, only the last.
    """
    L, T = model.config.depth, len(clean_ids)
    differ = [t for t in range(T) if clean_ids[t] != corrupted_ids[t]]
    start = differ[0] if differ and model.causal else 0
    between = [(layer, t) for layer in range(1, L) for t in range(start, T)]
    return [*((0, t) for t in differ), *between, (L, T - 1)]


def _answers(before: Tensor, after: Tensor) -> AnswerIds:
    """The likeliest tokens by log-probabilities [V]; where they are one, those whose odds change most, among the
    likely.
    """
    a, b = int(before.argmax()), int(after.argmax())
    if a != b:
        return AnswerIds(a, b)
    likely = torch.maximum(before, after) > -7.0  # a probability of one in a thousand
    change = torch.where(likely, before - after, torch.nan)
    return AnswerIds(int(change.nan_to_num(nan=-torch.inf).argmax()), int(change.nan_to_num(nan=torch.inf).argmin()))
