"""Kinds of feedback on a recipe of seconds: the same answers, as many of them a step, and one test set for all."""

import json
from dataclasses import replace
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.runs.folder import Run
from labkit.stages.reward import AllPairs, BradleyTerry, PlackettLuce, Ratings
from labkit.studies import feedback as study
from labkit.studies.options import FeedbackStudy
from labkit.studies.seeds import compare_over_seeds, summarize_seeds
from tests.tiny_study import study_preset


def tiny_recipe(config: FeedbackStudy) -> Any:
    recipe = study.study_recipe(config, study_preset())
    return replace(recipe, annotation=replace(recipe.annotation, prompts=12, num_generations=4, temperature=1.0))


def test_every_format_has_as_many_steps_of_as_many_answers():
    recipe = tiny_recipe(FeedbackStudy(preset="smoke"))
    assert list(recipe.stages) == ["pretrain", "sft", "reward"] and recipe.annotation.held_out == 300
    pairs, lists, ratings = (study.recipe_of_format(recipe, one) for one in ("pairs", "rankings", "ratings"))
    assert [one.annotation.format for one in (pairs, lists, ratings)] == ["pairs", "rankings", "ratings"]
    assert list(lists.stages) == ["pretrain", "sft", "reward", "reward-plackettluce"]
    models = [
        pairs.stages["reward"],
        lists.stages["reward"],
        lists.stages["reward-plackettluce"],
        ratings.stages["reward"],
    ]
    assert [one.loss for one in models] == [BradleyTerry(), AllPairs(), PlackettLuce(), Ratings()]
    # steps of 4 pairs read 8 answers: of 12 prompts with 4 answers each, 6 steps read all; 2 lists of 4; 8 ratings
    assert [(one.train.batch_size, one.train.steps) for one in models] == [(4, 6), (2, 6), (2, 6), (8, 6)]


def test_a_seed_gives_each_reward_models_accuracy_on_the_same_pairs(tmp_path):
    config = FeedbackStudy(preset="smoke", seeds=(0,), prompts=8, out=tmp_path)
    with pytest.raises(LabError, match="Gold holds all answers to 8 held-out prompts equal"):  # two steps: all wrong
        study.run(config, tiny_recipe(config))
    held_out = tmp_path / "seed-0-rankings" / "preferences" / "validation.jsonl"
    rows = [json.loads(line) for line in held_out.read_text().splitlines()]
    for row in rows:
        row["golds"] = [1 / (1 + place) for place in range(len(row["golds"]))]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))

    result = study.run(config, tiny_recipe(config))
    assert set(result["feedback"]) == set(study.FEEDBACK)
    for numbers in result["feedback"].values():
        assert 0 <= numbers["gold_accuracy"][0] <= 1 and numbers["examples"][0] > 0
    runs = [Run.open(tmp_path / f"seed-0-{one}") for one in ("pairs", "rankings", "ratings")]
    assert len({one.stage("sft").weights_hash for one in runs}) == 1
    assert json.loads((tmp_path / "feedback.json").read_text())["feedback"] == result["feedback"]
    assert "gold accuracy less that of pairs" in (tmp_path / "feedback.html").read_text(encoding="utf-8")
    assert "one seed has no spread, so neither is better" in study.text_report(result)


def test_what_is_said_of_several_seeds():
    accuracy = {"pairs": [0.70, 0.72, 0.71], "lists, all pairs": [0.75, 0.77, 0.76], "ratings": [0.60, 0.80, 0.71]}
    compared = [compare_over_seeds(one, accuracy[one], "pairs", accuracy["pairs"]) for one in list(accuracy)[1:]]
    result = {
        "seeds": [0, 1, 2],
        "annotated_prompts": 12,
        "answers": 4,
        "feedback": {
            kind: {"gold_accuracy": each, "examples": [24.0] * 3, "over_seeds": summarize_seeds(each)._asdict()}
            for kind, each in accuracy.items()
        },
        "comparisons": [one._asdict() | {"words": str(one)} for one in compared],
        "figure": "x.html",
    }
    text = study.text_report(result)
    assert "lists, all pairs - pairs: +0.050 (+0.050 to +0.050), lists, all pairs is better" in text
    assert "ratings - pairs: -0.007" in text and "inside the spread of seeds" in text
    figure = study.accuracy_figure(result)
    assert figure.layout.title.text == "Better than pairs: lists, all pairs"
    assert list(figure.data[0].y) == ["ratings", "lists, all pairs"]
    assert list(figure.data[1].x) == pytest.approx([-0.1, 0.08, 0.0, 0.05, 0.05, 0.05])
