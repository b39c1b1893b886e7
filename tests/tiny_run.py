"""A run whose files are real and whose training is next to nothing, for tests that make it many times.

It is made by the command line as well as by calls: `labkit run --preset smoke` makes it where `stub` is at work.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit import machine
from labkit.runs import pipeline
from labkit.runs.folder import Run
from labkit.runs.recipe import Recipe
from labkit.stages import SFT, Pretrain, StageInputs
from labkit.text.tokenizer import Tokenizer
from labkit.world import World
from tests.tiny import weights_hash
from tests.tiny_recipe import TRAIN, tiny_recipe

STEPS = replace(TRAIN, steps=2, batch_size=2, max_length=96, checkpoint_every=1)
RECIPE = tiny_recipe(STEPS, preset="smoke")
OTHER = replace(RECIPE.stages["sft"], train=replace(STEPS, muon_lr=0.02))
STAGES = ("pretrain", "sft")


def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run write what it writes, and measure nothing; let the command line make `RECIPE`."""
    world = World.load("tiny")
    tokenizer = Tokenizer.train([world.document("train", 0, index).passage for index in range(60)])

    def prepare(run: Run) -> StageInputs:
        if not (run.path / "tokenizer.json").is_file():
            tokenizer.save(run.path)
        annotator = run.recipe.annotation.annotator
        return StageInputs(
            run.tokenizer(),
            world,
            run.recipe.seed,
            model_config=run.recipe.model,
            annotator=annotator,
            model_of=run.model,
        )

    monkeypatch.setattr(pipeline, "prepare_inputs", prepare)
    monkeypatch.setattr(pipeline, "_peak", lambda: 1e12)
    monkeypatch.setattr(pipeline, "sample_answers", lambda *given: [])
    monkeypatch.setattr(machine, "describe_machine", lambda: {"cores": 2})
    monkeypatch.setattr("labkit.runs.presets.make_recipe", lambda preset, **options: RECIPE)
    for stage in (Pretrain, SFT):
        monkeypatch.setattr(stage, "validation_loss", lambda *given: 1.0)
        monkeypatch.setattr(stage, "evaluate", lambda *given: {"validation_loss": 1.0})


def make(recipe: Recipe, path: Path, stages: Sequence[str] | None = STAGES, **options: Any) -> None:
    for _ in pipeline.run(recipe, path, stages, **options):
        pass


def weights(path: Path) -> dict[str, str]:
    """The hash of the weights of each stage that is finished."""
    return {stage.name: weights_hash(stage.model()) for stage in Run.open(path).stages if stage.finished}
