"""Which part of what was read is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def hold_out(items: Sequence[T], share: float, key: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """Split items into (train, validation) by the hash of their content: the share with the lowest is held
    out.

    At least one is held out and at least one left. Order is kept; the split does not depend on it.
    """
    count = min(max(1, round(len(items) * share)), len(items) - 1)
    digests = [hashlib.blake2b(key(item).encode(), digest_size=16).digest() for item in items]
    chosen = set(sorted(range(len(items)), key=digests.__getitem__)[:count])
    return (
        [item for index, item in enumerate(items) if index not in chosen],
        [item for index, item in enumerate(items) if index in chosen],
    )
