"""Answers drawn from another distribution than the one that is trained, and what is done about it."""

import dataclasses
import math

import pytest
import torch

from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.losses.policy import truncated_importance_weights
from labkit.model.transformer import Transformer
from labkit.stages.grpo import GRPO
from labkit.stages.off_policy import NoCorrection, TruncatedImportanceSampling
from labkit.stages.rewards import Custom
from labkit.stages.rollouts import RolloutSource
from labkit.training.loop import fit
from tests.tiny_alignment import TRAIN

SHORT = dataclasses.replace(TRAIN, steps=4, batch_size=8, max_length=160, checkpoint_every=1)


pytestmark = pytest.mark.usefixtures("vowels")


def grpo(**changes) -> GRPO:
    return GRPO(SHORT, epochs=2, reward=Custom("vowels"), max_new_tokens=8, **changes)


def rollout_of(stage: GRPO, stage_inputs):
    model = stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)
    assert isinstance(source, RolloutSource) and isinstance(model, Transformer)
    return model, source, source.next_batch(model, 0)


def trained(stage, stage_inputs, folder=None, stop_after: int | None = None):
    model = stage.initial_model(stage_inputs)
    for record in fit(model, stage.source(stage_inputs, model), stage.objective, stage.train, folder=folder):
        if record.step == stop_after:
            break
    return model


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_weights_by_hand():
    """The trainer gives 0.6, 0.3 and 0.2 where the sampler drew at 0.4, 0.6 and 0.05: 1.5, 0.5, and 4 held to 2."""
    trainer, sampler = (torch.log(torch.tensor([row])) for row in ([0.6, 0.3, 0.2, 0.9], [0.4, 0.6, 0.05, 0.1]))
    mask = torch.tensor([[True, True, True, False]])
    found = truncated_importance_weights(trainer.requires_grad_(), sampler, mask, cap=2.0)
    torch.testing.assert_close(found, torch.tensor([[1.5, 0.5, 2.0, 1.0]]))
    assert not found.requires_grad


def test_of_a_nucleus_a_weight_is_the_nucleuss_probability(stage_inputs):
    """Within it every token is likelier by the same factor, and the KL of the sampler is minus that factor's log."""
    stage = grpo(sampler_top_p=0.6, off_policy_correction=TruncatedImportanceSampling())
    model, _, batch = rollout_of(stage, stage_inputs)
    logits = model(batch.inputs)[batch.mask]
    ordered = logits.softmax(-1).sort(-1, descending=True).values
    nucleus = (ordered * (ordered.cumsum(-1) - ordered < 0.6)).sum(-1)
    assert isinstance(batch.importance_weights, torch.Tensor)
    torch.testing.assert_close(batch.importance_weights[batch.mask], nucleus, atol=1e-3, rtol=0)
    assert batch.metrics["importance_weight"].item() == pytest.approx(nucleus.mean().item(), abs=1e-3)
    assert batch.metrics["sampler_kl"].item() == pytest.approx(-nucleus.log().mean().item(), abs=1e-3)
    assert 0.6 <= nucleus.mean() < 0.75


def test_the_weights_stand_before_the_surrogate_alone(stage_inputs):
    """Twice the weight is twice the policy's loss; the KL in the loss is as it was, here 0."""
    stage = grpo(sampler_top_p=0.6)
    model, _, batch = rollout_of(stage, stage_inputs)
    assert batch.importance_weights == () and "importance_weight" not in batch.metrics, "nothing is corrected"
    batch = batch._replace(advantages=batch.mask.float())
    plain, double = (
        stage.objective(model, batch._replace(importance_weights=weight * torch.ones_like(batch.logprobs)))[0].item()
        for weight in (1.0, 2.0)
    )
    assert plain == stage.objective(model, batch)[0].item() and double == pytest.approx(2 * plain)
    assert plain == pytest.approx(-8, abs=1e-3), "a ratio of 1, and 8 answers that count 1 each"


def test_where_sampler_and_trainer_agree_nothing_changes(stage_inputs):
    plain = trained(grpo(), stage_inputs)
    assert same(plain, trained(grpo(off_policy_correction=TruncatedImportanceSampling()), stage_inputs))
    assert same(plain, trained(grpo(sampler_precision="fp32"), stage_inputs))
    _, source, batch = rollout_of(grpo(off_policy_correction=TruncatedImportanceSampling()), stage_inputs)
    assert not source.sampler_differs and "sampler_kl" not in batch.metrics


def test_what_is_stopped_within_a_rollout_keeps_its_weights(stage_inputs, tmp_path):
    stage = grpo(sampler_top_p=0.6, off_policy_correction=TruncatedImportanceSampling(0.65))
    whole = trained(stage, stage_inputs)
    trained(stage, stage_inputs, tmp_path, stop_after=3)
    assert same(whole, trained(stage, stage_inputs, tmp_path))
    assert not same(whole, trained(grpo(sampler_top_p=0.6), stage_inputs))


def test_settings_and_what_they_were_before():
    stage = grpo(sampler_top_p=0.9, sampler_precision="bf16", off_policy_correction=TruncatedImportanceSampling(3.0))
    assert from_dict(GRPO, to_dict(stage)) == stage
    assert not {"sampler_top_p", "sampler_precision", "off_policy_correction"} & set(to_dict(grpo(), legacy_names=True))
    assert grpo().off_policy_correction == NoCorrection()
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(LabError, match="sampler_top_p must be"):
            grpo(sampler_top_p=wrong)
    with pytest.raises(LabError, match="cap must be"):
        TruncatedImportanceSampling(0.0)
