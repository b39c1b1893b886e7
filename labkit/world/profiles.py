"""Annotators: what each likes in an answer, and how often they choose by mistake."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from labkit.world.lexicon import load_yaml


@dataclass(frozen=True)
class Annotator:
    """An annotator. `complete`, `polite` and `concise` are weights that add up to 1; `words` is how long an answer may
    be before it stops being concise; `flip_probability` is the share of choices made by mistake."""

    name: str
    complete: float
    polite: float
    concise: float
    words: int
    flip_probability: float

    def chooses_first(self, first_score: float, second_score: float, rng: random.Random) -> bool:
        """Which of two totals this annotator prefers: the higher, a coin for a tie, and with `flip_probability` the
        other.
        """
        better = rng.random() < 0.5 if first_score == second_score else first_score > second_score
        return better != (rng.random() < self.flip_probability)


@cache
def load_annotators() -> dict[str, Annotator]:
    """The profiles of data/world/profiles.yaml, by name."""
    profiles = {}
    for name, raw in load_yaml("profiles").items():
        known = dict(raw)
        profiles[name] = Annotator(name, flip_probability=known.pop("noise"), **known)
    return profiles
