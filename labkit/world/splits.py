"""Which combinations belong to training: the split is by pairs, so that accuracy means generalisation.

Every pair of a person and a thing, food or animal, of a person and a place, and of such an object and a place belongs
to one split, fixed by a hash of the two words. A training story holds training pairs only; a test story is built around
pairs of the test split, which therefore never met in training.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from labkit.errors import LabError
from labkit.world.lexicon import Lexicon

SPLITS = ("train", "validation", "test")
OBJECTS = ("thing", "breakable", "food", "animal")
SHARE = 16
"""One pair in sixteen is held out for validation, one for test, and at least one of each word's. More would teach a
small model who is never where, instead of reading."""


def check_split(split: str) -> None:
    """Raises LabError when there is no such split."""
    if split not in SPLITS:
        raise LabError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}.")


class WordPairSplits:
    """The split of every pair of a lexicon."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._split: dict[tuple[str, str], str] = {}
        self._partners: dict[tuple[str, str, tuple[str, ...]], frozenset[str]] = {}
        for kind in ("thing", "food", "animal"):
            self._cross(lexicon.values["person"], lexicon.values[kind])
            self._cross(lexicon.values["place"], lexicon.values[kind])
        self._cross(lexicon.values["person"], lexicon.values["place"])

    def _cross(self, ones: Iterable[str], others: tuple[str, ...]) -> None:
        """Each of `ones` has at least one held-out partner of each split among `others`."""
        for one in ones:
            ranked = sorted(others, key=lambda other: zlib.crc32(f"{one}|{other}".encode()))
            held = max(1, len(others) // SHARE)
            for rank, other in enumerate(ranked):
                split = "validation" if rank < held else "test" if rank < 2 * held else "train"
                self._split[one, other] = self._split[other, one] = split

    def split_of(self, one: str, other: str) -> str | None:
        """The split of a pair, None for two words that the split does not speak of (two people, say)."""
        return self._split.get((one, other))

    def partners(self, one: str, kind: str, splits: tuple[str, ...]) -> frozenset[str]:
        """The words of a kind that may stand beside `one`: the pair is in one of the splits, or in none."""
        key = (one, kind, splits)
        if key not in self._partners:
            words = self._lexicon.values[kind]
            self._partners[key] = frozenset(w for w in words if self._split.get((one, w), splits[0]) in splits)
        return self._partners[key]
