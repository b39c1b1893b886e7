"""Bytes -> text: the encoding of a file found out, and named.

Byte order marks and UTF-8 are told by rule; which of the older encodings it is, is guessed, and that is said.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from labkit.errors import LabError
from labkit.files import refuse_lfs_pointer
from labkit.text.reading.guesses import detect_escape_encoding, guess_encoding

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
    (b"{\\rtf", "rich text (RTF)", "save it as plain text"),
    (b"ARROW1", "an Arrow file", "save it as parquet"),
    (b"\x1f\x8b", "packed twice", "unpack it first (gunzip)"),
)
"""How files begin that hold no text, what they are, and what to do with them."""

SAMPLE = 200_000
"""Bytes that are enough to tell an encoding by."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x7f]")
_WESTERN = re.compile(
    r"(?<=[A-Za-z])[\udcc0-\udcfd]|[\udcc0-\udcfd](?=[A-Za-z])|[\udc80\udc85\udc91-\udc97\udca0-\udcbf]"
)
"""Bytes that are no UTF-8 and stand where a letter or a sign of windows-1252 would."""


class DecodedText(NamedTuple):
    """A file's text, its encoding, and what to say of it: that it is a guess, or what was not of it; a line, or ''."""

    text: str
    encoding: str
    warning: str


def decode(data: bytes, file_name: str) -> DecodedText:
    """The text in a file's bytes. Bytes that are not of its encoding become U+FFFD and are counted, while they are few.

    Raises LabError, with the `file_name`, for bytes that are not text and for an encoding that cannot be detected.
    """
    encoding = find_encoding(data, file_name)
    try:
        return DecodedText(data.decode(encoding), encoding, encoding_guess_warning(data, encoding, file_name))
    except UnicodeDecodeError as error:
        text, at = data.decode(encoding, "replace"), error.start
    bad = max(1, text.count("\ufffd"))
    if bad * 20 > len(text):
        raise LabError(
            f"{file_name} is neither UTF-8 nor in a supported encoding: byte {data[at]:#04x} at position {at}. Save it "
            "as UTF-8."
        )
    line = data.count(b"\n", 0, at) + 1
    where = f"{data[at]:#04x} at position {at}, line {line}"
    first = where if bad == 1 else f"the first {where}"
    return DecodedText(
        text, encoding, f"{file_name}: {bad} byte{'s' * (bad > 1)} not of {encoding} ({first}) replaced by U+FFFD"
    )


def encoding_guess_warning(data: bytes, encoding: str, name: str) -> str:
    """The line that says that a file's encoding is guessed; '' where bytes tell it for sure."""
    if encoding == "utf-8" or any(data.startswith(mark) for mark, _ in MARKS):
        return ""
    return f"{name}: read as {encoding}, which is a guess. If its letters look wrong, save it as UTF-8."


def find_encoding(data: bytes, name: str) -> str:
    """Bytes, a whole file's or its first SAMPLE -> the name of Python's codec for them.

    Raises LabError, with the file's `name`, for what is no text.
    """
    refuse_binary_files(data, name)
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return encoding
    if b"\0" in data[:SAMPLE]:
        encoding = _wide(data[:SAMPLE])
        if not encoding:
            count, line = data.count(b"\0"), data.count(b"\n", 0, data.index(b"\0")) + 1
            raise LabError(
                f"{name} is not text, or is damaged: it has {count:,} NUL bytes, the first in line {line}. If it is "
                "text, remove them (tr -d '\\0')."
            )
        return encoding
    encoding = detect_escape_encoding(data[:SAMPLE]) or ("utf-8" if is_utf8(data) else "")
    encoding = encoding or guess_encoding(_sample(data), name) or _wide(data[:SAMPLE])
    if not encoding:
        raise LabError(
            f"{name} is not UTF-8, and too short for its encoding to be detected, or it is a binary file. Save it as "
            "UTF-8."
        )
    sample = data[:SAMPLE].decode(encoding, "replace")
    if len(_CONTROL.findall(sample)) * 50 > len(sample):
        raise LabError(f"{name} is a binary file, not text (it contains control characters).")
    return encoding


def _sample(data: bytes) -> bytes:
    """SAMPLE bytes with the first that are no UTF-8 among them: at the beginning, or after a blank amid others."""
    try:
        data.decode()
        at = 0
    except UnicodeDecodeError as error:
        at = error.start
    start = at - SAMPLE // 2 if at >= SAMPLE else 0
    blank = re.search(rb"[ \n]", data[start:at]) if start else None
    start += blank.end() if blank else 0
    return data[start : start + SAMPLE]


def refuse_binary_files(data: bytes, name: str) -> None:
    """Raises LabError for bytes that begin as a file of a known kind that holds no text by itself."""
    for start, kind, mend in KINDS:
        if data.startswith(start):
            raise LabError(f"{name} is {kind}: a binary file, not text. To use it, {mend}.")
    refuse_lfs_pointer(data, name)
    if data[257:262] == b"ustar":
        raise LabError(f"{name} is a tar archive. To use it, unpack it (tar xf) and give its folder.")


def is_utf8(data: bytes) -> bool:
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
