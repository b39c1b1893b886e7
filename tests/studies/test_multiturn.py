"""Multi-turn GRPO over seeds on a recipe of seconds: what is trained, what it is held against, and what is said."""

import json
from dataclasses import replace
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.runs.folder import Run
from labkit.runs.presets import PRESETS, make_recipe
from labkit.runs.settings import override_recipe
from labkit.stages.multiturn import MultiTurn
from labkit.studies import multiturn as study
from labkit.studies.options import MultiTurnStudy
from tests.tiny_study import study_preset


def tiny_recipe(config: MultiTurnStudy, flags: list[str]) -> Any:
    preset = study_preset()
    recipe = study.study_recipe(config, make_recipe("smoke"))
    stage = replace(MultiTurn(preset.stages["ppo"].train), num_generations=2, max_new_tokens=6)
    shape = replace(preset.with_stages(**preset.stages), evaluation=recipe.evaluation)
    plan = tuple(one for one in shape.plan if one.name in ("pretrain", "sft"))
    shape = replace(shape, plan=(*plan, replace(recipe.plan[-1], stage=stage)))
    return override_recipe(shape, flags, "study multiturn")


def test_the_presets_suggest_how_it_is_trained():
    config = MultiTurnStudy(preset="smoke", prompts=40)
    for name, preset in PRESETS.items():
        recipe = study.study_recipe(config, make_recipe(name))
        assert list(recipe.stages) == ["pretrain", "sft", "multiturn"] and recipe.evaluation.policy_prompts == 40
        assert recipe.stages["multiturn"].train == preset.stages["ppo"].train


def test_the_policy_stands_beside_the_model_before_and_one_that_sees_first_questions_alone(tmp_path):
    config = MultiTurnStudy(preset="smoke", seeds=(0, 1), prompts=5, out=tmp_path)
    recipe = tiny_recipe(config, ["--multiturn.num-questions", "3"])
    result = study.run(config, recipe)

    run = Run.open(tmp_path / "seed-0")
    policy, control = run.recipe.stages["multiturn"], run.recipe.stages["multiturn-single"]
    assert isinstance(policy, MultiTurn) and isinstance(control, MultiTurn)
    assert (policy.num_questions, policy.max_turns) == (3, 4)
    assert replace(control, num_questions=3, max_turns=4) == policy and control.max_turns == 1
    assert {run.recipe.predecessor(name) for name in study.POLICIES.values()} == {"sft"}

    report = {one["stage"]: one["metrics"] for one in run.report()["stages"]}
    first, second = result["policies"]["multi-turn"]["seeds"]
    assert first["prompts"] == 5 and first["satisfaction"] == pytest.approx(report["multiturn"]["satisfaction"])
    assert first["satisfaction_gain"] == pytest.approx(first["satisfaction"] - first["satisfaction_before"])
    over = result["policies"]["multi-turn"]["over_seeds"]["turns"]
    assert over["mean"] == pytest.approx((first["turns"] + second["turns"]) / 2)
    assert [one["second"] for one in result["comparisons"]] == ["the fine-tuned model", "first questions alone"]
    assert json.loads((tmp_path / "multiturn.json").read_text()) == json.loads(json.dumps(result))

    text = study.text_report(result)
    assert "Conversations with 5 held-out users a seed; means over seeds 0, 1." in text
    assert "multi-turn - the fine-tuned model" in text and "multi-turn - first questions alone" in text
    assert len(study.gain_figure(result).data[0].x) == 2
    again = study.run(config, recipe)
    assert again["policies"] == result["policies"], "nothing is made again"


def test_what_the_figure_says_follows_the_comparisons():
    gain = {"mean": 0.1, "spread": 0.02, "low": 0.05, "high": 0.15}
    policies = {
        name: {"seeds": [{"satisfaction_gain": 0.1}], "over_seeds": {"satisfaction_gain": gain}}
        for name in study.POLICIES
    }
    for better, words in (
        (("multi-turn", "multi-turn"), "follow-ups rises, and more than by first questions alone"),
        (("multi-turn", None), "follow-ups rises"),
        ((None, None), "follow-ups does not rise beyond the spread of seeds"),
    ):
        result = {"policies": policies, "comparisons": [{"better": one} for one in better]}
        assert study.gain_figure(result).layout.title.text.endswith(words)


def test_a_policy_without_follow_ups_is_no_study(tmp_path):
    config = MultiTurnStudy(preset="smoke", seeds=(0,), prompts=5, out=tmp_path / "out")
    recipe = tiny_recipe(config, ["--multiturn.num-questions", "1", "--multiturn.max-turns", "1"])
    with pytest.raises(LabError, match="the policy is its own control. Raise --multiturn.max-turns"):
        study.run(config, recipe)
    assert not (tmp_path / "out").exists()
