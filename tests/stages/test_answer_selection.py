"""Learning from chosen answers of one's own: the reward rises, ties teach nothing, what is stopped can be resumed."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit.errors import LabError
from labkit.losses import dpo_loss, ipo_loss
from labkit.stages.grpo import GRPO
from labkit.stages.onlinedpo import OnlineDPO
from labkit.stages.rejectionsampling import RejectionSampling
from labkit.stages.rewards import Custom, Votes, reward_function
from labkit.training.loop import fit
from tests.tiny_alignment import TRAIN

SHORT = dataclasses.replace(TRAIN, steps=32, batch_size=16, max_length=160, adamw_lr=1e-2)
OPTIONS: dict[str, Any] = {"reward": Custom("vowels"), "max_new_tokens": 10}


@pytest.fixture(autouse=True)
def rewards(vowels):
    reward_function("alike")(lambda prompt, response: 1.0)


def trained(stage, stage_inputs):
    model = stage.initial_model(stage_inputs)
    return model, list(fit(model, stage.source(stage_inputs, model), stage.objective, stage.train))


def first_batch(stage, stage_inputs):
    model = stage.initial_model(stage_inputs)
    return model, stage.source(stage_inputs, model).next_batch(model, 0)


def check_resumed(stage, stage_inputs, folder, stop: int):
    """Stopped after step `stop` and begun again from the last checkpoint, it ends with the same weights."""
    whole, _ = trained(stage, stage_inputs)
    model = stage.initial_model(stage_inputs)
    for record in fit(model, stage.source(stage_inputs, model), stage.objective, stage.train, folder=folder):
        if record.step == stop:
            break
    model = stage.initial_model(stage_inputs)
    records = list(fit(model, stage.source(stage_inputs, model), stage.objective, stage.train, folder=folder))
    assert records[0].step > 1, "it resumed"
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def mean_reward(records) -> float:
    return sum(record.metrics["reward"] for record in records) / len(records)


@pytest.mark.parametrize("changes", [{}, {"loss_type": "ipo"}])
def test_online_dpo_raises_the_reward(stage_inputs, changes):
    _, records = trained(OnlineDPO(SHORT, **OPTIONS | {"num_generations": 4} | changes), stage_inputs)
    assert mean_reward(records[-4:]) > mean_reward(records[:4]) + 0.3
    assert all(math.isfinite(one.loss) for one in records) and records[-1].metrics["kl"] > 0


def test_online_dpos_loss_is_dpos_of_the_best_and_the_worst(stage_inputs):
    """At the first step policy and reference agree: log 2 for each prompt whose answers differ in reward, or what IPO
    has then, 1 / (4 beta^2). With a reference that differs, the loss is that of the pairs by hand.
    """
    stage = OnlineDPO(SHORT, **OPTIONS | {"num_generations": 4})
    model, batch = first_batch(stage, stage_inputs)
    scores = stage.group_scores(batch)
    tied = float((scores.amax(-1) == scores.amin(-1)).float().mean())
    assert tied == pytest.approx(batch.metrics["frac_reward_zero_std"].item())
    assert scores.mean().item() == pytest.approx(batch.metrics["reward"].item())
    loss, prompts, _ = stage.objective(model, batch)
    assert prompts == 4 and loss.item() == pytest.approx(4 * (1 - tied) * math.log(2), rel=1e-4)
    ipo = dataclasses.replace(stage, loss_type="ipo").objective(model, batch)[0]
    assert ipo.item() == pytest.approx(4 * (1 - tied) / (4 * 0.1**2), rel=1e-3)

    torch.manual_seed(0)
    moved = batch._replace(reference_logprobs=batch.reference_logprobs + torch.randn(batch.mask.shape) * batch.mask)
    policy, reference = batch.logprobs.sum(-1).view(4, 4), moved.reference_logprobs.sum(-1).view(4, 4)
    sides = [
        torch.stack([one[at, int(pick(scores[at]))] for at in range(4)])
        for one in (policy, reference)
        for pick in (torch.argmax, torch.argmin)
    ]
    differ = scores.amax(-1) > scores.amin(-1)
    for one, loss_of in ((stage, dpo_loss), (dataclasses.replace(stage, loss_type="ipo"), ipo_loss)):
        expected = loss_of(*sides, beta=0.1).loss[differ].sum()
        torch.testing.assert_close(one.objective(model, moved)[0], expected, rtol=1e-3, atol=1e-3)


def test_answers_that_are_rewarded_alike_teach_nothing(stage_inputs):
    stage = OnlineDPO(SHORT, **OPTIONS | {"reward": Custom("alike")})
    model, batch = first_batch(stage, stage_inputs)
    loss, prompts, watched = stage.objective(model, batch)
    loss.backward()
    assert loss == 0 and prompts == 8 and watched["frac_reward_zero_std"] == 8
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_a_step_without_pairs_has_no_accuracy(stage_inputs):
    stage = OnlineDPO(dataclasses.replace(SHORT, steps=2), **OPTIONS)
    watched = {"accuracy", "chosen_reward", "rejected_reward"}
    _, records = trained(stage, stage_inputs)
    assert all(watched <= record.metrics.keys() for record in records)
    _, records = trained(dataclasses.replace(stage, reward=Custom("alike")), stage_inputs)
    assert all(not watched & record.metrics.keys() and "kl" in record.metrics for record in records)


def test_online_dpo_that_is_stopped_and_resumed_is_the_same(stage_inputs, tmp_path):
    train = dataclasses.replace(SHORT, steps=6, checkpoint_every=3)
    check_resumed(OnlineDPO(train, **OPTIONS | {"epochs": 2}), stage_inputs, tmp_path, stop=4)


def test_rejection_sampling_raises_the_reward(stage_inputs):
    _, records = trained(RejectionSampling(SHORT, **OPTIONS), stage_inputs)
    assert mean_reward(records[-4:]) > mean_reward(records[:4]) + 0.3
    assert all(one.metrics["kept_reward"] > one.metrics["reward"] for one in records)


def test_which_answers_are_kept():
    """One in two: the best of each group, the first, or the best two of all; the loss counts their tokens alone."""
    scores = torch.tensor([[0.0, 1.0], [3.0, 2.0]])
    expected = {
        "best": [[False, True], [True, False]],
        "random": [[True, False], [True, False]],
        "top": [[False, False], [True, True]],
    }
    for selection, kept in expected.items():
        stage: Any = RejectionSampling(SHORT, selection=selection, num_generations=2)  # type: ignore[arg-type]
        assert stage.kept(scores).tolist() == kept
    alike = RejectionSampling(SHORT, selection="top", num_generations=2).kept(torch.ones(3, 2))
    assert alike.sum() == 3, "never more than one in num_generations"


def test_rejection_samplings_loss_is_that_of_fine_tuning_on_what_is_kept(stage_inputs):
    stage = RejectionSampling(SHORT, **OPTIONS)
    model, batch = first_batch(stage, stage_inputs)
    loss, count, watched = stage.objective(model, batch)
    best = stage.group_scores(batch).argmax(-1) + torch.arange(4) * 4
    assert count == batch.mask[best].sum()
    assert loss.item() == pytest.approx(-batch.logprobs[best].sum().item(), rel=1e-4)
    kept = stage.group_scores(batch).amax(-1).mean().item()
    assert (watched["kept_reward"] / count).item() == pytest.approx(kept, rel=1e-4)


def test_rejection_sampling_that_is_stopped_in_a_round_and_resumed_is_the_same(stage_inputs, tmp_path):
    train = dataclasses.replace(SHORT, steps=6, checkpoint_every=2)
    check_resumed(RejectionSampling(train, **OPTIONS | {"rollout_batches": 3}), stage_inputs, tmp_path, stop=3)


@pytest.mark.parametrize("steps", [1, 6])
def test_rejection_samplings_flops_count_what_is_drawn_and_not_learnt(stage_inputs, steps):
    """Four batches are drawn together. Beside what is counted of a GRPO as long, padding and full attention alike."""

    def said_over_done(stage) -> float:
        model = stage.initial_model(stage_inputs)
        source = stage.source(stage_inputs, model)
        with FlopCounterMode(display=False) as counted:
            records = list(fit(model, source, stage.objective, stage.train))
        tokens = sum(record.metrics["tokens"] * record.num_labels for record in records)
        return stage.flops(model, tokens) / counted.get_total_flops()

    train = dataclasses.replace(SHORT, steps=steps)
    whole = said_over_done(GRPO(train, **OPTIONS))
    for epochs in (1, 2):
        part = said_over_done(RejectionSampling(train, **OPTIONS | {"epochs": epochs}))
        assert part == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnlineDPO(SHORT, num_generations=1), "OnlineDPO chooses between answers.*at least 2, not 1"),
        (lambda: OnlineDPO(SHORT, num_generations=1, reward=Votes()), "Votes compares the answers"),
        (lambda: OnlineDPO(SHORT, max_new_tokens=160), "OnlineDPO: answers of 160 tokens leave no room for a prompt"),
        (lambda: OnlineDPO(dataclasses.replace(SHORT, compile=True)), "OnlineDPO: train.compile would recompile"),
        (lambda: RejectionSampling(SHORT, num_generations=1), "RejectionSampling chooses between.*at least 2, not 1"),
        (lambda: RejectionSampling(SHORT, max_new_tokens=160), "answers of 160 tokens leave no room"),
        (lambda: RejectionSampling(SHORT, rollout_batches=0), "rollout_batches must be"),
        (lambda: RejectionSampling(SHORT, selection="worst"), "selection must be"),  # type: ignore[arg-type]
        (lambda: OnlineDPO(SHORT, loss_type="hinge"), "loss_type must be"),  # type: ignore[arg-type]
        (lambda: OnlineDPO(SHORT, beta=0.0), "beta must be above 0"),
        (lambda: OnlineDPO(SHORT, temperature=0.0), "temperature must be"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(LabError, match=message):
        make()
