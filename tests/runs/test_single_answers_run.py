"""Runs on single answers: a file of labels for a reward model and KTO, and the ratings of the world's annotator."""

import json
from dataclasses import replace

import pytest

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.preferences.annotate import AnnotatedAnswer, AnnotatedPair, compare_ratings, read_annotated_answers
from labkit.runs.folder import Run
from labkit.runs.pipeline import check_plan, run
from labkit.runs.plan import make_plan, parse_plan
from labkit.runs.recipe import Recipe
from labkit.runs.settings import override_recipe
from labkit.stages import KTO
from labkit.stages.reward import Ratings
from labkit.text.pairs import PreferencePair
from labkit.text.reading.preferences import read_unsplit_preferences
from labkit.text.unpaired import RatedAnswer
from labkit.world import Message
from tests.tiny_recipe import tiny_recipe


def write(path, **fields):
    rows = [{"prompt": f"Where is Tom {n // 2}?", "response": f"{'Sure! ' * (n % 2)}In the park."} for n in range(40)]
    given = [{**row, **{name: value(n) for name, value in fields.items()}} for n, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(path)


def planned(plan: str, file: str | None, *flags: str) -> Recipe:
    known = tiny_recipe().plan
    stages = {one.name: one.stage for one in known}
    stages["kto"] = KTO(stages["dpo"].train)
    recipe = replace(tiny_recipe(), plan=parse_plan(plan, make_plan(**stages)), preferences=file)
    return override_recipe(recipe, list(flags), "run")


def metrics_of(made: Run, stage: str) -> dict:
    result = made.stage(stage).result
    assert result is not None
    return result["metrics"]


def test_a_run_learns_from_labels_and_its_report_says_so(tmp_path, capsys):
    file = write(tmp_path / "thumbs.jsonl", feedback=lambda n: ("👎", "👍")[n % 2])
    recipe = planned("pretrain,sft,reward,kto", file, "--reward.loss", "Ratings")
    assert recipe.stages["reward"].loss == Ratings() and Recipe.from_dict(recipe.to_dict()) == recipe
    list(run(recipe, tmp_path / "run"))
    made = Run.open(tmp_path / "run")
    reward, kto = (metrics_of(made, name) for name in ("reward", "kto"))
    held_out = reward["answers"]
    assert held_out == kto["answers"] == 4 and reward["pairs"] == 2 and "rating_error" in reward
    assert {"label_accuracy", "majority_accuracy", "untrained_loss"} <= kto.keys() and "pair_accuracy" not in kto
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    (reading,) = [one for one in report["reading"].values() if one["source"] == file]
    assert "Single answers with a label: 20 good, 20 bad." in reading["warnings"] and reading["kept"] == 40
    assert main(["plan", str(tmp_path / "run")]) == 0 and "kto" in capsys.readouterr().out


def test_a_run_whose_annotator_rates(tmp_path):
    flags = ("--annotation.format", "ratings", "--annotation.num-generations", "2", "--reward.loss", "Ratings")
    recipe = planned("pretrain,sft,reward", None, *flags)
    list(run(recipe, tmp_path / "run"))
    made = Run.open(tmp_path / "run")
    metrics, kept = metrics_of(made, "reward"), made.path / "preferences"
    rated = read_annotated_answers(kept / "train.jsonl")
    assert {one.answer.rating for one in rated} <= {1.0, 2.0, 3.0, 4.0, 5.0} and len(rated) > recipe.annotation.prompts
    held_out = read_annotated_answers(kept / "validation.jsonl")
    assert metrics["answers"] == len(held_out) and metrics.get("pairs", 0) == len(compare_ratings(held_out))
    assert {"rating_error", "rating_variance", "untrained_loss"} <= metrics.keys()
    read = read_unsplit_preferences(kept / "train.jsonl").values
    ratings = [one.rating for one in read if isinstance(one, RatedAnswer)]
    assert ratings == [one.answer.rating for one in rated]  # texts are cleaned
    assert main(["plan", str(made.path)]) == 0


def test_two_ratings_of_a_prompt_are_a_choice_with_gold():
    ask, other = ((Message("user", f"Where is {who}?"),) for who in ("Anna", "Tom"))
    rated = [
        AnnotatedAnswer(RatedAnswer(prompt, text, rating), gold)
        for prompt, text, rating, gold in ((ask, "No.", 2.0, 0.3), (ask, "Here.", 4.0, 0.2), (other, "So.", 1.0, 0.0))
    ]
    assert compare_ratings(rated) == [AnnotatedPair(PreferencePair(ask, "Here.", "No."), 0.2, 0.3)]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (
            "pretrain,sft,dpo",
            "TinyWorld's annotator: .* rating cannot be paired.* Set annotation.format to pairs or",
        ),
        ("pretrain,sft,kto", "TinyWorld's annotator: .* do not say which are good.* Set annotation.format to pairs or"),
    ],
)
def test_stages_that_compare_refuse_an_annotator_who_rates(tmp_path, plan, words):
    with pytest.raises(LabError, match=words):
        list(run(planned(plan, None, "--annotation.format", "ratings"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("plan", "flags", "words"),
    [
        ("pretrain,sft,dpo", (), "votes.jsonl: single answers with a rating cannot be paired"),
        ("pretrain,sft,reward", (), "votes.jsonl: single answers with a rating cannot be paired"),
        ("pretrain,sft,kto", (), "votes.jsonl: single answers with a rating do not say which are good"),
        ("pretrain,sft,reward", ("--reward.loss", "Ratings"), "All 36 training answers have the rating 3"),
    ],
)
def test_what_a_stage_cannot_learn_from_is_refused_before_anything_is_trained(tmp_path, plan, flags, words):
    file = write(tmp_path / "votes.jsonl", rating=lambda n: 3)
    recipe = planned(plan, file, *flags)
    check_plan(recipe)
    with pytest.raises(LabError, match=words):
        list(run(recipe, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
