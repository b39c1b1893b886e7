"""How fast the world writes: `labkit bench world`.

Training reads documents as they are written, so what writing costs is taken from training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypedDict

from labkit.configs import Count, check_fields
from labkit.world import World


@dataclass(frozen=True)
class WorldBench:
    """documents: written in each of `rounds` rounds, of whose speeds the median counts; size: of the world."""

    size: Literal["tiny", "lab", "full"] = "lab"
    documents: Count = 1000
    rounds: Count = 5

    def __post_init__(self) -> None:
        check_fields(self)


class WorldSpeed(TypedDict):
    """kB of text a second, of documents (stories with their questions) and of stories alone, on one core."""

    size: str
    documents: int
    document_kB_per_second: float
    story_kB_per_second: float


def run(config: WorldBench) -> WorldSpeed:
    """The medians over the rounds."""
    world = World.load(config.size)
    return {
        "size": config.size,
        "documents": config.documents,
        "document_kB_per_second": median(_documents(world, config, r) for r in range(config.rounds)),
        "story_kB_per_second": median(_stories(world, config, r) for r in range(config.rounds)),
    }


def _documents(world: World, config: WorldBench, seed: int) -> float:
    start = time.process_time()
    written = 0
    for index in range(config.documents):
        document = world.document("train", seed, index)
        written += len(document.passage) + sum(len(message.content) for message in document.messages)
    return written / 1000 / (time.process_time() - start)


def _stories(world: World, config: WorldBench, seed: int) -> float:
    start = time.process_time()
    written = sum(len(world.document("train", seed, i, "story").passage) for i in range(config.documents))
    return written / 1000 / (time.process_time() - start)
