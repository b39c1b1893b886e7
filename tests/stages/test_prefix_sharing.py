"""Stages with each prompt computed once: the losses of rows as they are, but for rounding."""

import dataclasses

import pytest

from labkit.errors import LabError
from labkit.stages import DPO, PPO, RewardModeling
from labkit.stages.grpo import GRPO
from labkit.stages.reward import AllPairs
from labkit.training.config import TrainConfig
from labkit.training.loop import fit
from tests.tiny_alignment import TRAIN, tiny_materials

STAGES = {
    "dpo": lambda train: DPO(train),
    "reward": lambda train: RewardModeling(train),
    "ranked lists": lambda train: RewardModeling(train, loss=AllPairs()),
    "grpo": lambda train: GRPO(train, max_new_tokens=6, num_generations=4),
    "ppo": lambda train: PPO(train, max_new_tokens=6),
}


def losses(name, prefix_sharing):
    """Of three steps, and their gradients' norms."""
    train = dataclasses.replace(TRAIN, steps=3, max_length=160, prefix_sharing=prefix_sharing)
    stage, stage_inputs = STAGES[name](train), tiny_materials()
    model = stage.initial_model(stage_inputs)
    records = list(fit(model, stage.source(stage_inputs, model), stage.objective, train))
    return [record.loss for record in records], [record.gradient_norm for record in records]


@pytest.mark.parametrize("name", STAGES)
def test_losses_and_gradients_are_those_of_rows_as_they_are(name):
    for alone, shared in zip(losses(name, False), losses(name, True), strict=True):
        assert shared == pytest.approx(alone, rel=2e-3, abs=2e-4)


def test_it_is_not_compiled():
    with pytest.raises(LabError, match="with prefix_sharing the shape of the rows changes"):
        TrainConfig(compile=True, prefix_sharing=True)
