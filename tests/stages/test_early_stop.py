"""A rollout is left once the policy has moved too far from it, and what is stopped can be resumed."""

import dataclasses

import pytest
import torch

from labkit.configs import to_dict
from labkit.errors import LabError
from labkit.losses.policy import kl_estimate
from labkit.model.transformer import Transformer
from labkit.stages.early_stop import EarlyStop
from labkit.stages.grpo import GRPO
from labkit.stages.ppo import PPO
from labkit.stages.rewards import Custom
from labkit.stages.rollouts import RolloutSource
from labkit.training.config import fingerprint
from labkit.training.loop import fit
from tests.tiny_alignment import TRAIN

SHORT = dataclasses.replace(TRAIN, steps=8, batch_size=8, max_length=160, adamw_lr=1e-2, warmup_steps=0)


pytestmark = pytest.mark.usefixtures("vowels")


def grpo(max_kl: float | None, train=SHORT) -> GRPO:
    return GRPO(train, epochs=4, reward=Custom("vowels"), max_new_tokens=8, max_kl=max_kl)


def trained(stage, stage_inputs, folder=None, stop_after: int | None = None):
    model = stage.initial_model(stage_inputs)
    records = []
    for record in fit(model, stage.source(stage_inputs, model), stage.objective, stage.train, folder=folder):
        records.append(record)
        if record.step == stop_after:
            break
    return model, records


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_which_rollout_comes_next_by_hand():
    """Four steps on each rollout, two batches a step. KL 0.05, then 0.2: the third step draws anew, and skips two."""
    measured = iter([0.05, 0.2, 0.0, 0.01, 0.02, 0.3])
    stop = EarlyStop(0.1, epochs=4, batches_a_step=2)
    places, skipped = [], []
    for number in range(0, 14):
        places.append(stop.place(number, lambda: next(measured)))
        skipped.append(stop.skipped)
    assert places[:4] == [(0, 0), (0, 1), (0, 2), (0, 3)], "the first rollout, whose KL was 0.05"
    assert places[4:12] == [(1, within) for within in range(8)], "the second, all of it"
    assert places[12:] == [(2, 0), (2, 1)] and next(measured) == 0.3, "a whole rollout is not measured at its end"
    assert skipped == [0] * 4 + [2] * 2 + [0] * 8


def test_a_bound_that_never_binds_changes_nothing(stage_inputs):
    plain, _ = trained(grpo(None), stage_inputs)
    bound, records = trained(grpo(1e6), stage_inputs)
    assert same(plain, bound)
    assert all(record.metrics["skipped_steps"] == 0 for record in records)
    assert [record.metrics["rollout_kl"] > 0 for record in records] == [False, True, True, True] * 2


def test_a_bound_of_almost_nothing_is_a_step_on_each_rollout(stage_inputs):
    once, _ = trained(dataclasses.replace(grpo(None), epochs=1), stage_inputs)
    bound, records = trained(grpo(1e-12), stage_inputs)
    assert same(once, bound)
    assert [record.metrics["skipped_steps"] for record in records] == [0] + [3] * 7
    assert all(record.metrics["rollout_kl"] > 1e-12 for record in records[1:]), "what ended the rollout is said"


def test_the_kl_is_of_the_policy_from_the_one_that_wrote_the_answers(stage_inputs):
    stage = grpo(1.0)
    model = stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)
    assert isinstance(source, RolloutSource) and isinstance(model, Transformer)
    batch = source.next_batch(model, 0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.05)
        moved = source.sampler.completion_logprobs(model, model.hidden_states(batch.inputs), batch)
    expected = kl_estimate(batch.logprobs, moved, "k3")[batch.mask].mean()
    assert source.next_batch(model, 1).metrics["rollout_kl"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert expected > 0


def test_what_is_stopped_within_a_rollout_goes_on_within_it(stage_inputs, tmp_path):
    """The bound lies between the KL after one step and that after more, so that rollouts differ in length."""
    _, free = trained(grpo(1e6), stage_inputs, stop_after=3)
    bound = (free[1].metrics["rollout_kl"] + free[2].metrics["rollout_kl"]) / 2
    stage = grpo(bound, dataclasses.replace(SHORT, checkpoint_every=1))
    whole, records = trained(stage, stage_inputs)
    skipped = [record.metrics["skipped_steps"] for record in records]
    assert sum(skipped) > 0 and 0 in skipped[1:], "some steps are second steps"
    for stop_after in (2, 5):
        folder = tmp_path / str(stop_after)
        trained(stage, stage_inputs, folder, stop_after)
        model, resumed = trained(stage, stage_inputs, folder)
        assert resumed[0].step == stop_after + 1 and same(whole, model)
        assert [record.metrics for record in resumed] == [record.metrics for record in records[stop_after:]]


def test_recipes_of_before_keep_their_fingerprint(stage_inputs):
    for stage in (grpo(None), PPO()):
        assert "max_kl" not in to_dict(stage, legacy_names=True)
    assert fingerprint(to_dict(grpo(None), legacy_names=True)) != fingerprint(to_dict(grpo(0.1), legacy_names=True))


def test_a_bound_needs_steps_to_skip():
    with pytest.raises(LabError, match="GRPO: max_kl ends the steps on a rollout early, and epochs is 1"):
        GRPO(SHORT, epochs=1, max_kl=0.1)
    with pytest.raises(LabError, match="max_kl must be"):
        GRPO(SHORT, epochs=2, max_kl=0.0)
