"""The chat form: how a document, a conversation or a prompt becomes one row of token ids.

    <|bos|> Tom went to the park.<|end|><|user|> Where is Tom?<|end|><|assistant|> Tom is in the park.<|end|>

A text (a story, a paragraph) comes first, if there is one; then the turns. Each piece is written with one
space after the special token before it, so that a word has the same token at the start of a piece as inside
it; `<|end|>` closes each piece, so that one token stops every generation. The form is written here once,
and as the Jinja template that `labkit.text.tokenizer` saves for transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from labkit.world import Document, Message

Row = tuple[list[int], list[bool]]
"""Token ids, and beside each whether it is learned: the words of an answer of weight 1 and the `<|end|>` after them."""


def encode_document(tokenizer: Tokenizer, document: Document, length: int) -> Row:
    """One document as one row of at most `length` ids -> (ids, answer_mask).

    The text comes first, then as many whole exchanges (the turns up to and with an assistant's) as fit.
    Turns after the last answer have nothing to teach and are left out. Only a text, or a first exchange
    without a text, that is longer than the row by itself is cut.
    """
    return encode_documents(tokenizer, [document], length)[0]


def encode_documents(tokenizer: Tokenizer, documents: Sequence[Document], length: int) -> list[Row]:
    """`encode_document` for many documents, with one call to the tokenizer."""
    lead, whole = tokenizer.form.lead, [_whole(tokenizer, document) for document in documents]
    pieces = [[lead + piece for piece in _pieces(document)] for document in whole]
    ends = list(accumulate(map(len, pieces), initial=0))
    encoded = tokenizer.encode_batch([piece for group in pieces for piece in group])
    return [
        _row(tokenizer, document, encoded[start:end], length)
        for document, start, end in zip(whole, ends, ends[1:], strict=False)
    ]


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message], text: str = "") -> list[int]:
    """Messages -> the ids after which the assistant answers: bos, (text), turns, `<|assistant|>`."""
    return [*encode_messages(tokenizer, messages, text), *tokenizer.form.opening["assistant"]]


def encode_messages(tokenizer: Tokenizer, messages: Sequence[Message], text: str = "") -> list[int]:
    """A conversation, whole and uncut -> ids. The same ids as transformers' `apply_chat_template` when text
    is '' (and, with a tokenizer that labkit did not train, no content begins with white space).
    """
    form = tokenizer.form
    ids = list(form.start)
    if text:
        ids += [*tokenizer.encode(form.lead + text), tokenizer.end]
    for message in _spoken(tokenizer, messages):
        ids += [*_opening(tokenizer, message), *tokenizer.encode(form.lead + message.content), *form.closing]
    return ids


def encode_opening(tokenizer: Tokenizer, text: str) -> list[int]:
    """The beginning of a text, to be written on -> bos and its ids; bos alone for ''. Models that never begin a row
    with bos get it for '' only.
    """
    form = tokenizer.form
    return [*form.start, *tokenizer.encode(form.lead + text)] if text else [tokenizer.bos]


def decode_reply(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Generated ids -> the words without the space that every piece begins with."""
    return tokenizer.decode(ids).removeprefix(tokenizer.form.lead)


def document_texts(document: Document) -> Iterator[str]:
    """The pieces of a document exactly as labkit's own tokenizer encodes them (with their space): what to train it
    on.
    """
    for piece in _pieces(document):
        yield " " + piece


def _pieces(document: Document) -> Iterator[str]:
    if document.text:
        yield document.text
    for message in document.messages:
        yield message.content


def _spoken(tokenizer: Tokenizer, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages, with what the system says where the form lets it speak unasked."""
    said = tokenizer.form.system
    if said is None or not messages or messages[0].role == "system":
        return messages
    return [type(messages[0])("system", said), *messages]


def _whole(tokenizer: Tokenizer, document: Document) -> Document:
    return document._replace(messages=tuple(_spoken(tokenizer, document.messages)))


def _row(tokenizer: Tokenizer, document: Document, encoded: list[list[int]], length: int) -> Row:
    form, end = tokenizer.form, tokenizer.form.closing[:1]
    ids, answer = list(form.start), [False] * len(form.start)
    if document.text:
        ids += [*encoded[0], tokenizer.end]
        answer += [False] * (len(encoded[0]) + 1)
        encoded = encoded[1:]
    began = len(ids)
    exchange_ids: list[int] = []
    exchange_answer: list[bool] = []
    for message, content in zip(document.messages, encoded, strict=True):
        is_answer, opening = message.role == "assistant", _opening(tokenizer, message)
        exchange_ids += [*opening, *content, *form.closing]
        learned = is_answer and message.weight > 0
        exchange_answer += [False] * len(opening) + [learned] * (len(content) + len(end))
        exchange_answer += [False] * (len(form.closing) - len(end))
        if is_answer:
            first = len(ids) == began and not document.text
            if not first and len(ids) + len(exchange_ids) > length:
                break
            ids, answer = ids + exchange_ids, answer + exchange_answer
            exchange_ids, exchange_answer = [], []
    return ids[:length], answer[:length]


def _opening(tokenizer: Tokenizer, message: Message) -> list[int]:
    if message.role not in tokenizer.form.opening:
        raise LabError(f"A message has the role {message.role!r}; the roles are system, user and assistant.")
    return tokenizer.form.opening[message.role]
