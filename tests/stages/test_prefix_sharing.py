"""Stages with each prompt computed once: the losses of rows as they are, but for rounding."""

import dataclasses
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.model.transformer import Transformer
from labkit.stages import DPO, KTO, PPO, STAGES, PreferenceSplit, RewardModeling, rollouts
from labkit.stages.grpo import GRPO
from labkit.stages.off_policy import TruncatedImportanceSampling
from labkit.stages.onlinedpo import OnlineDPO
from labkit.stages.rejectionsampling import RejectionSampling
from labkit.stages.reward import AllPairs, Ratings
from labkit.text.unpaired import AnswerSplit, RatedAnswer
from labkit.training.config import TrainConfig
from labkit.training.loop import fit
from tests.tiny_alignment import TRAIN, tiny_materials

WRITE: Any = {"max_new_tokens": 6, "num_generations": 4}
LEARNERS = {
    "dpo": lambda train: DPO(train),
    "reward": lambda train: RewardModeling(train),
    "ranked lists": lambda train: RewardModeling(train, loss=AllPairs()),
    "grpo": lambda train: GRPO(train, max_new_tokens=6, num_generations=4),
    "grpo, bounded KL": lambda train: GRPO(train, **WRITE, epochs=3, max_kl=1.0),
    "grpo, off policy": lambda train: GRPO(
        train, **WRITE, sampler_top_p=0.9, off_policy_correction=TruncatedImportanceSampling()
    ),
    "ppo": lambda train: PPO(train, max_new_tokens=6),
    "onlinedpo": lambda train: OnlineDPO(train, **WRITE),
    "rejectionsampling": lambda train: RejectionSampling(train, **WRITE, selection="top"),
    "kto": lambda train: KTO(train),
    "ratings": lambda train: RewardModeling(train, loss=Ratings()),
}
REFUSED = ("pretrain", "sft", "distill", "judge", "prm")
"""Of whose rows no two answer one prompt."""


def inputs_of(name):
    """What a stage learns from; for ratings, both answers of each pair."""
    stage_inputs = tiny_materials()
    if name != "ratings":
        return stage_inputs
    pairs = stage_inputs.preference_split.train
    answers = [RatedAnswer(pair.prompt, text, float(text == pair.chosen)) for pair in pairs for text in pair[1:3]]
    split = PreferenceSplit([], [], answers=AnswerSplit(answers, answers))
    return dataclasses.replace(stage_inputs, annotation_format="ratings", load_preferences=lambda: split)


def losses(name, prefix_sharing):
    """Of three steps, and their gradients' norms."""
    train = dataclasses.replace(TRAIN, steps=3, max_length=160, prefix_sharing=prefix_sharing)
    stage, stage_inputs = LEARNERS[name](train), inputs_of(name)
    model = stage.initial_model(stage_inputs)
    records = list(fit(model, stage.source(stage_inputs, model), stage.objective, train))
    return [record.loss for record in records], [record.gradient_norm for record in records]


@pytest.mark.parametrize("name", LEARNERS)
def test_losses_and_gradients_are_those_of_rows_as_they_are(name):
    for alone, shared in zip(losses(name, False), losses(name, True), strict=True):
        assert shared == pytest.approx(alone, rel=2e-3, abs=2e-4)


@pytest.fixture
def rows_read(monkeypatch):
    """Of each pass over whole rows, whether its prompts were shared."""
    found, hidden_states = [], Transformer.hidden_states

    def noted(self, tokens, positions=None, mask=None, state=None, *given, **more):
        if state is None:
            found.append("branches" in more)
        return hidden_states(self, tokens, positions, mask, state, *given, **more)

    monkeypatch.setattr(Transformer, "hidden_states", noted)
    monkeypatch.setattr(rollouts, "judge_scores", lambda judge, prompts, answers: [float(len(ids)) for ids in answers])
    return found


@pytest.mark.parametrize("name", sorted({*STAGES, *LEARNERS}))
def test_each_stage_shares_all_prompts_or_refuses_to(name, rows_read):
    train = dataclasses.replace(TRAIN, max_length=160, prefix_sharing=True)
    kind: Any = LEARNERS.get(name) or STAGES[name]
    stage = kind(train)
    stage_inputs = inputs_of(name)
    if name in REFUSED:
        with pytest.raises(LabError, match=f"{name}: train.prefix_sharing reads a prompt once for all its answers"):
            stage.check(stage_inputs, EvaluationConfig())
        return
    stage.check(stage_inputs, EvaluationConfig(policy_prompts=2, answer_max_new_tokens=4))
    model = stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)
    rows_read.clear()
    for step in range(2 * train.gradient_accumulation_steps):
        stage.objective(model, source.next_batch(model, step))
    assert rows_read and all(rows_read)


def test_it_is_not_compiled():
    with pytest.raises(LabError, match="with prefix_sharing the shape of the rows changes"):
        TrainConfig(compile=True, prefix_sharing=True)
