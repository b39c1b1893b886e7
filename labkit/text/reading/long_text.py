"""A long text that stays in its file: decoded and cleaned block by block, each time that it is read."""

from __future__ import annotations

import codecs
import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.text.clean import CleanedPrefix, clean_complete_prefix, clean_text

LONG = 16_000_000
"""Bytes from which on a file of plain text is not held in memory."""
BLOCK = 2**20
"""Bytes that are read at a time."""


class _Mark(NamedTuple):
    """Where reading can begin: characters of cleaned text before it, the place in the file, and what is under way."""

    characters: int
    place: int
    decoder: tuple[Any, int]
    held: str


class LongText:
    """A file of plain text, cleaned: the same characters as clean_text of the whole.

    num_bytes: bytes in UTF-8. digest: of the cleaned text. uncleaned_length: characters before cleaning. replaced: how
    many of them are U+FFFD, as bytes that are not of the encoding become. stray: the bytes around the first of these.
    parted: whether <|endoftext|> stands in it. A slice of it is such a text too; str() of that holds it.
    """

    def __init__(self, path: Path, encoding: str):
        """Reads the file once. Raises LabError when it changes later, while it is in use."""
        self.path, self.encoding = path, encoding
        self._stamp = self._now()
        self._marks: list[_Mark] = []
        self.uncleaned_length = self.replaced = self.num_bytes = characters = 0
        self.parted, self.stray = False, b""
        digest = hashlib.blake2b(digest_size=16)
        fresh = codecs.getincrementaldecoder(encoding)().getstate()
        for mark, raw, cleaned in self._read(_Mark(0, 0, fresh, "")):
            self._marks.append(mark._replace(characters=characters))
            self.uncleaned_length += len(raw)
            if not self.replaced and "\ufffd" in raw:
                self.stray = self._bytes(mark.place - BLOCK, mark.place + BLOCK)
            self.replaced += raw.count("\ufffd")
            self.parted |= "<|endoftext|>" in cleaned
            data = cleaned.encode(errors="replace")
            digest.update(data)
            self.num_bytes += len(data)
            characters += len(cleaned)
        self.digest = digest.hexdigest()
        self.start, self.stop = 0, characters

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> LongText:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError("A part of a text is one stretch of it.")
        other = object.__new__(LongText)
        other.__dict__ |= self.__dict__
        other.start, other.stop = self.start + start, self.start + max(start, stop)
        other.num_bytes = self.num_bytes * len(other) // max(1, len(self))
        other.digest = f"{self.digest} {other.start} {other.stop}"
        return other

    def __str__(self) -> str:
        return "".join(self.blocks())

    def blocks(self) -> Iterator[str]:
        """The text, about a megabyte at a time."""
        if self._now() != self._stamp:
            raise LabError(f"{self.path} has changed since it was first read. Start again.")
        before = bisect_right(self._marks, self.start, key=lambda mark: mark.characters) - 1
        at = self._marks[before].characters if self._marks else 0
        for _, _, cleaned in self._read(self._marks[before]) if len(self) else ():
            part = cleaned[max(0, self.start - at) : self.stop - at]
            at += len(cleaned)
            if part:
                yield part
            if at >= self.stop:
                return

    def _read(self, mark: _Mark) -> Iterator[tuple[_Mark, str, str]]:
        """(where a block begins, its characters, the cleaned text that it completes), from a mark to the end."""
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        decoder.setstate(mark.decoder)
        held = mark.held
        with open(self.path, "rb") as file:
            file.seek(mark.place)
            while True:
                begins = _Mark(0, file.tell(), decoder.getstate(), held)
                data = file.read(BLOCK)
                raw = decoder.decode(data, final=not data)
                cleaned, held = clean_complete_prefix(held + raw) if data else CleanedPrefix(clean_text(held + raw), "")
                yield begins, raw, cleaned
                if not data:
                    return

    def _bytes(self, start: int, stop: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(max(0, start))
            return file.read(stop - max(0, start))

    def _now(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns
