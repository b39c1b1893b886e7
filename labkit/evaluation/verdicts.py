"""How often a language model's written verdicts are right, and how often they depend on the order of the answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.evaluation.held_out_loss import Metrics
from labkit.machine import autocast
from labkit.model.transformer import Transformer
from labkit.text.pairs import PreferencePair
from labkit.text.tokenizer import Tokenizer
from labkit.text.verdicts import comparison_batch, encode_comparisons


@torch.no_grad()
def verdict_logprobs(
    model: Transformer,
    tokenizer: Tokenizer,
    pairs: Sequence[PreferencePair],
    precision: str = "fp32",
    batch_size: int = 32,
) -> Tensor:
    """[N, 2, 2]: of each pair, with its chosen answer shown first and second, the log-probability of the right verdict
    and of the wrong one, among all tokens.
    """
    encoded = [encode_comparisons(tokenizer, pair) for pair in pairs]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index][0].ids))
    found, device, was_training = torch.zeros(len(encoded), 2, 2), model.embedding.weight.device, model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [one for index in chosen for one in encoded[index]]
        batch = comparison_batch(rows, max(len(one.ids) for one in rows), tokenizer.pad_token_id).to(device)
        with autocast(device, precision):
            logits = model.logits(model.hidden_states(batch.inputs)[batch.mask])  # [2B, V], at each row's one label
        verdicts = torch.tensor([[one.right, one.wrong] for one in rows], device=device)
        found[chosen] = logits.float().log_softmax(-1).gather(1, verdicts).view(-1, 2, 2).cpu()
    model.train(was_training)
    return found


def chosen_probabilities(logprobs: Tensor) -> Tensor:
    """[N, 2, 2] of `verdict_logprobs` -> [N, 2]: in either order, the probability of the right one of both verdicts."""
    return torch.sigmoid(logprobs[..., 0] - logprobs[..., 1])


def verdict_metrics(logprobs: Tensor) -> Metrics:
    """From `verdict_logprobs`: the loss; the share of pairs of which the chosen answer is the likelier one, in the mean
    over both orders; and the share of pairs whose verdict falls on the same place in both, so on another answer.
    """
    probabilities = chosen_probabilities(logprobs)
    mean = probabilities.mean(-1)
    right = (mean > 0.5).float() + 0.5 * (mean == 0.5).float()
    flips = (probabilities[:, 0] > 0.5) != (probabilities[:, 1] > 0.5)
    return {
        "validation_loss": float(-logprobs[..., 0].mean()),
        "pair_accuracy": float(right.mean()),
        "position_flips": float(flips.float().mean()),
        "pairs": len(logprobs),
    }
