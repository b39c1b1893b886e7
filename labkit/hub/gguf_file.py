"""A GGUF file opened with care: what it says of itself is held against its size before anything is set aside for it.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package `gguf` trusts a file's counts; one that is cut
off or made to harm would keep it busy for ever.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from labkit.errors import LabError
from labkit.files import check_not_lfs_pointer

if TYPE_CHECKING:
    from gguf import GGUFReader

MAGIC = b"GGUF"
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the plain types of values; 8 is a string, 9 an array."""
STRING, ARRAY = 8, 9
MOST_NAME, MOST_DIMENSIONS = 65_535, 4


def find_gguf_file(path_or_hub_name: str | Path) -> Path | None:
    """The GGUF file that a source stands for: itself, or the only one in a folder without a config.json; None for
    anything else.

    Raises LabError for a folder with several, and for one of several parts.
    """
    path = Path(path_or_hub_name)
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise LabError(f"{path} contains {len(files)} GGUF files ({names}). Name the one to read.")
        return files[0] if files else None
    return path if path.suffix.lower() == ".gguf" else None


def open_gguf(path: Path) -> GGUFReader:
    """The package's reader of a file that is whole. Raises LabError in words for any other, without reading weights."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise LabError("Reading GGUF files needs the package gguf: pip install 'labkit[hub]'.") from error
    _check_header(path)
    try:
        reader = GGUFReader(path)
        parts = reader.get_field("split.count")
    except Exception as error:  # whatever the package raises for a damaged file
        raise LabError(f"{path} is damaged, or not a GGUF file that the package gguf can read: {error}") from error
    if parts is not None and parts.contents() > 1:
        raise LabError(f"{path} is one of {parts.contents()} parts. Join them first (llama-gguf-split --merge).")
    return reader


def _check_header(path: Path) -> None:
    """Raises LabError where the header's counts and lengths go beyond the end of the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            check_not_lfs_pointer(path)
            if file.read(4) != MAGIC:
                raise LabError(f"{path} is not a GGUF file: it does not begin with GGUF.")
            version, tensors, values = _numbers(file, "<IQQ")
            if version not in (2, 3):
                raise LabError(f"{path} has the version {version} of GGUF; supported are 2 and 3.")
            if (tensors + values) * 12 > size:  # each takes a name's length and a type at least
                raise struct.error("more tensors or values than it has room for")
            for _ in range(values):
                _skip_string(file, size, MOST_NAME)
                _skip_value(file, _numbers(file, "<I")[0], size)
            for _ in range(tensors):
                _skip_string(file, size, MOST_NAME)
                (dimensions,) = _numbers(file, "<I")
                if dimensions > MOST_DIMENSIONS:
                    raise struct.error(f"a tensor of {dimensions} dimensions")
                *shape, _, offset = _numbers(file, f"<{dimensions}QIQ")
                count = 1
                for length in shape:
                    count *= length
                if offset > size or count > 16 * size:  # a weight takes a bit and a half at least
                    raise struct.error("a tensor beyond its end")
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error}") from error
    except struct.error as error:
        raise LabError(f"{path} is truncated or damaged: {error}. Download it again.") from error


def _numbers(file: IO[bytes], form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _skip(file: IO[bytes], length: int, size: int) -> None:
    if length > size - file.tell():
        raise struct.error("a length goes beyond its end")
    file.seek(length, 1)


def _skip_string(file: IO[bytes], size: int, most: int | None = None) -> None:
    (length,) = _numbers(file, "<Q")
    if most is not None and length > most:
        raise struct.error(f"a name of {length} bytes")
    _skip(file, length, size)


def _skip_value(file: IO[bytes], kind: int, size: int) -> None:
    if kind in SIZES:
        _skip(file, SIZES[kind], size)
    elif kind == STRING:
        _skip_string(file, size)
    elif kind == ARRAY:
        inner, count = _numbers(file, "<IQ")
        if inner in SIZES:
            _skip(file, SIZES[inner] * count, size)
        elif inner == STRING and count * 8 <= size:
            for _ in range(count):
                _skip_string(file, size)
        else:
            raise struct.error("an array of arrays, or longer than the file")
    else:
        raise struct.error(f"a value of the unknown type {kind}")
