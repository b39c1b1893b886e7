"""Sources of training batches: `next_batch(model, step) -> Batch`.

Every source here is a pure function of (seed, step). It holds no state, so a run resumed at step n reads
what it would have read. In a run of several processes each takes `rows[rank::world_size]` of the batch that
one process would take.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from labkit.errors import LabError
from labkit.files import atomic_replace
from labkit.text.batch import Batch, shifted_batch
from labkit.text.chat import Row, encode_documents
from labkit.text.fitting import LossOn, check_any_fit, encode_within_length
from labkit.text.pieces import Text, text_blocks
from labkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from labkit.world import Document


class StatelessSource:
    """The state of a source that derives everything from (seed, step): none."""

    stateless = True
    """So other processes may make batches ahead (see `labkit.training.prefetch`)."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise LabError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}: another run's?")


class DocumentSource(StatelessSource):
    """One document a row, padded on the right: B rows of T labels.

    `read_document(index)` makes document `index`. Without `num_documents` the documents never end, and step s reads the
    indices s*B … s*B + B - 1. With `num_documents` there are that many, and each pass over them is shuffled anew by
    (seed, pass). `loss_on="answers"` counts the assistant's words and closing `<|end|>` alone.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        read_document: Callable[[int], Document],
        batch_size: int,
        length: int,
        loss_on: LossOn = "all",
        seed: int = 0,
        *,
        num_documents: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.tokenizer, self.read_document, self.length, self.loss_on = tokenizer, read_document, length, loss_on
        self.order = EpochSampler(batch_size, seed, num_documents, rank, world_size)

    def next_batch(self, unused_model: Any, step: int) -> Batch:
        documents = [self.read_document(index) for index in self.order.row_indices(step)]
        return document_batch(self.tokenizer, documents, self.length, self.loss_on)


class PackedDocumentSource(StatelessSource):
    """A list of short documents, several to a row, each pass over the rows shuffled anew by (seed, pass).

    Documents in a row see those before them; each begins with bos, which a model soon learns to read as a
    fresh start. Those that are too long are cut, those without a label left are not used: `fit` counts both. Raises
    LabError where none is left.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        documents: Sequence[Document],
        batch_size: int,
        length: int,
        loss_on: LossOn = "all",
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        if not documents:
            raise LabError("There are no documents to train on.")
        self.length, self.pad, self.loss_on = length, tokenizer.pad_token_id, loss_on
        encoded, self.fit = encode_within_length(tokenizer, documents, length + 1, loss_on)
        check_any_fit(self.fit, "conversations" if loss_on == "answers" else "documents", length)
        self.packed = pack_first_fit_decreasing(encoded, length + 1)
        self.order = EpochSampler(batch_size, seed, len(self.packed), rank, world_size)

    def next_batch(self, unused_model: Any, step: int) -> Batch:
        chosen = [self.packed[index] for index in self.order.row_indices(step)]
        return _rows_batch(chosen, self.length, self.pad, self.loss_on)


class RandomChunkSource(StatelessSource):
    """Random crops of plain text: B rows of T labels from ids [N], starts drawn from (seed, step).

    With `bos_token_id` each row begins with that token, then T tokens of text follow as its labels: the model learns
    to start from bos, anywhere. Without, a row is T + 1 tokens of text.
    """

    def __init__(
        self,
        ids: NDArray[Any],
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        bos_token_id: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        _check_shards(batch_size, world_size)
        self.needed = length + (bos_token_id is None)
        if len(ids) < self.needed:
            raise LabError(
                f"The text is too short: {len(ids)} tokens, but a context of {length} needs at least "
                f"{self.needed}. Give more text or a shorter context."
            )
        self.ids = np.asarray(ids)  # a plain view, which is cut faster than a memmap
        self.batch_size, self.length, self.seed, self.bos_token_id = batch_size, length, seed, bos_token_id
        self.rank, self.world_size = rank, world_size

    def next_batch(self, unused_model: Any, step: int) -> Batch:
        starts = np.random.default_rng([self.seed, step]).integers(
            0, len(self.ids) - self.needed + 1, size=self.batch_size
        )[self.rank :: self.world_size]
        crops = np.stack([self.ids[start : start + self.needed] for start in starts]).astype(np.int64)
        if self.bos_token_id is not None:
            crops = np.pad(crops, ((0, 0), (1, 0)), constant_values=self.bos_token_id)
        rows = torch.from_numpy(crops)
        labels = rows[:, 1:].contiguous()
        return Batch(rows[:, :-1].contiguous(), labels, torch.ones_like(labels, dtype=torch.bool))


class EpochSampler:
    """Which indices step s reads: the counting numbers, or a new shuffle of 0 … num_examples-1 for each pass."""

    def __init__(self, batch_size: int, seed: int, num_examples: int | None, rank: int = 0, world_size: int = 1):
        _check_shards(batch_size, world_size)
        if num_examples is not None and num_examples < 1:
            raise LabError("There are no documents to train on.")
        self.batch_size, self.num_examples, self.rank, self.world_size = batch_size, num_examples, rank, world_size
        self._shuffled = lru_cache(maxsize=2)(
            lambda turn: np.random.default_rng([seed, turn]).permutation(num_examples or 0)
        )

    def row_indices(self, step: int) -> list[int]:
        indices = range(step * self.batch_size, (step + 1) * self.batch_size)[self.rank :: self.world_size]
        if self.num_examples is None:
            return list(indices)
        return [int(self._shuffled(index // self.num_examples)[index % self.num_examples]) for index in indices]


def document_batch(tokenizer: Tokenizer, documents: Sequence[Document], length: int, loss_on: LossOn = "all") -> Batch:
    """Documents, one a row -> Batch [B, T] with T = length."""
    rows = encode_documents(tokenizer, documents, length + 1)
    return _rows_batch(rows, length, tokenizer.pad_token_id, loss_on)


def pack_first_fit_decreasing(rows: Iterable[Row], length: int) -> list[Row]:
    """Join rows into as few of at most `length` ids as first-fit, longest first, finds. Deterministic.

    pack_first_fit_decreasing([[1, 2], [3], [4, 5, 6]], 4) -> [[4, 5, 6, 3], [1, 2]]   (ids alone)
    """
    bins: list[Row] = []
    room: list[int] = []
    for ids, answer in sorted(rows, key=lambda row: -len(row[0])):
        place = next((index for index, free in enumerate(room) if free >= len(ids)), None)
        if place is None:
            bins.append(([], []))
            room.append(length)
            place = len(bins) - 1
        bins[place][0].extend(ids)
        bins[place][1].extend(answer)
        room[place] -= len(ids)
    return bins


def sliding_window_batches(
    ids: NDArray[Any], batch_size: int, length: int, *, stride: int, bos_token_id: int
) -> Iterator[Batch]:
    """Held-out text, in order, each of its N tokens a counting label exactly once: batches of at most
    `batch_size` rows.

    Each window is bos and then `length` - 1 tokens or fewer as inputs. It counts `stride` new labels and
    shows the tokens before them as context, which does not count; a stride of half the length
    gives every label at least half a context, except at the very start. `stride=length` is plain,
    non-overlapping evaluation.
    """
    if not 1 <= stride <= length:
        raise LabError(f"The stride of evaluation is {stride}; it must lie between 1 and the context, {length}.")
    window_rows: list[list[int]] = []
    counts: list[list[bool]] = []
    for first in range(0, len(ids), stride):
        last = min(first + stride, len(ids))
        start = max(0, last - length)
        window_rows.append([bos_token_id, *ids[start:last].tolist()])
        counts.append([position >= first for position in range(start - 1, last)])
        if len(window_rows) == batch_size or last == len(ids):
            yield shifted_batch(window_rows, counts, length, pad_token_id=0)
            window_rows, counts = [], []


def encode_corpus(tokenizer: Tokenizer, texts: Sequence[Text], folder: Path | None = None) -> NDArray[Any]:
    """Texts -> one array of ids [N], each text closed by `<|end|>` when there are several.

    uint16 while the vocabulary allows, else uint32. With a folder the ids are kept there, in a file that is named
    after what they were made from and memory-mapped: a corpus larger than memory trains as well, and the next call for
    the same texts and tokenizer only opens it. Texts are encoded piece by piece (see `labkit.text.pieces`). Raises
    LabError when there is no text, or no room for the file.
    """
    if not any(map(len, texts)):
        raise LabError("There is no text to train on.")
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    closing = [tokenizer.eos_token_id] if len(texts) > 1 else []
    parts = (np.array(ids, dtype=dtype) for ids in _encoded(tokenizer, texts, closing))
    if folder is None:
        return np.concatenate(list(parts))
    file = folder / f"{_corpus_key(tokenizer, texts)}.bin"
    if not file.is_file():
        _write_corpus(file, parts)
    return np.memmap(file, dtype=dtype, mode="r")


def _encoded(tokenizer: Tokenizer, texts: Sequence[Text], closing: list[int]) -> Iterator[list[int]]:
    for text in texts:
        yield from tokenizer.encode_blocks(text_blocks(text))
        yield closing


def _corpus_key(tokenizer: Tokenizer, texts: Sequence[Text]) -> str:
    """A short hash of all that decides the ids."""
    digest = hashlib.blake2b(tokenizer.backend.to_str().encode(), digest_size=12)
    for text in texts:
        content = text.encode() if isinstance(text, str) else text.digest.encode()
        digest.update(f"{type(text).__name__} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _write_corpus(file: Path, parts: Iterable[NDArray[Any]]) -> None:
    """Whole or not at all, in place of what was made of other texts or by another tokenizer."""
    with atomic_replace(file) as partial, open(partial, "wb") as written:
        for part in parts:
            part.tofile(written)
    for old in file.parent.glob("*.bin"):
        if old != file:
            old.unlink()


def _rows_batch(rows: Sequence[Row], length: int, pad: int, loss_on: LossOn) -> Batch:
    ids = [row for row, _ in rows]
    counts = [answer if loss_on == "answers" else [True] * len(row) for row, answer in rows]
    return shifted_batch(ids, counts, length, pad)


def _check_shards(rows: int, world_size: int) -> None:
    if rows < world_size:
        raise LabError(
            f"A batch of {rows} rows cannot be split over {world_size} processes: each needs a row. Raise "
            "train.batch_size, or start fewer processes."
        )
