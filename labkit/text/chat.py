"""The chat form: how a document, a conversation or a prompt becomes one row of token ids.

    <|bos|> Tom went to the park.<|end|><|user|> Where is Tom?<|end|><|assistant|> Tom is in the park.<|end|>

A text (a story, a paragraph) comes first, if there is one; then the turns. Each piece is written with one
space after the special token before it, so that a word has the same token at the start of a piece as inside
it; `<|end|>` closes each piece, so that one token stops every generation. The form is written here once,
and as the Jinja template that `labkit.text.tokenizer` saves for transformers.

With a tokenizer that labkit did not train, turns are written by its own chat template (`labkit.text.template`), and a
text before them is a text of its own, closed by its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.text.template import ChatTemplate, Turn
from labkit.text.tokenizer import Tokenizer
from labkit.world.tasks import Message

if TYPE_CHECKING:
    from labkit.world import Document

Row = tuple[list[int], list[bool]]
"""Token ids, and beside each whether it is learned: the words of an answer of weight 1 and the `<|end|>` after them."""


def encode_document(tokenizer: Tokenizer, document: Document, max_length: int) -> Row:
    """One document as one row of at most `max_length` ids -> (ids, answer_mask).

    The text comes first, then as many whole exchanges (the turns up to and with an assistant's) as fit.
    Turns after the last answer have nothing to teach and are left out. Only a text, or a first exchange
    without a text, that is longer than the row by itself is cut.
    """
    return encode_documents(tokenizer, [document], max_length)[0]


def encode_documents(tokenizer: Tokenizer, documents: Sequence[Document], max_length: int) -> list[Row]:
    """`encode_document` for many documents, with one call to the tokenizer where it is labkit's own."""
    if tokenizer.template is not None:
        return [_templated(tokenizer, tokenizer.template, document, max_length) for document in documents]
    pieces = [list(texts_with_leading_space(document)) for document in documents]
    ends = list(accumulate(map(len, pieces), initial=0))
    encoded = tokenizer.encode_batch([piece for group in pieces for piece in group])
    return [
        _row(tokenizer, document, encoded[start:end], max_length)
        for document, start, end in zip(documents, ends, ends[1:], strict=False)
    ]


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message], passage: str = "") -> list[int]:
    """Messages -> the ids after which the assistant answers: bos, (text), turns, `<|assistant|>`."""
    if tokenizer.template is not None:
        ids = tokenizer.template.encode(_turns(messages), add_generation_prompt=True)
        return [*_text_before(tokenizer, passage), *ids]
    return [*encode_messages(tokenizer, messages, passage), _opening(tokenizer, "assistant")]


def encode_messages(tokenizer: Tokenizer, messages: Sequence[Message], passage: str = "") -> list[int]:
    """A conversation, whole and uncut -> ids. The same ids as transformers' `apply_chat_template` without a passage."""
    if tokenizer.template is not None:
        return [*_text_before(tokenizer, passage), *tokenizer.template.encode(_turns(messages))]
    ids = [tokenizer.bos_token_id]
    if passage:
        ids += [*tokenizer.encode(tokenizer.leading_space + passage), tokenizer.eos_token_id]
    for message in messages:
        ids += [
            _opening(tokenizer, message.role),
            *tokenizer.encode(tokenizer.leading_space + message.content),
            tokenizer.eos_token_id,
        ]
    return ids


def encode_prompt_and_answer(tokenizer: Tokenizer, messages: Sequence[Message], answer: str) -> Row:
    """Messages and the assistant's answer to them -> a row that ends with the answer's end, which counts with it. Only
    this answer counts.
    """
    if tokenizer.template is None:
        prompt = encode_prompt(tokenizer, messages)
        said = [*encode_answer_prefix(tokenizer, answer), tokenizer.eos_token_id]
        return [*prompt, *said], [False] * len(prompt) + [True] * len(said)
    ids, counts = tokenizer.template.encode_with_mask(
        [*_turns(messages), ("assistant", answer)], trained_turns={len(messages)}
    )
    last = len(counts) - counts[::-1].index(True)
    return ids[:last], counts[:last]


def encode_answer_prefix(tokenizer: Tokenizer, text: str) -> list[int]:
    """Words of an answer, as they stand after its prompt -> ids, without an end."""
    spoken = tokenizer.leading_space + text
    return tokenizer.encode(spoken) if tokenizer.template is None else tokenizer.template.encode_continuation(spoken)


def encode_next_turn(tokenizer: Tokenizer, text: str) -> list[int]:
    """What stands behind the end token of an assistant's turn, up to where it answers again: the user's turn -> ids.

    A conversation goes on with the very ids that a model drew, which reading its words anew need not give. Raises
    LabError for a chat template that writes earlier turns otherwise once there are later ones.
    """
    template = tokenizer.template
    if template is None:
        return [*encode_messages(tokenizer, [Message("user", text)])[1:], _opening(tokenizer, "assistant")]
    answered: list[Turn] = [("user", "Hello"), ("assistant", "Hi")]
    before = template.encode(answered)
    after = template.encode([*answered, ("user", text)], add_generation_prompt=True)
    end = len(before) - before[::-1].index(template.turn_end_id)
    if after[:end] != before[:end]:
        raise LabError(
            "This tokenizer's chat template writes earlier turns differently once others follow, so that a "
            "conversation cannot go on from the tokens of an answer."
        )
    return after[end:]


def encode_text_prompt(tokenizer: Tokenizer, text: str, leading_space: bool = True) -> list[int]:
    """The beginning of a text, to be continued -> what the tokenizer puts before a text, and its ids; for '' at least
    bos. leading_space: whether labkit's own form has its space before it, as a story of the world has and real text has
    not.
    """
    before = tokenizer.leading_space if leading_space and tokenizer.template is None else ""
    return [*tokenizer.prefix_ids, *(tokenizer.encode(before + text) if text else [])] or [tokenizer.bos_token_id]


def without_end_token(tokenizer: Tokenizer, ids: Sequence[int]) -> Sequence[int]:
    """A drawn answer without the end token that it may end with."""
    return ids[:-1] if ids and ids[-1] in tokenizer.stop_ids else ids


def decode_reply(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Generated ids -> the words without the space that every piece begins with."""
    return tokenizer.decode(ids).removeprefix(tokenizer.leading_space)


def texts_with_leading_space(document: Document) -> Iterator[str]:
    """The pieces of a document exactly as labkit's own tokenizer encodes them (with their space): what to train it
    on.
    """
    if document.passage:
        yield " " + document.passage
    for message in document.messages:
        yield " " + message.content


def _turns(messages: Sequence[Message]) -> list[Turn]:
    return [(message.role, message.content) for message in messages]


def _text_before(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text before the turns of a chat template."""
    return [*tokenizer.prefix_ids, *tokenizer.encode(text), tokenizer.eos_token_id] if text else []


def _templated(tokenizer: Tokenizer, template: ChatTemplate, document: Document, length: int) -> Row:
    """A document whose turns a chat template writes. What it writes of a turn may depend on those after it, so each
    number of exchanges is written anew, the most that fits first.
    """
    ids = _text_before(tokenizer, document.passage)
    answers = [number for number, message in enumerate(document.messages, start=1) if message.role == "assistant"]
    learned = {number - 1 for number in answers if document.messages[number - 1].weight > 0}
    for number in reversed(answers):
        turns, counts = template.encode_with_mask(_turns(document.messages[:number]), learned)
        if len(ids) + len(turns) <= length or (number == answers[0] and not document.passage):
            return [*ids, *turns][:length], [*[False] * len(ids), *counts][:length]
    return ids[:length], [False] * len(ids[:length])


def _row(tokenizer: Tokenizer, document: Document, encoded: list[list[int]], length: int) -> Row:
    ids, answer = [tokenizer.bos_token_id], [False]
    if document.passage:
        ids += [*encoded[0], tokenizer.eos_token_id]
        answer += [False] * (len(encoded[0]) + 1)
        encoded = encoded[1:]
    began = len(ids)
    exchange_ids: list[int] = []
    exchange_answer: list[bool] = []
    for message, content in zip(document.messages, encoded, strict=True):
        is_answer = message.role == "assistant"
        learned = is_answer and message.weight > 0
        exchange_ids += [_opening(tokenizer, message.role), *content, tokenizer.eos_token_id]
        exchange_answer += [False, *[learned] * (len(content) + 1)]
        if is_answer:
            first = len(ids) == began and not document.passage
            if not first and len(ids) + len(exchange_ids) > length:
                break
            ids, answer = ids + exchange_ids, answer + exchange_answer
            exchange_ids, exchange_answer = [], []
    return ids[:length], answer[:length]


def _opening(tokenizer: Tokenizer, role: str) -> int:
    """The token that opens a turn in labkit's own form."""
    if role not in ("system", "user", "assistant"):
        raise LabError(f"A message has the role {role!r}; the roles are system, user and assistant.")
    return tokenizer.token_to_id(f"<|{role}|>")
