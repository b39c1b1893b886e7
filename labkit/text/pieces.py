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

PIECE = 2**16
"""Characters of a piece, about."""
LONGEST_WORD = 4096
"""Characters without a boundary after which a text is cut in the middle of a word."""
AROUND = 256
"""Characters on each side of a cut that decide whether it is a good one."""
TRIES = 64

# Runs of one kind, which the pre-tokenizer makes one word; the trainer's time grows with the length of its words.
_RUN = re.compile(r"[^\W\d_]{256}|\d{256}|[^\w\s]{256}|\s{256}")

TRAINED = 8_000_000
"""Bytes of text that a tokenizer learns from: a second for prose, at most a minute and 1 GB for Chinese in one line."""


class LongText(Protocol):
    """A text that is not held in memory whole. size: its bytes in UTF-8. digest: of its content. read: the characters
    that it had before it was cleaned.
    """

    size: int
    digest: str
    read: int

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> LongText: ...

    def blocks(self) -> Iterator[str]: ...


Text = str | LongText
Same = Callable[[str, str], bool]
"""(left, right) -> whether a tokenizer makes the same of the two apart as of the two together."""


def split_into_pieces(blocks: Iterable[str], same: Same | None = None, size: int = PIECE) -> Iterator[str]:
    """A text, given in blocks of any length -> the same text in pieces of about `size` characters.

    A piece ends before white space that follows something else, or where letters, digits and other signs meet: there
    the pre-tokenizers in use begin a new word (see `is_word_boundary`). `same` is asked, too, where a tokenizer has its
    own ideas; a text of which it accepts no cut stays whole. Where LONGEST_WORD characters have no boundary at all (one
    letter after the other: Chinese without punctuation, say), the text is cut between two of them, and the ids at that
    place may be others than in one call. The pieces do not depend on the blocks.
    """
    held = ""
    for block in blocks:
        text, start, limit = held + block, 0, size
        while len(text) - start > limit + AROUND:
            cut = _cut(text, start, start + limit, same)
            if cut is None:
                limit += size
                continue
            yield text[start:cut]
            start, limit = cut, size
        held = text[start:]
    if held:
        yield held


def _cut(text: str, start: int, end: int, same: Same | None) -> int | None:
    """Where to end a piece, at most at `end`; None where `same` accepts none of the last TRIES boundaries."""
    tried = 0
    for at in range(end, max(start, end - LONGEST_WORD), -1):
        if not is_word_boundary(text, at):
            continue
        if same is None or same(text[max(0, at - AROUND) : at], text[at : at + AROUND]):
            return at
        tried += 1
        if tried == TRIES:
            return None
    return None if tried else end


def is_word_boundary(text: str, at: int) -> bool:
    """Whether GPT-2's pre-tokenizer begins a new word at `text[at]`, whatever stands around.

    Its words are `'s` and the like, one space and letters, one space and digits, one space and other signs, or white
    space; none of them goes on after what is not white space with white space, or with another kind of sign. An
    apostrophe may belong to the letters after it. Not said of combining marks, which belong to what is before them.
    """
    before, after = _kind(text[at - 1]), _kind(text[at])
    if before in " ?" or after == "?" or unicodedata.category(text[at]).startswith("M"):
        return False
    return before != after and text[at - 1] != "'"


def _kind(sign: str) -> str:
    """L letter, N digit, ' ' white space, . another sign, ? one that is a control or not in this Unicode."""
    kind = unicodedata.category(sign)[0]
    if sign in "\t\n" or kind == "Z":
        return " "
    return "?" if kind == "C" else kind if kind in "LN" else "."


def cut_long_runs(blocks: Iterable[str]) -> Iterator[str]:
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


def blocks_of(text: Text) -> Iterable[str]:
    """A text, in blocks that are held in memory one at a time where it is long."""
    return [text] if isinstance(text, str) else text.blocks()


def sample_evenly(texts: Sequence[Text], size: int = TRAINED) -> Iterator[str]:
    """What a tokenizer is trained on: the texts in pieces; of more than `size` bytes, evenly spaced pieces that have
    about so many together.
    """
    whole = sum(len(text.encode()) if isinstance(text, str) else text.size for text in texts)
    share, owed = min(1.0, size / max(1, whole)), 0.0
    for piece in (piece for text in texts for piece in split_into_pieces(blocks_of(text))):
        owed += len(piece) * share
        if owed >= len(piece):
            owed -= len(piece)
            yield piece
