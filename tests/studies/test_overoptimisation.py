"""Over-optimisation on a recipe of seconds: its plan, its curves, and that nothing is made twice."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from labkit.commands.main import main
from labkit.evaluation.judges import Mean, MeanLessDeviation, Worst
from labkit.runs import pipeline
from labkit.runs.folder import Run
from labkit.stages.credit import KLInLoss, NoKL
from labkit.stages.rewards import Ensemble, RewardModelScore
from labkit.studies import overoptimisation as study
from labkit.studies.measuring import ask, kl_of_answers, sampled_answers
from tests.tiny_alignment import tiny_materials
from tests.tiny_study import study_preset

TINY: dict[str, Any] = {
    **{"seeds": (0,), "annotated_prompts": 12, "ensembles": (2,), "combine": ("mean",)},
    **{"best_of": (1, 2, 4), "checkpoints": 2, "steps": 1, "kl_coefs": (0.1,), "prompts": 6},
}


def asked(out, **changes: Any) -> tuple[study.OveroptimisationStudy, Any]:
    config = study.OveroptimisationStudy(**TINY | {"out": out} | changes)
    return config, study.study_recipe(config, study_preset())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return out, study.run(*asked(out))


def test_the_plan_of_the_study(tmp_path):
    config, recipe = asked(
        tmp_path, ensembles=(2, 4), combine=("mean", "worst"), kl_coefs=(0.3, 0.1), learning_rate=5e-5
    )
    stages = recipe.stages
    assert recipe.annotation.prompts == 12 and recipe.annotation.num_generations == 2
    assert [stages[name].seed for name in ("reward", "reward-2", "reward-3", "reward-4")] == [0, 1, 2, 3]
    assert stages["grpo-one-1"].reward == RewardModelScore() and stages["grpo-one-1"].kl == NoKL()
    assert stages["grpo-worst4-2"].reward == Ensemble(("reward", "reward-2", "reward-3", "reward-4"), Worst())
    assert recipe.predecessor("grpo-worst4-1") == "sft" and recipe.predecessor("grpo-worst4-2") == "grpo-worst4-1"
    assert recipe.preceding_reward_stage("grpo-one-2") == recipe.preceding_reward_stage("grpo-kl-2") == "reward"
    assert stages["grpo-kl-1"].kl == KLInLoss(0.3) and stages["grpo-kl-1"].train.steps == 2
    assert {recipe.predecessor(name) for name in config.reward_stages} == {"sft"}
    asked_in_a_link = config.steps * stages["grpo-one-1"].train.batch_size // stages["grpo-one-1"].num_generations
    assert [stages[f"grpo-one-{link}"].prompt_offset for link in (1, 2)] == [0, asked_in_a_link]
    assert {stage.train.adamw_lr for name, stage in stages.items() if name.startswith("grpo")} == {5e-5}
    assert stages["reward"].train.adamw_lr != 5e-5


def test_the_default_plan_fits_into_a_run():
    assert len(study.study_recipe(study.OveroptimisationStudy(), study_preset()).plan) == 63


def test_curves_of_a_run(made):
    out, result = made
    curves = {(one["by"], one["judge"]): one for one in result["curves"]}
    assert set(curves) == {
        *((by, judge) for by in ("best of n", "policy gradient") for judge in ("one", "mean2")),
        ("policy gradient with KL", "one"),
    }
    best = curves["best of n", "one"]["points"]
    assert [point["kl"] for point in best] == pytest.approx([0, math.log(2) - 1 / 2, math.log(4) - 3 / 4])
    gains = [point["reward_gain"] for point in best]
    assert gains == sorted(gains) and gains[0] == 0  # what is chosen by is never less
    policy = curves["policy gradient", "one"]["points"]
    assert len(policy) == 3 and policy[0]["kl"] == 0 and policy[0]["name"] == "fine-tuned model"
    pairs = (out / "seed-0" / "preferences" / "train.jsonl").read_bytes().count(b"\n")
    assert result["pairs"] == [pairs] and 0 < pairs <= 12
    assert json.loads((out / "overoptimisation.json").read_text())["curves"] == result["curves"]
    text = study.text_report(result)
    assert (
        f"have seen {pairs} pairs" in text
        and "best of n, mean of 2" in text
        and "policy gradient with KL, one reward model" in text
    )
    page = (out / "overoptimisation.html").read_text(encoding="utf-8")
    assert "gold gained" in page and "one reward model, KL penalty" in page


def test_what_is_finished_is_not_made_again(made, monkeypatch):
    out, before = made
    monkeypatch.setattr(pipeline, "fit", None)
    monkeypatch.setattr(study, "sampled_answers", None)
    assert study.run(*asked(out))["curves"] == before["curves"]


def test_a_stage_trained_again_is_measured_again(made, monkeypatch):
    out, before = made
    for _ in pipeline.rerun_stage(out / "seed-0", "grpo-kl-1"):
        pass
    drawn = []

    def counted(*given: Any) -> list[list[int]]:
        drawn.append(1)
        return sampled_answers(*given)

    monkeypatch.setattr(study, "sampled_answers", counted)
    (out / "seed-0" / "study-overoptimisation" / "grpo-mean2-2.safetensors").unlink()
    assert study.run(*asked(out))["curves"] == before["curves"]
    assert len(drawn) == 1  # what was removed; the stage that was trained again has the same weights
    assert Run.open(out / "seed-0").stage("grpo-kl-1").finished


def test_what_an_ensemble_says():
    """Two answers, scores 1 and 3, then 2 and 2: means 1.5 and 2.5, worst 1 and 2, deviations 0.707."""
    scores = np.array([[[1.0, 3.0]], [[2.0, 2.0]], [[9.0, 9.0]]])
    assert study.combined(scores, 1, Mean()).tolist() == [[1, 3]]
    assert study.combined(scores, 2, Mean()).tolist() == [[1.5, 2.5]]
    assert study.combined(scores, 2, Worst()).tolist() == [[1, 2]]
    assert study.combined(scores, 2, MeanLessDeviation(1.0)) == pytest.approx(np.array([[1.5, 2.5]]) - math.sqrt(0.5))


def test_the_kl_is_that_of_whole_answers():
    """Of answers of one token it is the KL of two rows of probabilities; of a model from itself it is 0."""
    inputs = tiny_materials()
    policy, reference = inputs.predecessor_model(), inputs.predecessor_model()
    asked_prompts = ask(replace(inputs, model_config=policy.config), 3, 1)
    with torch.no_grad():
        policy.embedding.weight.mul_(1.5)
    prompts = asked_prompts.prompts.prompt_ids
    answers = sampled_answers(policy, inputs.tokenizer, asked_prompts)
    found = kl_of_answers(policy, reference, inputs.tokenizer, prompts, answers)
    for prompt, kl in zip(prompts, found, strict=True):
        with torch.no_grad():
            ours, theirs = (model(torch.tensor([prompt]))[0, -1].log_softmax(-1) for model in (policy, reference))
        assert kl == pytest.approx(float((ours.exp() * (ours - theirs)).sum()), abs=1e-5)
    assert kl_of_answers(policy, policy, inputs.tokenizer, prompts, answers) == pytest.approx(np.zeros(3))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--best-of", "4"], "several n"),
        (["--ensembles", "1"], "--ensembles must be"),
        (["--checkpoints", "9"], "A plan has at most 64 stages"),
    ],
)
def test_what_cannot_be_studied_is_refused_in_words(arguments, message, tmp_path, capsys):
    given = ["study", "overoptimisation", "--preset", "smoke", "--out", str(tmp_path / "out"), *arguments]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
