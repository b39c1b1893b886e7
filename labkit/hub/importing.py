"""A published checkpoint as a run: every stage, the decoder and the app work on it as on one that was made here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from labkit import machine
from labkit.errors import LabError
from labkit.hub import from_pretrained, local_folder
from labkit.hub.gguf import load_gguf, load_gguf_tokenizer
from labkit.recipe import Recipe
from labkit.runs import Run
from labkit.text.tokenizer import Tokenizer

STAGES = ("pretrain", "sft")
"""What a checkpoint stands for: nobody says how it was made, so later stages can build on either."""


def import_checkpoint(source: str | Path, target: str | Path, recipe: Recipe) -> Run:
    """Begin a run in `target` whose first stages are a checkpoint: a folder or hub id in transformers' form, or a GGUF
    file.

    recipe: of the stages to come; its model's shape becomes the checkpoint's. Raises LabError when the checkpoint or
    its tokenizer cannot be read, when the model does not write word by word, and for a folder in use.
    """
    model, tokenizer = _read(source)
    if not model.causal or model.encoder is not None:
        raise LabError(f"{source} does not write word by word from what came before, so it cannot become a run.")
    if tokenizer.size > model.config.vocabulary:
        raise LabError(
            f"{source}: its tokenizer has {tokenizer.size} tokens, its model only {model.config.vocabulary}."
        )
    run = Run.create(target, dataclasses.replace(recipe, model=model.config))
    tokenizer.save(run.path)
    nothing: dict[str, Any] = {"seconds": 0.0, "training_seconds": 0.0, "tokens": 0, "flops": 0.0, "mfu": 0.0}
    for name in STAGES:
        stage = run.stage(name)
        stage.save_model(model)
        made = {"parameters": model.parameter_count, "peak_memory_mb": round(machine.peak_memory_mb(), 1)}
        stage.finish({"stage": name, "imported": str(source), **nothing, **made, "metrics": {}})
    run.write_report(machine.describe())
    return run


def _read(source: str | Path) -> tuple[Any, Tokenizer]:
    if str(source).endswith(".gguf"):
        return load_gguf(source), load_gguf_tokenizer(source)
    folder = local_folder(source)
    return from_pretrained(folder), Tokenizer.load(folder)
