"""Long text in pieces that can be tokenized one by one.

Byte-level BPE first splits a text into words and then works inside each, so a text that is cut between two words
gives the same ids in pieces as in one call, and a tokenizer's memory is that of one piece: about 160 bytes a byte.

    split_into_pieces(["Tom is in the park. " * 10_000]) -> 'Tom is … in the', ' park. Tom …', …
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

PIECE_CHARACTERS = 2**16
"""Characters of a piece, about."""
MAX_WORD_CHARACTERS = 4096
"""Characters without a boundary after which a text is cut in the middle of a word."""
SPLIT_CONTEXT_CHARACTERS = 256
"""Characters on each side of a cut that decide whether it is a good one."""
MAX_SPLIT_ATTEMPTS = 64

# Runs of one kind, which the pre-tokenizer makes one word; the trainer's time grows with the length of its words.
_RUN = re.compile(r"[^\W\d_]{256}|\d{256}|[^\w\s]{256}|\s{256}")

MAX_TRAINING_BYTES = 8_000_000
"""Bytes of text that a tokenizer learns from: a second for prose, at most a minute and 1 GB for Chinese in one line."""


class LongText(Protocol):
    """A text that is not held in memory whole. num_bytes: its bytes in UTF-8. digest: of its content. uncleaned_length:
    the characters that it had before it was cleaned.
    """

    num_bytes: int
    digest: str
    uncleaned_length: int

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> LongText: ...

    def blocks(self) -> Iterator[str]: ...


Text = str | LongText
SplitCheck = Callable[[str, str], bool]
"""(left, right) -> whether a tokenizer makes the same of the two apart as of the two together."""


def split_into_pieces(
    blocks: Iterable[str], splits_cleanly: SplitCheck | None = None, piece_characters: int = PIECE_CHARACTERS
) -> Iterator[str]:
    """A text, given in blocks of any length -> the same text in pieces of about `piece_characters` characters.

    A piece ends before white space that follows something else, or where letters, digits and other signs meet: there
    the pre-tokenizers in use begin a new word (see `is_word_boundary`). `splits_cleanly` is asked, too, where a
    tokenizer has its own ideas; a text of which it accepts no cut stays whole. Where MAX_WORD_CHARACTERS characters
    have no boundary at all (one letter after the other: Chinese without punctuation, say), the text is cut between two
    of them, and the ids at that place may be others than in one call. The pieces do not depend on the blocks.
    """
    held = ""
    for block in blocks:
        text, start, limit = held + block, 0, piece_characters
        while len(text) - start > limit + SPLIT_CONTEXT_CHARACTERS:
            cut = _cut(text, start, start + limit, splits_cleanly)
            if cut is None:
                limit += piece_characters
                continue
            yield text[start:cut]
            start, limit = cut, piece_characters
        held = text[start:]
    if held:
        yield held


def _cut(text: str, start: int, end: int, splits_cleanly: SplitCheck | None) -> int | None:
    """Where to end a piece, at most at `end`; None where `splits_cleanly` accepts none of the last MAX_SPLIT_ATTEMPTS
    boundaries."""
    tried = 0
    for at in range(end, max(start, end - MAX_WORD_CHARACTERS), -1):
        if not is_word_boundary(text, at):
            continue
        if splits_cleanly is None or splits_cleanly(
            text[max(0, at - SPLIT_CONTEXT_CHARACTERS) : at], text[at : at + SPLIT_CONTEXT_CHARACTERS]
        ):
            return at
        tried += 1
        if tried == MAX_SPLIT_ATTEMPTS:
            return None
    return None if tried else end


def is_word_boundary(text: str, index: int) -> bool:
    """Whether GPT-2's pre-tokenizer begins a new word at `text[index]`, whatever stands around.

    Its words are `'s` and the like, one space and letters, one space and digits, one space and other signs, or white
    space; none of them goes on after what is not white space with white space, or with another kind of sign. An
    apostrophe may belong to the letters after it. Not said of combining marks, which belong to what is before them.
    """
    before, after = _kind(text[index - 1]), _kind(text[index])
    if before in " ?" or after == "?" or unicodedata.category(text[index]).startswith("M"):
        return False
    return before != after and text[index - 1] != "'"


def _kind(sign: str) -> str:
    """L letter, N digit, ' ' white space, . another sign, ? one that is a control or not in this Unicode."""
    kind = unicodedata.category(sign)[0]
    if sign in "\t\n" or kind == "Z":
        return " "
    return "?" if kind == "C" else kind if kind in "LN" else "."


def split_long_pretokens(blocks: Iterable[str]) -> Iterator[str]:
    """Pieces of a text for a trainer: no run of letters, digits, signs or blanks in one of them is longer than 256.

    A longer run is cut, for the trainer would work on it as one word at every merge.
    """
    for piece in split_into_pieces(blocks):
        start = 0
        for run in _RUN.finditer(piece):
            yield piece[start : run.end()]
            start = run.end()
        if start < len(piece):
            yield piece[start:]


def text_blocks(text: Text) -> Iterable[str]:
    """A text, in blocks that are held in memory one at a time where it is long."""
    return [text] if isinstance(text, str) else text.blocks()


def sample_evenly_spaced_pieces(texts: Sequence[Text], max_bytes: int = MAX_TRAINING_BYTES) -> Iterator[str]:
    """What a tokenizer is trained on: the texts in pieces; of more than `max_bytes` bytes, evenly spaced pieces that
    have about so many together.
    """
    whole = sum(len(text.encode()) if isinstance(text, str) else text.num_bytes for text in texts)
    share, owed = min(1.0, max_bytes / max(1, whole)), 0.0
    for piece in (piece for text in texts for piece in split_into_pieces(text_blocks(text))):
        owed += len(piece) * share
        if owed >= len(piece):
            owed -= len(piece)
            yield piece
