"""A run on a file of labelled answers: a reward model by regression, and KTO."""

import json
from dataclasses import replace

import pytest

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.runs.folder import Run
from labkit.runs.pipeline import check_plan, run
from labkit.runs.plan import make_plan, parse_plan
from labkit.runs.recipe import Recipe
from labkit.runs.settings import override_recipe
from labkit.stages import KTO
from labkit.stages.reward import Ratings
from tests.tiny_recipe import tiny_recipe


def write(path, **fields):
    rows = [{"prompt": f"Where is Tom {n // 2}?", "response": f"{'Sure! ' * (n % 2)}In the park."} for n in range(40)]
    given = [{**row, **{name: value(n) for name, value in fields.items()}} for n, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(path)


def planned(plan: str, file: str, *flags: str) -> Recipe:
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
