"""Batch: what a model is trained and measured on, the same three tensors everywhere. Only `labkit.text`
makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError


class Batch(NamedTuple):
    """Rows already shifted: `labels[b, t]` is the token that follows `inputs[b, t]`.

    inputs [B, T] int64, labels [B, T] int64, mask [B, T] bool: True where a label counts.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.inputs.to(device), self.labels.to(device), self.mask.to(device))

    @property
    def label_count(self) -> int:
        """How many labels count."""
        return int(self.mask.sum())


def shifted_batch(
    rows: Sequence[Sequence[int]], loss_mask: Sequence[Sequence[bool]], length: int, pad_token_id: int
) -> Batch:
    """Rows of up to length + 1 ids -> Batch of width `length`, padded on the right.

    `loss_mask[b][t]` says whether id t of row b counts as a label. Padding never does.

        shifted_batch([[7, 8, 9]], [[False, True, True]], 4, pad_token_id=0) ->
        inputs [[7, 8, 0, 0]]   labels [[8, 9, 0, 0]]   mask [[True, True, False, False]]
    """
    inputs = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    labels = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=bool)
    for row, (ids, count) in enumerate(zip(rows, loss_mask, strict=True)):
        width = max(0, len(ids) - 1)
        inputs[row, :width] = ids[:-1]
        labels[row, :width] = ids[1:]
        mask[row, :width] = count[1:]
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(mask))


def batch_with_last_token_index(
    rows: Sequence[tuple[Sequence[int], Sequence[bool]]], length: int, pad_token_id: int
) -> tuple[Batch, Tensor]:
    """Rows of up to `length` ids -> Batch of which every id is an input, and where each row ends: [B] int64.

    For what reads a whole row, its last token included, and gives one number. The batch is as wide as its longest row
    needs, in steps of 16, so that few shapes occur and little is computed on padding. Raises LabError for a row longer
    than `length`.
    """
    longest = max(len(ids) for ids, _ in rows)
    if longest > length:
        raise LabError(f"A prompt and its answer have {longest} tokens together; the longest that fits is {length}.")
    width = min(length, math.ceil(longest / 16) * 16)
    batch = shifted_batch(
        [[*ids, pad_token_id] for ids, _ in rows], [[*counts, False] for _, counts in rows], width, pad_token_id
    )
    return batch, torch.tensor([len(ids) - 1 for ids, _ in rows])
