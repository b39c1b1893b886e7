"""The stages that learn from preferences without a reward model, on a model of seconds: DPO's settings and its kin."""

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.losses import dpo_loss, kto_loss, odds_ratio_loss
from labkit.stages import DPO, IPO, KTO, ORPO, RobustDPO, SimPO
from labkit.stages.inputs import PreferenceSplit
from labkit.stages.preference_policy import PairwisePolicy, PreferencePolicy, row_logprobs
from labkit.text.chat import encode_prompt
from labkit.text.pairs import PreferencePair, collate_pairs
from labkit.text.rankings import Ranking
from labkit.text.unpaired import LabeledSource, encode_with_mismatched, mismatched_indices, unpair
from labkit.training.loop import fit
from labkit.world import Message
from tests.tiny import weights_hash
from tests.tiny_alignment import TRAIN, tiny_materials

SLOWER = replace(TRAIN, adamw_lr=1e-3)
STAGES: dict[str, PreferencePolicy] = {
    "cdpo": DPO(SLOWER, label_smoothing=0.1),
    "rpo": DPO(SLOWER, rpo_alpha=1.0),
    "robustdpo": RobustDPO(SLOWER),
    "ipo": IPO(SLOWER),
    "simpo": SimPO(SLOWER),
    "orpo": ORPO(SLOWER),
    "kto": KTO(SLOWER),
}
UNTRAINED = {"cdpo": math.log(2), "rpo": math.log(2), "robustdpo": math.log(2), "ipo": 1.0, "kto": 0.5}
"""The loss on held-out pairs where policy and reference agree."""


@pytest.fixture(scope="module")
def stage_inputs():
    torch.set_num_threads(1)
    return tiny_materials()


@pytest.mark.parametrize("name", STAGES)
def test_each_learns_what_was_chosen_and_goes_on_after_a_stop(stage_inputs, name, tmp_path):
    stage = STAGES[name]
    model = stage.initial_model(stage_inputs)
    before = stage.held_out_metrics(model, stage_inputs)
    if stage.uses_reference:
        assert before["validation_loss"] == pytest.approx(UNTRAINED[name], abs=1e-5)
    records = list(fit(model, stage.source(stage_inputs, model), stage.objective, stage.train))
    after = stage.held_out_metrics(model, stage_inputs)
    assert after["pair_accuracy"] > 0.9 and after["validation_loss"] < 0.9 * before["validation_loss"]
    first, last = records[0].metrics, records[-1].metrics
    apart = [one["chosen_logprob"] - one["rejected_logprob"] for one in (first, last, before, after)]
    assert apart[1] > apart[0] + 1 and apart[3] > apart[2] + 1
    assert all(curve.metric_names[0] in last for curve in stage.curves)

    stopped = stage.initial_model(stage_inputs)
    run = fit(stopped, stage.source(stage_inputs, stopped), stage.objective, stage.train, folder=tmp_path)
    assert len(list(islice(run, 7))) == 7
    run.close()
    resumed = stage.initial_model(stage_inputs)
    rest = list(fit(resumed, stage.source(stage_inputs, resumed), stage.objective, stage.train, folder=tmp_path))
    assert rest[0].step == 8 and weights_hash(resumed) == weights_hash(model)


def test_what_is_reported_of_a_stage(stage_inputs):
    """What it measures, beside the same before it; the claim holds for a loss that fell."""
    stage = KTO(replace(TRAIN, max_length=192))
    model = stage.initial_model(stage_inputs)
    found = stage.evaluate(model, stage_inputs, EvaluationConfig(policy_prompts=2, answer_max_new_tokens=4))
    for name in ("chosen_logprob", "rejected_logprob"):
        assert found[name] == pytest.approx(found[f"{name}_before"], abs=1e-4)
    assert found["pairs"] == len(stage_inputs.fitting_held_out_pairs(192)) and found["gold_gain"] == 0
    claim = IPO.claim({"untrained_loss": 6.25, "validation_loss": 4.0}, {})
    assert claim is not None and claim.holds and (claim.stage, claim.margin) == ("ipo", 2.25)
    assert IPO.claim({"untrained_loss": 6.25}, {}) is None


def pair_batch(stage_inputs, stage: PairwisePolicy):
    model = stage.initial_model(stage_inputs)
    return model, stage.source(stage_inputs, model).next_batch(model, 0)


def test_the_nll_that_is_added_is_a_mean_over_tokens_and_then_over_answers(stage_inputs):
    model, batch = pair_batch(stage_inputs, DPO(TRAIN))
    with torch.no_grad():
        sums = model.label_logprobs(model.hidden_states(batch.inputs), batch.labels, batch.mask).sum(-1)
        nll = -(sums / batch.mask.sum(-1))[: len(sums) // 2]
        loss, count, metrics = DPO(TRAIN, rpo_alpha=0.5).objective(model, batch)
        expected = dpo_loss(*sums.chunk(2), *batch.reference_logprobs.chunk(2), beta=0.3).loss + 0.5 * nll
        torch.testing.assert_close(loss, expected.sum())
        assert metrics["nll_loss"].item() == pytest.approx(nll.sum().item(), rel=1e-5) and count == len(nll)
        # ORPO: the same likelihood in full, and the odds ratio
        chosen, rejected = (sums / batch.mask.sum(-1)).chunk(2)
        whole = nll + odds_ratio_loss(chosen, rejected, beta=0.1).loss
        torch.testing.assert_close(ORPO(TRAIN).objective(model, batch)[0], whole.sum())


@pytest.mark.parametrize("stage", [SimPO(TRAIN), ORPO(TRAIN)])
def test_without_a_reference_none_is_computed(stage_inputs, stage):
    batch = stage.source(stage_inputs, None).next_batch(None, 0)
    assert batch.reference_logprobs.abs().sum() == 0 and not stage.uses_reference


def test_ktos_answers_stand_behind_their_own_prompt_and_behind_another(stage_inputs):
    tokenizer, pairs = stage_inputs.tokenizer, stage_inputs.fitting_pairs(64)[:4]
    answers = unpair(pairs)
    assert [(one.completion, one.label) for one in answers[:2]] == [(pairs[0].chosen, True), (pairs[0].rejected, False)]
    rows = encode_with_mismatched(tokenizer, answers, 64)
    source = LabeledSource(answers, rows, np.arange(16.0).reshape(8, 2), 8, 64, tokenizer.pad_token_id)
    batch = source.next_batch(None, 0)
    own, other = batch.inputs.chunk(2)
    said = [[tokenizer.decode(ids[mask].tolist()) for ids, mask in zip(*x, strict=True)] for x in parts(batch)]
    assert sorted(said[0]) == sorted(said[1])  # all answers, each once
    for prompt in {encode_prompt_ids(tokenizer, answer.prompt) for answer in answers}:
        width = len(prompt)
        same = [tuple(ids[:width].tolist()) == prompt for ids in own]
        assert same == [tuple(ids[:width].tolist()) == prompt for ids in other]
    assert all(a != b for a, b in zip(*said, strict=True))
    desirable = {answers[index].completion: answers[index].label for index in range(8)}
    assert [desirable[text.removesuffix("<|end|>").strip()] for text in said[0]] == batch.desirable.tolist()
    index = (batch.reference_logprobs[:8] / 2).int().tolist()
    assert [answers[i].label for i in index] == batch.desirable.tolist()
    torch.testing.assert_close(batch.reference_logprobs[8:], batch.reference_logprobs[:8] + 1)


def parts(batch):
    """(labels, mask) of the rows with their own answers, and of the others."""
    return zip(batch.labels.chunk(2), batch.mask.chunk(2), strict=True)


def encode_prompt_ids(tokenizer, prompt):
    return tuple(encode_prompt(tokenizer, prompt))


def test_which_answer_stands_behind_which_prompt():
    assert mismatched_indices(["a", "a", "b", "c"]) == [2, 3, 0, 1]
    assert mismatched_indices(["a", "b", "a", "b"]) == [1, 2, 3, 0]
    for prompts in (["a", "b", "b", "a", "a"], ["a", "a", "a", "b"], list("abcdeedcba")):
        others = mismatched_indices(prompts)
        assert all(prompts[other] != prompt for prompt, other in zip(prompts, others, strict=True))
    with pytest.raises(LabError, match="All 3 answers have the same prompt"):
        mismatched_indices(["a", "a", "a"])


def test_a_mismatched_row_that_is_too_long_loses_its_end(stage_inputs):
    ask = (Message("user", "Where is Tom? " * 4),)
    long, short = (
        PreferencePair(ask, "Here.", "There."),
        PreferencePair((Message("user", "Hi."),), "Here. " * 20, "No."),
    )
    rows = encode_with_mismatched(stage_inputs.tokenizer, unpair([long, short]), 60)
    others = [other for _, other in rows]
    assert max(len(ids) for ids, _ in others) == 60 and all(sum(counts) for _, counts in others)


def test_ktos_loss_is_that_of_its_parts(stage_inputs):
    stage = KTO(replace(TRAIN, batch_size=6), undesirable_weight=0.5)
    reference = stage.initial_model(stage_inputs)
    batch = stage.source(stage_inputs, reference).next_batch(reference, 0)
    policy = stage.initial_model(stage_inputs)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn_like(p))
        sums = policy.label_logprobs(policy.hidden_states(batch.inputs), batch.labels, batch.mask).sum(-1)
    kl = (sums - batch.reference_logprobs)[6:].mean().clamp(min=0)
    one = kto_loss(sums[:6], batch.reference_logprobs[:6], batch.desirable, kl, beta=0.1, undesirable_weight=0.5)
    loss, count, metrics = stage.objective(policy, batch)
    torch.testing.assert_close(loss.detach(), one.loss.sum())
    torch.testing.assert_close(metrics["kl"] / count, kl)
    torch.testing.assert_close(metrics["chosen_reward"] / count, one.reward[batch.desirable].mean())
    torch.testing.assert_close(metrics["rejected_logprob"] / count, sums[:6][~batch.desirable].mean())


def test_in_bf16_ktos_gradients_are_those_of_fp32(stage_inputs):
    """Autocast keeps the copies of weights that it makes, also those that it makes where no gradient is asked for."""
    stage, norms = KTO(TRAIN), []
    for enabled in (False, True):
        model = stage.initial_model(stage_inputs)
        batch = stage.source(stage_inputs, model).next_batch(model, 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            stage.objective(model, batch)[0].backward()
        norms.append(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(norms[1], norms[0], rtol=0.1, atol=0.02)


def test_settings_that_are_refused(stage_inputs):
    with pytest.raises(LabError, match="DPO: label_smoothing must be at least 0 and at most 0.49, not 0.5"):
        DPO(label_smoothing=0.5)
    with pytest.raises(LabError, match="RobustDPO: label_smoothing must be at least 0 and at most 0.49, not 0.7"):
        RobustDPO(label_smoothing=0.7)
    with pytest.raises(LabError, match="DPO: rpo_alpha must be at least 0, not -1"):
        DPO(rpo_alpha=-1.0)
    for kind in (IPO, SimPO, ORPO, KTO):
        with pytest.raises(LabError, match=f"{kind.__name__}: beta must be above 0, not 0"):
            kind(beta=0.0)
    with pytest.raises(LabError, match="SimPO: gamma must be at least 0"):
        SimPO(gamma=-0.5)
    with pytest.raises(LabError, match="KTO: desirable_weight must be above 0"):
        KTO(desirable_weight=0.0)
    with pytest.raises(LabError, match="KTO: train.batch_size is 3, but a batch's KL .* takes at least 4"):
        KTO(replace(TRAIN, batch_size=3))


def test_reference_log_probabilities_are_of_rows_as_they_stand(stage_inputs):
    """Padded and beside others as alone."""
    tokenizer, model = stage_inputs.tokenizer, stage_inputs.model("sft")
    rows = encode_with_mismatched(tokenizer, unpair(stage_inputs.fitting_pairs(64)[:3]), 64)
    together = row_logprobs(model, tokenizer, rows, 64, "fp32", batch_size=4)
    for pair, found in zip(rows, together, strict=True):
        batch = collate_pairs([pair], 64, tokenizer.pad_token_id)
        with torch.no_grad():
            alone = model.label_logprobs(model.hidden_states(batch.inputs), batch.labels, batch.mask).sum(-1)
        assert found == pytest.approx(alone.numpy(), abs=1e-4)


def test_kto_reads_each_answer_of_a_ranked_list_once(stage_inputs):
    lists = [
        Ranking((Message("user", f"Where is {name}?"),), ("Sure! Here.", "Here.", "Um.")) for name in ("Anna", "Tom")
    ]
    pairs = [pair for one in lists for pair in one.pairs]
    given = replace(stage_inputs, load_preferences=lambda: PreferenceSplit(pairs, pairs, rankings=lists))
    stage = KTO(replace(TRAIN, max_length=64))
    source: Any = stage.source(given, stage.initial_model(given))
    assert source.desirable.tolist() == [True, False, True, False]
    source = stage.source(stage_inputs, stage.initial_model(stage_inputs))
    assert source.desirable.sum() == len(stage_inputs.fitting_pairs(64))


def test_ktos_held_out_loss_is_a_number_where_each_answer_is_good_in_one_pair_and_bad_in_another(stage_inputs):
    lists = [Ranking((Message("user", f"Where is {name}?"),), ("Sure! Here.", "Um.")) for name in ("Anna", "Tom")]
    pairs = [pair for one in lists for pair in one.pairs]
    both = [*pairs, *(pair._replace(chosen=pair.rejected, rejected=pair.chosen) for pair in pairs)]
    given = replace(stage_inputs, load_preferences=lambda: PreferenceSplit(both, both, rankings=lists))
    stage = KTO(replace(TRAIN, max_length=64))
    assert stage.held_out_metrics(stage.initial_model(given), given)["validation_loss"] == pytest.approx(0.5, abs=1e-5)


def test_ktos_held_out_loss_has_each_answer_of_a_ranked_list_once(stage_inputs):
    """A list of four has six pairs, in which its first answer is chosen three times and its second twice."""
    lists = [
        Ranking((Message("user", f"Where is {name}?"),), ("Sure! Here.", "Here.", "Um.", "No."))
        for name in ("Al", "Tom")
    ]
    pairs = [pair for one in lists for pair in one.pairs]
    given = replace(stage_inputs, load_preferences=lambda: PreferenceSplit(pairs, pairs, rankings=lists))
    stage = KTO(replace(TRAIN, max_length=64))
    model = stage.initial_model(given)
    reference = stage.held_out_metrics(model, given)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    found = stage.held_out_metrics(model, given)
    answers, rows = stage._held_out_answers(given)
    before, after = (
        stage._held_out_row_reference(given),
        row_logprobs(model, given.tokenizer, rows, 64, TRAIN.precision),
    )
    ratio = torch.from_numpy(after - before)
    kl = ratio[:, 1].mean().clamp(min=0)
    kto = {(answer.prompt, answer.completion): ratio[at, 0] - kl for at, answer in enumerate(answers)}
    sign = {"Sure! Here.": 1, "Here.": 1, "Um.": -1, "No.": -1}
    by_hand = [float(1 - torch.sigmoid(sign[answer] * stage.beta * value)) for (_, answer), value in kto.items()]
    assert len(answers) == 24 and len(by_hand) == 8
    assert reference["validation_loss"] == pytest.approx(0.5, abs=1e-5)
    assert found["validation_loss"] == pytest.approx(sum(by_hand) / 8, rel=1e-5)
