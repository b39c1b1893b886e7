"""The texts that a run trains on, known again: another labkit may clean and deduplicate the same file otherwise.

A run is read anew each time that it is resumed. With other texts its steps would read other rows, and a text that was
trained on could be among those held out.
"""

from __future__ import annotations

import hashlib

from labkit.errors import LabError
from labkit.machine import warn_once
from labkit.runs.folder import Run
from labkit.runs.inputs import KEPT_TEXTS
from labkit.text.clean import exact_duplicate_key
from labkit.text.reading import Texts


def hash_texts(texts: Texts) -> str:
    """SHA-256 of the texts to train on and of those held out, in their order."""
    digest = hashlib.sha256()
    for split in (texts.train, texts.validation):
        digest.update(f"{len(split)} texts\n".encode())
        for text in split:
            content = exact_duplicate_key(text).encode("utf-8", "surrogatepass")
            digest.update(f"{len(content)}\n".encode() + content)
    return digest.hexdigest()


def check_kept_texts(run: Run, texts: Texts) -> None:
    """Raises LabError where a run was begun with other texts. What one that is not begun will read is noted in
    `run.inputs`; of one that was begun before that was noted, only a warning can be given.
    """
    source, found = texts.reading.source, hash_texts(texts)
    if KEPT_TEXTS not in run.inputs:
        if not any((stage.path / "metrics.jsonl").exists() for stage in run.stages):
            run.inputs[KEPT_TEXTS] = found
        elif texts.reading.dropped["near duplicate"]:
            warn_once(
                f"{run.path} was begun by an older labkit, which may have kept other near duplicates of {source}: what "
                "is trained from here on may read other texts than before."
            )
    elif run.inputs[KEPT_TEXTS] != found:
        known = run.recipe.text in run.inputs  # by its hash; a data set of the hub has none
        changed = "labkit's cleaning has" if known else "the data set or labkit's cleaning has"
        raise LabError(
            f"The texts kept from {source} differ from those that {run.path} was begun with, as {changed} changed "
            "since. Start a new run in another folder."
        )
