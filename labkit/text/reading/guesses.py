"""Older encodings, of which nothing in a file says which it is: guessed by the words that come of each.

chardet puts the encodings in an order, by the words that hold bytes beyond ASCII: a few Chinese words in a long English
text are found, too. The first of which words come that could be written is taken; where none is, the file is refused.
"""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata

import chardet

from labkit.errors import LabError

LATIN = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859-2", "iso8859-15", "mac-roman", "cp850", "cp852", "cp437")
ENCODINGS = (
    *("gb18030", "big5", "big5hkscs", "cp932", "euc-jp", "euc_jis_2004", "cp949"),
    *("cp1251", "koi8-r", "koi8-u", "cp866", "iso8859-5", "mac-cyrillic", "cp1253", "iso8859-7"),
    *("cp1255", "iso8859-8", "cp1256", "iso8859-6", "cp874", "tis-620", *LATIN),
)
"""Of two that give the same text the first is named."""
LEAST = 0.05
"""chardet's confidence below which other encodings than those of Latin letters are not believed."""
NEAR = 0.9
"""The share of the best confidence from which on the words that come of it decide."""
SCRIPTS = {"LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI"}
ODD = 0.15
"""The share of words that nobody would write from which on an encoding is not believed."""
ESCAPES = (
    ("iso2022_jp_2", rb"\x1b\$[@B]|\x1b\(J"),
    ("iso2022_kr", rb"\x1b\$\)C"),
    ("hz", rb"~\{(?:[!-w][!-~])+~\}"),
)
"""Encodings in ASCII alone, and what parts their characters from it."""


def detect_escape_encoding(data: bytes) -> str:
    """The encoding that switches between ASCII and other characters by escapes; '' for none."""
    if not data.isascii():
        return ""
    for encoding, mark in ESCAPES:
        if re.search(mark, data) and "\ufffd" not in data.decode(encoding, "replace")[:-2]:
            return encoding
    return ""


def guess_encoding(data: bytes, name: str) -> str:
    """The encoding of bytes that are not UTF-8; '' where none can be believed. Raises LabError, with the file's `name`,
    for one in which some lines are UTF-8.
    """
    _refuse_two(data, name)
    words = _words(data)
    runs = re.findall(rb"[\x80-\xff]+", words)
    latin = sum(len(run) == 1 for run in runs) > 0.7 * sum(map(len, runs))  # accents, each between Latin letters
    among = LATIN if latin else ENCODINGS
    era = chardet.EncodingEra.ALL
    found = chardet.detect_all(words, ignore_threshold=True, encoding_era=era, include_encodings=among)
    worth = {codecs.lookup(one["encoding"]).name: round(one["confidence"], 2) for one in found if one["encoding"]}
    order = [codecs.lookup(one).name for one in ENCODINGS]
    odd = {one: _odd(words.decode(one, "replace")) for one in worth if latin or worth[one] >= LEAST}
    believed = [one for one in order if odd.get(one, 1) <= ODD]
    best = max((worth[one] for one in believed), default=0)
    near = [one for one in believed if worth[one] >= NEAR * best]
    return min(near, key=lambda one: (odd[one], -worth[one], order.index(one)), default="")


def _words(data: bytes) -> bytes:
    """The words that hold bytes beyond ASCII, with a blank between; the line ends that JSON writes part words, too."""
    data = re.sub(rb"\\[nrt]", b" ", data)
    return b" ".join(re.findall(rb"[^\x00-\x20]*[\x80-\xff][^\x00-\x20]*", data))


def _odd(text: str) -> float:
    """The share of words with characters beyond ASCII that nobody would write."""
    words = [word for word in re.findall(r"[^\W_]+(?:[^\x00-\x7f][^\W_]+)*|[^\x00-\x7f]+", text) if not word.isascii()]
    return sum(map(_is_odd, words)) / max(1, len(words))


def _is_odd(word: str) -> bool:
    """A capital after a small letter, letters of two scripts, a symbol between letters, or accents alone."""
    if re.search(r"[\x80-\x9f\ufffd\ue000-\uf8ff]", word):
        return True
    beyond = [not one.isascii() for one in word]
    for at, (one, other) in enumerate(itertools.pairwise(word)):
        if (beyond[at] or beyond[at + 1]) and one.islower() and other.isupper():
            return True
    scripts = {unicodedata.name(one, "").partition(" ")[0] for one in word if one.isalpha()} & SCRIPTS
    between = re.findall(r"(?<=[^\W\d_])([^\x00-\x7f])(?=[^\W\d_])", word)
    signs = any(one in "§¶¡¿†‡‚„«»" or unicodedata.category(one)[0] in "SCN" for one in between)
    accents = re.search("[\xc0-\u024f]{5}", word) is not None and not word.isupper()
    return len(scripts) > 1 or signs or accents


def _refuse_two(data: bytes, name: str) -> None:
    """Raises LabError where some lines are UTF-8 and others are not."""
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if not line.isascii()]
    kinds: tuple[list[int], list[int]] = ([], [])
    for number, line in lines[:-1] or lines:  # the last may be cut
        try:
            kinds[len(re.findall(r"[^\x00-\u07ff]", line.decode())) < 2].append(number)
        except UnicodeDecodeError:
            kinds[1].append(number)
    if 10 * len(kinds[0]) > len(lines) and kinds[1]:
        raise LabError(
            f"{name} has mixed encodings: line {kinds[0][0]} is UTF-8, line {kinds[1][0]} is not. Save all of it as "
            "UTF-8."
        )
