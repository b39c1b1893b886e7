"""Iterated rounds on a recipe of seconds: what each round begins with, and what it is held against."""

import json
from dataclasses import replace

import pytest

from labkit.runs.folder import Run
from labkit.runs.settings import override_recipe
from labkit.studies import rounds as study
from labkit.studies.measuring import MAX_NEW_TOKENS
from labkit.studies.options import RoundsStudy
from tests.tiny_study import study_preset


def test_each_round_comes_after_the_policy_of_the_one_before(tmp_path):
    config = RoundsStudy(preset="smoke", seeds=(0,), prompts=6, rounds=3, out=tmp_path)
    preset = study_preset(MAX_NEW_TOKENS)
    recipe = override_recipe(study.study_recipe(config, preset), ["--ppo.kl-coef", "0.7"], "study rounds")
    result = study.run(config, recipe)

    first, second, third = (Run.open(tmp_path / f"seed-0-round-{number}") for number in (1, 2, 3))
    method, control = first.recipe.stages["ppo"], first.recipe.stages["ppo-long"]
    assert method.kl_coef == control.kl_coef == 0.7 and control.train.steps == 3 * method.train.steps
    assert replace(control, train=method.train) == method
    assert list(second.recipe.stages) == ["reward", "ppo"] and second.recipe.seed == 1000
    for run, before in ((second, first), (third, second)):
        assert {run.recipe.predecessor(name) for name in ("reward", "ppo")} == {str(before.path / "ppo")}
        assert run.recipe.annotated_stage == str(before.path / "ppo")
    prompts = [
        {json.dumps(json.loads(line)["prompt"]) for line in (run.path / "preferences" / "train.jsonl").open()}
        for run in (first, second, third)
    ]
    assert not prompts[0] & prompts[1] and not prompts[1] & prompts[2]

    assert list(result["policies"]) == ["round 3", "round 2", "round 1", "control"]
    report = {one["stage"]: one["metrics"] for one in first.report()["stages"]}
    (metrics,) = result["policies"]["round 1"]["seeds"]
    assert metrics["gold_gain"] == pytest.approx(report["ppo"]["gold_gain"])
    assert [one["second"] for one in result["comparisons"]] == ["round 1", "control"]
    text = study.text_report(result)
    assert "Control: one round with as many steps as all rounds together." in text
    assert "round 3 - round 1" in text and len(study.gain_figure(result).data[0].x) == 4
