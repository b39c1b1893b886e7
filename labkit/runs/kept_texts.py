"""The texts that a run trains on, known again: another labkit may clean and deduplicate the same file otherwise.

A run is read anew each time that it is resumed. With other texts the steps of a stage that was stopped would read
other rows, and a text that was trained on could be among those held out. Stages that read no text are not concerned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from labkit.errors import LabError
from labkit.machine import warn_once
from labkit.runs.folder import Run
from labkit.runs.inputs import KEPT_TEXTS, kept_texts_key
from labkit.runs.report import read_report
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


def check_kept_texts(run: Run, texts: Texts, stages: Sequence[str], from_start: Collection[str] = ()) -> None:
    """Check the texts that `stages` are to be trained on, and note them in `run.inputs`. from_start: those of them
    whose steps so far do not count.

    Raises LabError where a stage that goes on, or one that it builds on, was begun with other texts. A stage that was
    begun before its texts were noted gets a warning. Where no stage reads text, the report keeps what it says of it.
    """
    readers = _text_readers(run, stages)
    if not readers:
        _keep_reading_record(run)
        return
    found = hash_texts(texts)
    for name in readers:
        known = run.inputs.get(kept_texts_key(name), run.inputs.get(KEPT_TEXTS))
        if name not in from_start and (run.stage(name).path / "metrics.jsonl").exists():
            if known is None:
                _warn_unnoted(run, texts, name)
            elif known != found:
                raise _other_texts(run, texts, name)
        run.inputs[kept_texts_key(name)] = found


def _text_readers(run: Run, stages: Sequence[str]) -> list[str]:
    """Those of the stages that read text, and the stages that read text among those that they build on; in order."""
    reads = [name for name, stage in run.recipe.stages.items() if stage.reads == "text"]
    concerned = {each for name in stages if name in reads for each in (name, *run.recipe.ancestors(name))}
    return [name for name in reads if name in concerned]


def _keep_reading_record(run: Run) -> None:
    file = run.path / "report.json"
    said = (read_report(file).get("reading") or {}) if file.is_file() else {}
    if "text" in said:
        run.reading["text"] = said["text"]


def _warn_unnoted(run: Run, texts: Texts, stage: str) -> None:
    warn_once(
        f"{run.stage(stage).path} was begun before labkit noted which texts it kept. Its cleaning may have changed "
        f"since: what is trained from here on may read other texts of {texts.reading.source} than before, and a text "
        "that was trained on may be held out."
    )


def _other_texts(run: Run, texts: Texts, stage: str) -> LabError:
    hashed = run.recipe.text in run.inputs  # a data set of the hub has no hash
    changed = "labkit's cleaning has" if hashed else "the data set or labkit's cleaning has"
    return LabError(
        f"The texts kept from {texts.reading.source} differ from those that {run.stage(stage).path} was begun with, as "
        f"{changed} changed since. Train it again from its start (labkit {stage} {run.path} --again), or start a new "
        "run in another folder."
    )
