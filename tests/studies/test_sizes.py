"""Models of several sizes on a recipe of seconds."""

import json

import pytest

from labkit.errors import LabError
from labkit.model.feedforward import Gated
from labkit.runs.folder import Run
from labkit.studies import sizes as study
from labkit.studies.measuring import MAX_NEW_TOKENS
from labkit.studies.options import SizesStudy
from tests.tiny_study import study_preset


def test_sizes_are_sorted_and_what_is_none_is_refused():
    assert list(SizesStudy(preset="smoke", sizes=("128x4", "64x2", "32x8")).shapes) == ["32x8", "64x2", "128x4"]
    for wrong in ("64", "x2", "64x", "64x0", "a x b"):
        with pytest.raises(LabError, match="is no size: give width and depth, as 64x2"):
            SizesStudy(preset="smoke", sizes=(wrong, "32x2"))
    with pytest.raises(LabError, match="two sizes or more"):
        SizesStudy(preset="smoke", sizes=("32x2",))


def test_the_rest_of_a_model_follows_from_its_size():
    model = study.recipe_of_size(study_preset(), 128, 4).model
    assert (model.width, model.depth, model.heads, model.feed_forward) == (128, 4, 2, Gated(336))  # 8/3 · 128 = 341
    assert study.recipe_of_size(study_preset(), 16, 1).model.heads == 1


def test_each_size_is_measured_before_and_after_and_beside_larger_ones(tmp_path):
    config = SizesStudy(preset="smoke", seeds=(0,), prompts=6, sizes=("16x1", "32x1"), method="dpo", out=tmp_path)
    result = study.run(config, study.study_recipe(config, study_preset(MAX_NEW_TOKENS)))
    small, large = result["sizes"].values()
    assert small["parameters"] < large["parameters"]
    opened = Run.open(tmp_path / "seed-0-16x1")
    assert opened.recipe.model.width == 16 and small["parameters"] == opened.model("sft").parameter_count
    (metrics,) = small["seeds"]
    report = {one["stage"]: one["metrics"] for one in opened.report()["stages"]}
    assert metrics["gold_gain"] == pytest.approx(report["dpo"]["gold_gain"])
    (beside,) = result["beside_larger"]
    assert (beside["small"], beside["large"]) == ("16x1", "32x1") and 0 <= beside["win_rates"][0] <= 1
    assert json.loads((tmp_path / "sizes.json").read_text())["sizes"] == result["sizes"]
    text = study.text_report(result)
    assert "Win rate after dpo over a larger model before it:" in text and "16x1 over 32x1" in text
    assert len(study.gold_figure(result).data) == 2
