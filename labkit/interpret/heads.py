"""What each head does, measured on texts made for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.decoding.generate import left_pad
from labkit.errors import LabError
from labkit.interpret.coreference import CorefExample
from labkit.interpret.inspection import ROWS
from labkit.interpret.taps import AblateHeads, ActivationRecorder, HeadRef
from labkit.model.mixers import SelfAttention
from labkit.model.transformer import Transformer
from labkit.text.tokenizer import Tokenizer

REPEATED = 20
"""Tokens of a random text that is then repeated."""
TEXTS = 8
"""Random texts."""


class HeadScore(NamedTuple):
    """previous_token: how much of its attention goes to the token before. induction: in a random text that is repeated,
    how much goes to the token after the same token's first time. pronoun_attention_margin: how much more goes from a
    pronoun to whom it stands for than to the other; a causal model reads the pronoun before it knows.
    answer_attention_margin: likewise from the token after which that one is named. ablation_log_odds_drop: by how many
    nats the log-odds of the right answer over the wrong fall when the head is taken out; None where it was not
    measured.
    """

    layer: int
    head: int
    previous_token: float
    induction: float
    pronoun_attention_margin: float
    answer_attention_margin: float
    ablation_log_odds_drop: float | None = None


class HeadReport(NamedTuple):
    """heads: all, those first that carry most of the right answer. accuracy: share of the examples in which the right
    answer is likelier than the wrong; standard_error: of the accuracy; num_examples: how many. mean_log_odds: the right
    answer's over the wrong, in nats.
    """

    heads: list[HeadScore]
    accuracy: float
    standard_error: float
    num_examples: int
    mean_log_odds: float


@torch.no_grad()
def find_heads(
    model: Transformer, tokenizer: Tokenizer, examples: Sequence[CorefExample], num_ablated: int = 16
) -> HeadReport:
    """All heads by where they look; of the `num_ablated` that look most from the answer to the right one, what they
    cause.

    Previous-token and induction heads: In-context Learning and Induction Heads,
    https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads. Raises LabError for a model with an
    encoder or without attention, and for examples that do not fit in its context.
    """
    if model.encoder is not None or not isinstance(model.config.mixer, SelfAttention):
        raise LabError("Finding heads needs a decoder-only attention model.")
    longest = max(
        len(example.ids) + max(len(example.right_answer_ids), len(example.wrong_answer_ids)) for example in examples
    )
    if longest > model.config.context:
        raise LabError(f"The examples have up to {longest} tokens, more than the context of {model.config.context}.")
    model.eval()
    scores = torch.stack((*_repeated(model, tokenizer), *_looks(model, examples)), -1)  # [L, H, 4]
    odds = answer_log_odds(model, examples)
    heads = []
    for rank, index in enumerate(scores[..., -1].flatten().argsort(descending=True).tolist()):
        layer, head = divmod(index, model.config.heads)
        ablation_log_odds_drop = None
        if rank < num_ablated:
            without = answer_log_odds(model, examples, HeadRef(f"blocks.{layer}.attention", head))
            ablation_log_odds_drop = float((odds - without).mean())
        previous, induction, pronoun, answer = scores[layer, head].tolist()
        heads.append(HeadScore(layer, head, previous, induction, pronoun, answer, ablation_log_odds_drop))
    effects = {
        head: -float("inf") if head.ablation_log_odds_drop is None else head.ablation_log_odds_drop for head in heads
    }
    heads.sort(key=effects.__getitem__, reverse=True)
    return HeadReport(heads, *accuracy_and_standard_error(odds), len(examples), float(odds.mean()))


def accuracy_and_standard_error(log_odds: Tensor) -> tuple[float, float]:
    """Log-odds of the right answers [N] -> how many are above 0, and the standard error."""
    share = float((log_odds > 0).float().mean())
    return share, (share * (1 - share) / len(log_odds)) ** 0.5


@torch.no_grad()
def answer_log_odds(
    model: Transformer, examples: Sequence[CorefExample], ablated_head: HeadRef | None = None
) -> Tensor:
    """log P(right answer) - log P(wrong answer) of each example, in nats [N]; without a head, where one is given.

    What both answers begin with is as likely before either, so it is only read; where they then differ in one token,
    one reading serves both.
    """
    readings: dict[tuple[int, ...], list[tuple[int, int, list[int]]]] = {}  # text -> (example, sign, its last tokens)
    for i, example in enumerate(examples):
        same = len(_shared(example))
        for sign, answer in ((1, example.right_answer_ids), (-1, example.wrong_answer_ids)):
            readings.setdefault((*example.ids, *answer[:-1]), []).append((i, sign, answer[same:]))
    texts = sorted(readings, key=len)  # little padding
    odds = torch.zeros(len(examples))
    for start in range(0, len(texts), ROWS):
        chunk = texts[start : start + ROWS]
        last = max(len(rest) for text in chunk for _, _, rest in readings[text])
        tokens, positions, mask = (t.to(model.embedding.weight.device) for t in left_pad(chunk))
        x = model.hidden_states(tokens, positions, mask, tap=AblateHeads([ablated_head] * len(chunk)))[:, -last:]
        logprobs = model.logits(x).float().log_softmax(-1)  # [B, last, V]
        for row, text in enumerate(chunk):
            for i, sign, rest in readings[text]:
                odds[i] += sign * sum(float(logprobs[row, j - len(rest), token]) for j, token in enumerate(rest))
    return odds


def _shared(example: CorefExample) -> list[int]:
    """The tokens with which both answers begin, as " The" before a name."""
    alike = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(example.right_answer_ids, example.wrong_answer_ids, strict=False)
    )
    return [token for token, _ in alike]


def _repeated(model: Transformer, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Previous-token and induction scores, [L, H] each."""
    n = min(REPEATED, (model.config.context - 1) // 2)
    generator = torch.Generator().manual_seed(0)
    special = set(tokenizer.special_token_ids)
    usual = torch.tensor([token for token in range(tokenizer.vocab_size) if token not in special])
    once = usual[torch.randint(len(usual), (TEXTS, n), generator=generator)]
    begin = torch.full((TEXTS, 1), tokenizer.bos_token_id)
    weights = _weights(model, torch.cat((begin, once, once), 1))  # [L, B, H, T, T]
    row = torch.arange(1, 2 * n + 1)
    second = torch.arange(n + 1, 2 * n + 1)
    previous = weights[..., row, row - 1].mean((1, 3))
    return previous, weights[..., second, second - n + 1].mean((1, 3))


def _looks(model: Transformer, examples: Sequence[CorefExample]) -> tuple[Tensor, Tensor]:
    """Attention to the right minus to the wrong one, from the pronoun and from before the answer: [L, H] each."""
    total = torch.zeros(2, model.config.depth, model.config.heads)
    for example in examples:
        rows = _weights(model, torch.tensor([[*example.ids, *_shared(example)]]))[:, 0]  # [L, H, T, T]
        apart = rows[..., example.right_index] - rows[..., example.wrong_index]
        total += torch.stack((apart[..., example.pronoun_index], apart[..., -1]))
    return total[0] / len(examples), total[1] / len(examples)


def _weights(model: Transformer, ids: Tensor) -> Tensor:
    """Attention weights of a batch: [L, B, H, T, T]."""
    recorder = ActivationRecorder(".weights")
    model.hidden_states(ids.to(model.embedding.weight.device), tap=recorder)
    return torch.stack(list(recorder.activations.values()))
