"""Loss on held-out text: nats per token, and the same per byte and per character of the original text.

`validation_loss` depends on the tokenizer. `bits_per_byte` and `nats_per_character` do not: all nats of a
text, those of its special tokens included, over what a reader sees of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from labkit.losses import next_token_loss
from labkit.model.transformer import Transformer
from labkit.text.batch import Batch
from labkit.text.sources import LossOn, document_batch, encode_corpus, sliding_window_batches
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document

Metrics = dict[str, float]


@torch.no_grad()
def loss_sum_and_count(model: Transformer, batches: Iterable[Batch]) -> tuple[float, int]:
    """Next-token loss over batches -> (nats, how many labels counted)."""
    device = model.embedding.weight.device
    was_training = model.training
    model.eval()
    nats, count = 0.0, 0
    for batch in batches:
        inputs, labels, mask = batch.to(device)
        loss_sum, counted = next_token_loss(model(inputs), labels, mask)
        nats, count = nats + float(loss_sum), count + int(counted)
    model.train(was_training)
    return nats, count


def document_loss(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    length: int,
    batch_size: int,
    loss_on: LossOn = "all",
) -> Metrics:
    """Loss over documents, one a row, as they are in training. Bytes are those of the text that the rows
    hold.
    """
    batches = [
        document_batch(tokenizer, documents[start : start + batch_size], length, loss_on)
        for start in range(0, len(documents), batch_size)
    ]
    nats, count = loss_sum_and_count(model, batches)
    size = sum(_bytes(tokenizer, batch) for batch in batches)
    return _loss_metrics(nats, count, size)


def mismatched_prompt_loss(
    model: Transformer, tokenizer: Tokenizer, documents: Sequence[Document], length: int, batch_size: int
) -> Metrics:
    """Loss on the same answers, each after the question of the next conversation; of one exchange each.

    As large as the loss after their own questions, the model answers without reading; the gap is what it
    reads. Nothing when there are fewer than two such conversations.
    """
    single = [document for document in documents if sum(m.role == "assistant" for m in document.messages) == 1]
    if len(single) < 2:
        return {}
    swapped = [
        document._replace(messages=(*other.messages[:-1], document.messages[-1]))
        for document, other in zip(single, [*single[1:], single[0]], strict=True)
    ]
    loss = document_loss(model, tokenizer, swapped, length, batch_size, "answers")["validation_loss"]
    return {"mismatched_question_loss": loss}


def text_loss(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], length: int, batch_size: int) -> Metrics:
    """Loss over held-out text, each token once, with at least half a context before it where there is one."""
    ids = encode_corpus(tokenizer, texts)
    nats, count = loss_sum_and_count(
        model,
        sliding_window_batches(
            ids, batch_size, length, stride=max(1, length // 2), bos_token_id=tokenizer.bos_token_id
        ),
    )
    characters = sum(map(len, texts))
    metrics = _loss_metrics(nats, count, sum(len(text.encode()) for text in texts))
    return {**metrics, "nats_per_character": nats / characters}


def _loss_metrics(nats: float, count: int, size: int) -> Metrics:
    return {
        "validation_loss": nats / max(1, count),
        "bits_per_byte": nats / math.log(2) / max(1, size),
        "validation_tokens": count,
    }


def _bytes(tokenizer: Tokenizer, batch: Batch) -> int:
    """Bytes of original text behind the labels that count: without special tokens and the space that opens
    a piece.
    """
    size = 0
    ends = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    openers = [] if tokenizer.template else [token for token in tokenizer.special_token_ids if token not in ends]
    for inputs, labels, mask in zip(*(tensor.numpy() for tensor in batch), strict=True):
        size += len(tokenizer.decode(labels[mask].tolist()).encode())
        opened = mask & np.isin(inputs, openers) & ~np.isin(labels, openers)
        size -= int(opened.sum())
    return size
