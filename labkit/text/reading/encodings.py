"""Bytes -> text: the encoding of a file found out, and named.

Byte order marks and UTF-8 are told by rule; of the older encodings (GB18030, Big5, Shift-JIS, EUC-JP, EUC-KR,
windows-125x, KOI8-R) chardet says which it is.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, NamedTuple

import chardet

from labkit.errors import LabError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
KINDS = (
    (b"PK\x03\x04", "a zip archive or an Office document", "unpack it, or save it as CSV or text"),
    (b"%PDF", "a PDF", "save it as text"),
    (b"\x89PNG", "a picture", "give text"),
    (b"\xff\xd8\xff", "a picture", "give text"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it first (zstd -d)"),
    (b"BZh91AY&SY", "packed with bzip2", "unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "packed with xz", "unpack it first (unxz)"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"SQLite format 3", "a SQLite database", "save the table as CSV"),
    (b"ARROW1", "an Arrow file", "save it as parquet"),
)
"""How files begin that hold no text, what they are, and what to do with them."""

SAMPLE = 200_000
"""Bytes that are enough to tell an encoding by."""
LATIN = ("cp1252", "cp1250", "cp1254", "cp1257")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x7f]")
_WESTERN = re.compile(
    r"(?<=[A-Za-z])[\udcc0-\udcfd]|[\udcc0-\udcfd](?=[A-Za-z])|[\udc80\udc85\udc91-\udc97\udca0-\udcbf]"
)
"""Bytes that are no UTF-8 and stand where a letter or a sign of windows-1252 would."""


class Decoded(NamedTuple):
    """A file's text, its encoding, and what was not of that encoding in it: a line, or ''."""

    text: str
    encoding: str
    warning: str


def decode(data: bytes, name: str) -> Decoded:
    """The text in a file's bytes. Bytes that are not of its encoding become U+FFFD and are counted, while they are few.

    Raises LabError, with the file's `name`, for bytes that are no text and for an encoding that cannot be told.
    """
    encoding = find_encoding(data, name)
    try:
        return Decoded(data.decode(encoding), encoding, "")
    except UnicodeDecodeError as error:
        text, at = data.decode(encoding, "replace"), error.start
    bad = max(1, text.count("\ufffd"))
    if bad * 20 > len(text):
        raise LabError(
            f"{name} is not text in UTF-8 nor in an encoding that is known here: byte {data[at]:#04x} at position "
            f"{at}. Save it as UTF-8."
        )
    line = data.count(b"\n", 0, at) + 1
    where = f"{data[at]:#04x} at position {at}, line {line}"
    first = where if bad == 1 else f"the first {where}"
    return Decoded(
        text, encoding, f"{name}: {bad} byte{'s' * (bad > 1)} not of {encoding} ({first}) replaced by U+FFFD"
    )


def find_encoding(data: bytes, name: str) -> str:
    """Bytes, a whole file's or its first SAMPLE -> the name of Python's codec for them.

    Raises LabError, with the file's `name`, for what is no text.
    """
    for start, kind, mend in KINDS:
        if data.startswith(start):
            raise LabError(f"{name} is {kind}: a binary file, not text. To use it, {mend}.")
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return encoding
    if b"\0" in data[:SAMPLE]:
        encoding = _wide(data[:SAMPLE])
        if not encoding:
            raise LabError(f"{name} is a binary file, not text (it holds zero bytes).")
        return encoding
    encoding = "utf-8" if _is_utf8(data) else _detected(data, name)
    sample = data[:SAMPLE].decode(encoding, "replace")
    if len(_CONTROL.findall(sample)) * 50 > len(sample):
        raise LabError(f"{name} is a binary file, not text (it holds control characters).")
    return encoding


def _is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8, but for few that are damaged: a cut at the end, or a stray byte."""
    text = data.decode("utf-8", "surrogateescape")
    bad = len(re.findall("[\udc80-\udcff]", text))
    if not bad:
        return True
    if len(re.findall("[\x80-\ud7ff\ue000-\U0010ffff]", text)) > 10 * bad:
        return True
    return bad * 1000 <= len(data) and len(_WESTERN.findall(text)) < bad


def _wide(data: bytes) -> str:
    """UTF-16 without a byte order mark, by the byte order that gives characters in use; '' where neither does."""
    data = data[: len(data) // 2 * 2]
    shares = {}
    for encoding in ("utf-16-le", "utf-16-be"):
        text = data.decode(encoding, "replace")
        usual = re.search("[ \n，。、]", text) is not None
        shown = sum(sign.isprintable() and sign != "\ufffd" or sign in "\n\r\t\f" for sign in text)
        shares[encoding] = usual * shown / max(1, len(text))
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 0.99 else ""


def _detected(data: bytes, name: str) -> str:
    settings: dict[str, Any] = {"encoding_era": chardet.EncodingEra.MODERN_WEB, "prefer_superset": True}
    text = data[:SAMPLE].decode("ascii", "surrogateescape")
    high = re.findall("[\udc80-\udcff]+", text)
    latin = sum(len(run) == 1 for run in high) > 0.7 * sum(map(len, high))
    if latin:  # accents, each between Latin letters: no other alphabet's words look so
        settings["include_encodings"] = LATIN
    found = chardet.detect(data[:SAMPLE], **settings)
    if latin and (not found["encoding"] or found["confidence"] < 0.05):
        return "cp1252"
    if not found["encoding"] and not _wide(data[:SAMPLE]):
        raise LabError(f"{name} is in no encoding that is known here, or a binary file. Save it as UTF-8.")
    return codecs.lookup(found["encoding"] or _wide(data[:SAMPLE])).name
