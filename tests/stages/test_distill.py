"""Distillation on models of seconds: what is read and counted, what a student learns, what is refused."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.losses import generalized_jsd_loss, next_token_loss
from labkit.stages import SFT
from labkit.stages.distill import Distill, DistillationSource, answer_logits
from labkit.text.batch import Batch
from labkit.training.config import TrainConfig
from labkit.training.loop import fit
from tests.tiny_alignment import TRAIN

LONGER = dataclasses.replace(TRAIN, max_length=160, steps=30)
EVALUATION = EvaluationConfig(documents=32, policy_prompts=8)
ON: dict[str, Any] = {"lmbda": 1.0}
OFF: dict[str, Any] = {"lmbda": 0.0}
NLL: dict[str, Any] = {"lmbda": 0.0, "seq_kd": True, "loss_type": "nll"}


def stage(train: TrainConfig = LONGER, **changes: Any) -> Distill:
    return Distill(train, "teacher", max_new_tokens=12, **changes)


def trained(stage, stage_inputs, **options):
    model = stage.initial_model(stage_inputs)
    return model, list(fit(model, stage.source(stage_inputs, model), stage.objective, stage.train, **options))


def batches(stage, stage_inputs, count: int = 1):
    model = stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)
    return model, [source.next_batch(model, index) for index in range(count)]


@pytest.fixture(scope="module")
def taught(stage_inputs):
    """The same inputs with a teacher that was fine-tuned for longer than the student was."""
    models = {}
    for name, steps in (("teacher", 100), ("sft", 20)):
        train = dataclasses.replace(LONGER, steps=steps)
        models[name] = stage_inputs.model(name)
        list(fit(models[name], SFT(train).source(stage_inputs, None), SFT.objective, train))
    return dataclasses.replace(stage_inputs, model_of=lambda name: copy.deepcopy(models[name]))


def test_whose_answers_are_read(stage_inputs):
    """The conversations', as fine-tuning reads them; or those that a model wrote to a part of one."""
    tokenizer = stage_inputs.tokenizer
    model, (given,) = batches(stage(**OFF), stage_inputs)
    expected = SFT(LONGER).source(stage_inputs, None).next_batch(None, 0)
    assert all(torch.equal(a, b) for a, b in zip(given[:3], expected, strict=True)) and given.on_policy == 0
    writers = {"student": (ON, model), "teacher": (OFF | {"seq_kd": True}, stage_inputs.model("teacher"))}
    for name, (changes, writer) in writers.items():
        own = stage(**changes)
        _, (written,) = batches(own, stage_inputs)
        prompts = stage_inputs.conversation_prompts(160, 12)
        draws = torch.rand(8, 12, generator=draws_of_first_batch(own, stage_inputs))
        again = own.sampler(stage_inputs, 1.0).sample(writer, [prompts.prompt_ids(index) for index in range(8)], draws)
        assert all(torch.equal(a, b) for a, b in zip(written[:3], again.batch, strict=True)), name
        assert written.on_policy == (name == "student") and (written.mask.sum(-1) <= 12).all()
    shown = tokenizer.decode(prompts.prompt_ids(0))
    assert "assistant" not in shown and prompts.messages(0)[-1].role == "user"


def draws_of_first_batch(stage, stage_inputs) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.default_rng([stage_inputs.seed, 0, 1]).integers(2**62)))


def test_the_share_of_on_policy_batches_is_lmbda_and_is_the_same_on_every_process(stage_inputs):
    source = DistillationSource(stage(lmbda=0.3), stage_inputs)
    drawn = [source.is_on_policy(batch) for batch in range(1000)]
    assert 0.25 < sum(drawn) / 1000 < 0.35
    other = DistillationSource(stage(lmbda=0.3), dataclasses.replace(stage_inputs, rank=1, world_size=2))
    assert [other.is_on_policy(batch) for batch in range(1000)] == drawn


@pytest.mark.parametrize("changes", [OFF | {"beta": 0.0}, ON | {"beta": 1.0}, {"beta": 0.3, "temperature": 2.0}])
def test_the_loss_is_the_divergence_at_the_answers_tokens_alone(stage_inputs, changes):
    """The whole rows through both models, and the loss by hand; what stands elsewhere changes nothing."""
    own = stage(**changes)
    model, (batch,) = batches(own, stage_inputs)
    loss, count, watched = own.objective(model, batch)
    student, teacher = model(batch.inputs), stage_inputs.model("teacher")(batch.inputs)
    options = {"beta": own.beta, "temperature": own.temperature}
    per_token = generalized_jsd_loss(student, teacher, **options)
    torch.testing.assert_close(loss, (per_token.loss * batch.mask).sum(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(watched["forward_kl"], (per_token.forward_kl * batch.mask).sum(), rtol=1e-4, atol=1e-5)
    assert count == batch.mask.sum() > 0 and watched["on_policy"] == count * batch.on_policy
    other = batch._replace(labels=torch.where(batch.mask, batch.labels, 5))
    assert torch.equal(own.objective(model, other)[0], loss)
    assert batch.teacher_logits.shape == (int(count), stage_inputs.tokenizer.vocab_size)


def test_nll_is_the_cross_entropy_of_the_teachers_greedy_answers(stage_inputs):
    own, teacher = stage(**NLL), stage_inputs.model("teacher")
    model, (batch,) = batches(own, stage_inputs)
    assert batch.teacher_logits == ()
    loss, count, _ = own.objective(model, batch)
    expected = next_token_loss(model(batch.inputs), batch.labels, batch.mask)
    torch.testing.assert_close(loss, expected.loss_sum, rtol=1e-5, atol=1e-4)
    assert count == expected.label_count
    with torch.no_grad():
        likeliest = answer_logits(teacher, Batch(*batch[:3])).argmax(-1)
    assert torch.equal(likeliest, batch.labels[batch.mask])


def test_a_student_that_is_its_teacher_learns_nothing(stage_inputs):
    """Where the plan is not asked, which refuses that."""
    own = dataclasses.replace(stage(), teacher="sft")
    model, found = batches(own, stage_inputs, 4)
    assert len({float(batch.on_policy) for batch in found}) == 2
    for batch in found:
        own.objective(model, batch)[0].backward()
    assert all(weight.grad is None or weight.grad.abs().max() < 1e-5 for weight in model.parameters())


@pytest.mark.parametrize("changes", [OFF | {"beta": 0.0}, ON | {"beta": 1.0}, {}, OFF | {"seq_kd": True}])
def test_a_student_nears_its_teacher(taught, changes):
    own = stage(**changes)
    untrained = own.validation_loss(own.initial_model(taught), taught, EVALUATION)
    model, _ = trained(own, taught)
    found = {"untrained_loss": untrained} | own.evaluate(model, taught, EVALUATION)
    claim = own.claim(found, {})
    assert claim is not None and claim.holds and claim.margin > 0.1 * untrained
    for name in ("forward_kl", "reverse_kl", "own_answers_kl"):
        assert found[name] < 0.95 * found[f"{name}_before"], name
    assert {"gold", "gold_before", "teacher_gold", "right", "right_before", "teacher_right"} <= found.keys()


def test_what_is_taught_is_more_than_the_data_says(taught):
    """With as many steps on the same answers, the teacher's distributions give a lower loss on held-out answers than
    the answers themselves do.
    """
    losses = []
    for one in (SFT(LONGER), stage(**OFF, beta=0.0)):
        model, _ = trained(one, taught)
        losses.append(SFT(LONGER).validation_loss(model, taught, EVALUATION))
    before = SFT(LONGER).validation_loss(taught.model("sft"), taught, EVALUATION)
    assert losses[1] < losses[0] < before


def test_sequence_level_distillation_learns_the_teachers_answers(taught):
    own = stage(**NLL)
    untrained = own.validation_loss(own.initial_model(taught), taught, EVALUATION)
    model, records = trained(own, taught)
    assert own.validation_loss(model, taught, EVALUATION) < 0.8 * untrained
    assert records[-1].loss < records[0].loss and "forward_kl" not in records[0].metrics


@pytest.mark.parametrize("changes", [{}, NLL])
def test_what_is_stopped_and_resumed_is_the_same(stage_inputs, tmp_path, changes):
    """The teacher is asked again for the steps since the checkpoint, and says the same."""
    own = stage(dataclasses.replace(LONGER, steps=6, checkpoint_every=2, gradient_accumulation_steps=2), **changes)
    whole, _ = trained(own, stage_inputs)
    model = own.initial_model(stage_inputs)
    for record in fit(model, own.source(stage_inputs, model), own.objective, own.train, folder=tmp_path):
        if record.step == 3:
            break
    model, records = trained(own, stage_inputs, folder=tmp_path)
    assert records[0].step == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    source = own.source(stage_inputs, model)
    assert source.state_dict() == {}
    with pytest.raises(LabError, match="DistillationSource keeps no state, but was given"):
        source.load_state_dict({"kept": torch.ones(1)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_new_tokens": 160}, "Distill: answers of 160 tokens leave no room for a prompt"),
        ({"train": dataclasses.replace(LONGER, compile=True)}, "Distill: train.compile would recompile"),
        ({"loss_type": "nll"}, "set seq_kd True and lmbda 0, or loss_type gjsd"),
        ({"loss_type": "nll", "seq_kd": True, "lmbda": 0.1}, "set seq_kd True and lmbda 0"),
        ({"loss_type": "nll", "lmbda": 0.0}, "set seq_kd True and lmbda 0"),
        ({"seq_kd": True, "lmbda": 1.0}, "with lmbda 1 there are none. Lower lmbda"),
        ({"beta": 1.1}, "Distill: beta must be at least 0 and at most 1, not 1.1"),
        ({"lmbda": -0.1}, "Distill: lmbda must be at least 0 and at most 1, not -0.1"),
        ({"temperature": 0.0}, "Distill: temperature must be at least 1e-06"),
        ({"loss_type": "mse"}, "loss_type must be one of gjsd, nll"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, said):
    given: dict[str, Any] = {"train": LONGER} | changes
    with pytest.raises(LabError, match=said):
        Distill(teacher="teacher", **given)


def test_what_is_read_is_checked_before_it_is_trained(stage_inputs):
    stage().check(stage_inputs, EVALUATION)
    short = stage(dataclasses.replace(LONGER, max_length=16))
    with pytest.raises(LabError, match="train.max_length leaves 4 tokens for a prompt, too few for TinyWorld's"):
        short.check(stage_inputs, EVALUATION)
    with pytest.raises(LabError, match="8 rows cannot be split over 9 processes"):
        stage().check(dataclasses.replace(stage_inputs, world_size=9), EVALUATION)
