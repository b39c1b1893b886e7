"""A generative judge on a model of seconds: what it reads, what it learns, and what a verdict is."""

import math
from dataclasses import replace

import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.evaluation.judges import GenerativeJudge
from labkit.evaluation.verdicts import verdict_logprobs, verdict_metrics
from labkit.runs import pipeline
from labkit.runs.folder import Run
from labkit.runs.pipeline import run
from labkit.runs.plan import PlannedStage, make_plan
from labkit.stages.judge import GenerativeJudging
from labkit.text.verdicts import encode_comparisons, verdict_tokens
from labkit.training.config import TrainConfig
from labkit.training.loop import fit
from labkit.ui import methods
from labkit.ui.lab import Lab
from tests.tiny_alignment import TRAIN, tiny_materials
from tests.tiny_recipe import tiny_recipe

STAGE = GenerativeJudging(replace(TRAIN, steps=80, max_length=96))


@pytest.fixture(scope="module")
def stage_inputs():
    torch.set_num_threads(1)
    return tiny_materials()


@pytest.fixture(scope="module")
def trained(stage_inputs):
    """The judge, and its loss on held-out pairs before training."""
    model = STAGE.initial_model(stage_inputs)
    untrained = STAGE.validation_loss(model, stage_inputs, EvaluationConfig())
    list(fit(model, STAGE.source(stage_inputs, model), STAGE.objective, STAGE.train))
    return model, untrained


def test_it_learns_which_answer_was_chosen(trained, stage_inputs):
    model, untrained = trained
    found = STAGE.evaluate(model, stage_inputs, EvaluationConfig())
    assert found["validation_loss"] < untrained and found["pair_accuracy"] > 0.8
    assert 0 <= found["reward_model_accuracy"] <= 1 and found["left_out"] == 0
    claim = STAGE.claim(found, {})
    assert claim is not None and claim.holds and claim.baseline == 0.5


def test_both_orders_are_rows_with_one_label_each(stage_inputs):
    tokenizer, (pair, *_) = stage_inputs.tokenizer, stage_inputs.fitting_pairs(64)
    verdict = verdict_tokens(tokenizer)
    first, second = encode_comparisons(tokenizer, pair)
    assert (first.right, first.wrong) == (verdict.a, verdict.b) == (second.wrong, second.right)
    shown = [tokenizer.decode(one.ids) for one in (first, second)]
    assert f"A: {pair.chosen}\nB: {pair.rejected}\nWhich answer is better, A or B?" in shown[0]
    assert f"A: {pair.rejected}\nB: {pair.chosen}\nWhich answer is better, A or B?" in shown[1]
    batch = STAGE.source(stage_inputs, stage_inputs.model("sft")).next_batch(None, 0)
    assert batch.inputs.shape == (16, 96) and batch.mask.sum(-1).tolist() == [1] * 16
    labels = batch.labels[batch.mask].view(-1, 2)
    assert (labels == torch.tensor([verdict.a, verdict.b])).all()


def test_log_probabilities_are_the_models_at_the_verdict(stage_inputs):
    tokenizer, model, pairs = stage_inputs.tokenizer, stage_inputs.model("sft"), stage_inputs.fitting_pairs(64)[:3]
    found = verdict_logprobs(model, tokenizer, pairs, batch_size=2)
    for pair, of_pair in zip(pairs, found, strict=True):
        for one, (right, wrong) in zip(encode_comparisons(tokenizer, pair), of_pair.tolist(), strict=True):
            with torch.no_grad():
                expected = model(torch.tensor([one.ids]))[0, -1].log_softmax(-1)
            assert right == pytest.approx(expected[one.right].item(), abs=1e-4)
            assert wrong == pytest.approx(expected[one.wrong].item(), abs=1e-4)


def test_accuracy_and_flips_by_hand():
    """One pair is right in both orders; one says A in both, and is surer where that is wrong; one is wrong twice."""
    sure, unsure = math.log(0.9), math.log(0.1)
    less, much = math.log(0.6), math.log(0.4)
    right, wrong = [sure, unsure], [unsure, sure]
    logprobs = torch.tensor([[right, [less, much]], [[less, much], wrong], [wrong, wrong]])
    found = verdict_metrics(logprobs)
    assert found["pair_accuracy"] == pytest.approx(1 / 3) and found["position_flips"] == pytest.approx(1 / 3)
    assert found["validation_loss"] == pytest.approx(-(sure + less + less + unsure + 2 * unsure) / 6, abs=1e-5)


def test_exchanged_answers_have_the_other_probability(trained, stage_inputs):
    judge = GenerativeJudge(trained[0], stage_inputs.tokenizer)
    pair = stage_inputs.fitting_held_out_pairs(64)[0]
    one = judge.probability_first_is_better(pair.prompt, pair.chosen, pair.rejected)
    other = judge.probability_first_is_better(pair.prompt, pair.rejected, pair.chosen)
    assert one + other == pytest.approx(1, abs=1e-5)


def test_killed_and_resumed_it_ends_with_the_same_weights(tmp_path, monkeypatch):
    train = TrainConfig(steps=4, batch_size=4, max_length=128, checkpoint_every=2, warmup_steps=1, precision="fp32")
    stages = tiny_recipe(train).stages
    plan = make_plan(pretrain=stages["pretrain"], sft=stages["sft"], judge=GenerativeJudging(train))
    recipe, straight, killed = tiny_recipe(plan=plan), tmp_path / "straight", tmp_path / "killed"
    list(run(recipe, straight))
    Run.open(straight).branch(killed, recipe, ["pretrain", "sft"])
    whole_fit = pipeline.fit

    def stopped(*given, **options):
        for number, record in enumerate(whole_fit(*given, **options)):
            yield record
            if number == 2:
                raise RuntimeError("killed")

    with monkeypatch.context() as once:
        once.setattr(pipeline, "fit", stopped)
        with pytest.raises(RuntimeError, match="killed"):
            list(run(recipe, killed, resume=True))
    list(run(recipe, killed, resume=True))
    runs = [Run.open(path) for path in (straight, killed)]
    assert len({one.stage("judge").weights_hash for one in runs}) == 1
    assert runs[0].latest_language_model_stage().name == "sft"  # a judge is not the model to talk to
    assert "position_flips" in runs[0].report()["stages"][-1]["metrics"]

    lab = Lab(tmp_path)
    assert lab.language_model_stages("straight") == ["pretrain", "sft"]
    assert methods.predecessor_choices(lab, "straight") == ["pretrain", "sft"]
    from_judge = tiny_recipe(plan=(PlannedStage("dpo", tiny_recipe(train).stages["dpo"], str(straight / "judge")),))
    with pytest.raises(LabError, match="dpo cannot come after .*judge, whose model compares answers and writes none"):
        list(run(from_judge, tmp_path / "policy"))
    assert not (tmp_path / "policy").exists()


def test_comparisons_longer_than_a_row_are_refused_when_none_fits(stage_inputs):
    short = GenerativeJudging(replace(TRAIN, max_length=30))
    with pytest.raises(LabError, match="comparisons"):
        short.source(stage_inputs, stage_inputs.model("sft"))
