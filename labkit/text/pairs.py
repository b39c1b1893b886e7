"""Preference pairs: a prompt, the answer that someone chose, and the one that they did not.

    {"prompt": [{"role": "user", "content": …}], "chosen": [{"role": "assistant", "content": …}], "rejected": [ … ]}

One such object a line is what `datasets` loads as json and what TRL trains on. Read from elsewhere are also plain
strings in these columns, and `instruction` (with an optional `input`) in place of `prompt`. `margin` may say how much
better the chosen answer is, as in TRL.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.text.batch import batch_with_last_token_index
from labkit.text.chat import Row, encode_prompt_and_answer
from labkit.text.sources import EpochSampler, StatelessSource
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message


class PreferencePair(NamedTuple):
    """`prompt` ends with the user's turn; both answers are the assistant's words alone. margin: how much better the
    chosen one was said to be, 0 where nobody said.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: float = 0.0


class PairBatch(NamedTuple):
    """B pairs as 2B rows: the chosen answers, then the rejected ones.

    inputs, labels, mask [2B, T] as in Batch: True where a label belongs to the answer or is the `<|end|>` that closes
    it. last_token_index [2B]: where in the inputs that `<|end|>` stands, the place at which the whole answer has been
    read. reference_logprobs [2B]: log-probability of each answer to another model, 0 where that was not asked for.
    margin [B]: see `PreferencePair`.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    last_token_index: Tensor
    reference_logprobs: Tensor
    margin: Tensor

    def to(self, device: torch.device) -> PairBatch:
        return PairBatch(*(tensor.to(device) for tensor in self))


class PairSource(StatelessSource):
    """B = `batch_size` pairs a step in rows of T = `length`, every pass shuffled anew by (seed, pass).

    reference_logprobs [N, 2]: of each pair's chosen and rejected answer. Raises LabError where there is no pair, or one
    that does not fit in a row; `drop_long_pairs` finds those that do.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        pairs: Sequence[PreferencePair],
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        reference_logprobs: NDArray[Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.encoded = encode_pairs(tokenizer, pairs)
        self.margins = np.array([pair.margin for pair in pairs])
        self.length, self.pad, self.reference = length, tokenizer.pad_token_id, reference_logprobs
        self.order = EpochSampler(batch_size, seed, len(pairs), rank, world_size)

    def next_batch(self, unused_model: Any, step: int) -> PairBatch:
        chosen = self.order.row_indices(step)
        reference = None if self.reference is None else self.reference[chosen]
        encoded = [self.encoded[i] for i in chosen]
        return collate_pairs(encoded, self.length, self.pad, reference, self.margins[chosen])


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[PreferencePair]) -> list[tuple[Row, Row]]:
    """Pairs -> their two rows each, whole: the ids of prompt and answer, and which belong to the answer. An answer that
    stands in several pairs is encoded once.
    """
    encode = functools.cache(functools.partial(encode_prompt_and_answer, tokenizer))
    return [(encode(pair.prompt, pair.chosen), encode(pair.prompt, pair.rejected)) for pair in pairs]


def encode_pair(tokenizer: Tokenizer, pair: PreferencePair) -> tuple[Row, Row]:
    """The two rows of one pair."""
    return encode_pairs(tokenizer, [pair])[0]


def collate_pairs(
    encoded_pairs: Sequence[tuple[Row, Row]],
    length: int,
    pad_token_id: int,
    reference_logprobs: NDArray[Any] | None = None,
    margins: NDArray[Any] | None = None,
) -> PairBatch:
    """Encoded pairs -> rows of T = `length`, which must have room for the longest. reference_logprobs [B, 2]; margins
    [B].
    """
    batch, ends = batch_with_last_token_index(
        [pair[side] for side in (0, 1) for pair in encoded_pairs], length, pad_token_id
    )
    known = np.zeros((len(encoded_pairs), 2)) if reference_logprobs is None else reference_logprobs
    apart = np.zeros(len(encoded_pairs)) if margins is None else margins
    return PairBatch(
        *batch,
        ends,
        torch.from_numpy(known.T.reshape(-1).astype(np.float32)),
        torch.from_numpy(apart.astype(np.float32)),
    )


def batch_indices_by_length(encoded_pairs: Sequence[tuple[Row, Row]], batch_size: int) -> Iterator[list[int]]:
    """The places of encoded pairs, `batch_size` at a time, short ones first, so that little is computed on padding."""
    order = sorted(range(len(encoded_pairs)), key=lambda i: max(len(ids) for ids, _ in encoded_pairs[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def drop_long_pairs(tokenizer: Tokenizer, pairs: Sequence[PreferencePair], length: int) -> list[PreferencePair]:
    """The pairs of which both answers fit, with their prompt, in a row of `length` tokens."""
    encoded = zip(pairs, encode_pairs(tokenizer, pairs), strict=True)
    return [pair for pair, rows in encoded if max(len(ids) for ids, _ in rows) <= length]


def pair_to_row(pair: PreferencePair) -> dict[str, Any]:
    """A pair as a row of the file described above; with its margin, where it has one."""
    turn = {name: [{"role": "assistant", "content": getattr(pair, name)}] for name in ("chosen", "rejected")}
    margin = {"margin": pair.margin} if pair.margin else {}
    return {"prompt": [message.to_dict() for message in pair.prompt], **turn, **margin}
