"""Cleaning real text: one form for each character, no control characters, no repeated documents.

Duplicates cost compute, and one that lies on both sides of a split makes the held-out loss too good (Lee et
al. 2022, "Deduplicating Training Data Makes Language Models Better", arXiv 2107.06499).
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labkit.text.pieces import Text, split_into_pieces

SHINGLE_WORDS = 5
_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, kana and Han characters: scripts whose words no space parts."""
_OPERATORS = "-*/%&#@\\"
"""Punctuation that means something by itself, as symbols do; the rest ("2, 3." or "2 3") does not tell texts apart."""
BANDS, BAND_ROWS = 16, 8
SIMILAR = 0.8
MINHASH_PRIME = np.uint64(2**32 - 5)
_BREAK = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff]")
_LINE_END = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def clean_text(text: str) -> str:
    """One document, cleaned.

    Unicode NFC (an accented letter is one character), whatever ends a line or page as '\\n' (form feeds, U+2028,
    separators of files, groups and records), the separator of units as a blank, no other control characters but tab,
    no byte order marks, no half characters, no blanks at line ends, at most one blank line in a row.

        'Cafe\\u0301 \\r\\n\\n\\n\\nbar\\x07' -> 'Café\\n\\nbar'
    """
    text = _BREAK.sub("\n", text).replace("\x1f", " ")
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))
    return _BLANK_LINES.sub("\n\n", _LINE_END.sub("", text))


def clean_blocks(blocks: Iterable[str]) -> Iterator[str]:
    """A text in blocks of any length -> clean_text of the whole, in blocks: "".join(of these) equals it."""
    held = ""
    for block in blocks:
        cleaned, held = clean_complete_prefix(held + block)
        yield cleaned
    yield clean_text(held)


class CleanedPrefix(NamedTuple):
    """cleaned: as much of a text as can be cleaned before more of it is known. remainder: the rest, as it is."""

    cleaned: str
    remainder: str


def clean_complete_prefix(text: str) -> CleanedPrefix:
    """The beginning of a text that goes on, cleaned as far as it can be now.

    What cleaning does depends on runs of white space, controls and combining marks. So the text is cleaned up to the
    last sign in it that is none of these and joins with nothing before it.
    """
    end = _last_base(text)
    cleaned = clean_text(text[:end] + "x")[:-1] if end else ""  # blanks before a sign are no line's end
    return CleanedPrefix(cleaned, text[end:])


def _last_base(text: str) -> int:
    """The place of the last sign before which a text may be cut for cleaning; 0 where there is none."""
    return next((at for at in range(len(text) - 1, 0, -1) if is_never_combining(text[at])), 0)


def is_never_combining(character: str) -> bool:
    """Whether a sign is a letter, digit, punctuation mark or symbol that never joins with what is before it (as the
    later letters of Hangul and of Kirat Rai do).
    """
    joins = "\u1100" <= character <= "\u11ff" or "\U00016d40" <= character <= "\U00016d7f"
    return unicodedata.category(character)[0] in "LNPS" and not joins


class Deduplicated(NamedTuple):
    """The indices of the texts to keep, and how many exact and near duplicates are dropped."""

    kept_indices: list[int]
    num_exact: int
    num_near: int


def deduplicate(texts: Sequence[Text]) -> Deduplicated:
    """Which texts to keep: the first of those that are alike."""
    exact, near = find_duplicates(texts, range(len(texts)))
    kept = [index for index in range(len(texts)) if index not in exact and index not in near]
    return Deduplicated(kept, len(exact), len(near))


class DuplicateTexts(NamedTuple):
    """exact: {index: index of the text that it equals}. near: {index: index of the text that it nearly equals}."""

    exact: dict[int, int]
    near: dict[int, int]


def find_duplicates(texts: Sequence[Text], order: Iterable[int]) -> DuplicateTexts:
    """The texts that repeat one before them in this order.

    Near: the sets of runs of five words (see `shingle_hashes`) overlap by a Jaccard index of 0.8 or more with a text
    kept before. Candidates are found by MinHash (Broder 1997) in 16 bands of 8 hashes, which meets a pair of Jaccard
    0.8 with probability 1 - (1 - 0.8^8)^16 = 0.95; each is then checked on the full sets, which are kept at 4 bytes a
    word.
    """
    seen: dict[str, int] = {}
    tables: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]
    shingles: dict[int, NDArray[np.uint32]] = {}
    exact: dict[int, int] = {}
    near: dict[int, int] = {}
    for index in order:
        text = texts[index]
        first = seen.setdefault(exact_duplicate_key(text), index)
        if first != index:
            exact[index] = near.get(first, first)
            continue
        mine = _shingles(text)
        if not len(mine):  # too short to be nearly another
            continue
        bands = _bands(mine)
        candidates = {other: None for table, band in zip(tables, bands, strict=True) for other in table.get(band, ())}
        found = next((other for other in candidates if _jaccard(mine, shingles[other]) >= SIMILAR), None)
        if found is not None:
            near[index] = found
            continue
        shingles[index] = mine
        for table, band in zip(tables, bands, strict=True):
            table.setdefault(band, []).append(index)
    return DuplicateTexts(exact, near)


def exact_duplicate_key(text: Text) -> str:
    """What is equal for equal texts: a text itself, of a LongText its digest."""
    return text if isinstance(text, str) else text.digest


def _shingles(text: Text) -> NDArray[np.uint32]:
    """`shingle_hashes` of a text as an array without repeats; of a LongText piece by piece, the few runs that lie
    across two pieces aside.
    """
    parts = [text] if isinstance(text, str) else split_into_pieces(text.blocks())
    found = [np.fromiter(shingle_hashes(part), np.uint32) for part in parts]
    return np.unique(np.concatenate(found))


def _jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def split_words(text: str) -> list[str]:
    """The words of a text, with the vowel signs and accents that belong to them, and its symbols (+, <, €); no
    punctuation. In scripts that put no space between words, each character is one.
    """
    return _word().findall(text)


@cache
def _word() -> re.Pattern[str]:
    signs = {"M": "", "S": re.escape(_OPERATORS)}
    for code in range(0x10000):
        kind = unicodedata.category(chr(code))[0]
        if kind in signs:
            signs[kind] += re.escape(chr(code))
    letter = rf"[^\W{_WITHOUT_SPACES}]"
    word = rf"[{_WITHOUT_SPACES}]|{letter}+(?:[{signs['M']}]+{letter}*)*"
    return re.compile(rf"{word}|!=|[{signs['S']}]|(?=[^\x00-\uffff])\W")  # beyond: emoji above all


def shingle_hashes(text: str) -> set[int]:
    """A text -> the 32-bit hashes of its runs of five words (see `split_words`), case aside; of a shorter text none."""
    words = split_words(text.lower())
    runs = range(len(words) - SHINGLE_WORDS + 1)
    return {zlib.crc32(" ".join(words[start : start + SHINGLE_WORDS]).encode()) for start in runs}


def jaccard(one: set[int], other: set[int]) -> float:
    """Shared members over all members."""
    return len(one & other) / len(one | other)


def minhash_signature(shingles: set[int] | NDArray[np.uint32]) -> NDArray[np.uint64]:
    """A set -> 128 minima of random linear hashes. Two sets agree in each with a probability of their
    Jaccard index.
    """
    values = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
    minima = np.full(len(MINHASH_SLOPES), MINHASH_PRIME, dtype=np.uint64)
    for start in range(0, len(values), 4096):  # in pieces: a book has a million members
        hashes = (
            MINHASH_SLOPES[:, None] * values[None, start : start + 4096] + MINHASH_OFFSETS[:, None]
        ) % MINHASH_PRIME
        np.minimum(minima, hashes.min(axis=1), out=minima)
    return minima


def _bands(shingles: NDArray[np.uint32]) -> list[bytes]:
    return [band.tobytes() for band in minhash_signature(shingles).reshape(BANDS, BAND_ROWS)]


# A product wraps around the prime up to 2^32 times, so the hashes are nearly independent (with few wraps they follow
# the size of the member, and choose the same few members); it stays below 2^64, as 32-bit hashes and slopes do.
_random = np.random.default_rng(1997)
MINHASH_SLOPES = _random.integers(1, MINHASH_PRIME, BANDS * BAND_ROWS, dtype=np.uint64)
MINHASH_OFFSETS = _random.integers(0, MINHASH_PRIME, BANDS * BAND_ROWS, dtype=np.uint64)
