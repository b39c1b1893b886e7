"""Two annotators on a recipe of seconds: whose policy wins under whose profile."""

import numpy as np
import pytest

from labkit.errors import LabError
from labkit.evaluation.policies import OracleScores
from labkit.runs.folder import Run
from labkit.studies import annotators as study
from labkit.studies.measuring import MAX_NEW_TOKENS
from labkit.studies.options import AnnotatorsStudy
from tests.tiny_study import study_preset


def test_both_annotators_judge_both_policies_of_one_fine_tuned_model(tmp_path):
    config = AnnotatorsStudy(preset="smoke", seeds=(0,), prompts=8, method="dpo", out=tmp_path)
    result = study.run(config, study.study_recipe(config, study_preset(MAX_NEW_TOKENS)))
    runs = {name: Run.open(tmp_path / f"seed-0-{name}") for name in config.annotators}
    assert {name: run.recipe.annotation.annotator for name, run in runs.items()} == {
        "concise": "concise",
        "thorough": "thorough",
    }
    assert len({run.stage("sft").weights_hash for run in runs.values()}) == 1
    assert set(result["judged_by"]) == {"concise", "thorough"}
    assert "one from the choices of each annotator; seeds 0" in study.text_report(result)
    assert (tmp_path / "annotators.html").is_file() and (tmp_path / "annotators.json").is_file()


def arrays(**gold: list[float]) -> dict[str, OracleScores]:
    return {annotator: OracleScores(*4 * [np.array(values)]) for annotator, values in gold.items()}


def test_a_policy_wins_under_its_own_annotator():
    config = AnnotatorsStudy(preset="smoke")
    sft = arrays(concise=[0.5, 0.5], thorough=[0.5, 0.5])
    scores = {
        "concise": {"sft": sft, "policy": arrays(concise=[0.9, 0.7], thorough=[0.2, 0.4])},
        "thorough": {"sft": sft, "policy": arrays(concise=[0.3, 0.7], thorough=[0.8, 0.6])},
    }
    found = study.judge_policies(config, scores)
    assert found["concise"]["win_rate"] == 0.75 and found["thorough"]["win_rate"] == 1.0  # one of four is a tie
    assert found["concise"]["gold_gain"] == pytest.approx(0.3) and found["concise"]["other_gain"] == pytest.approx(0.0)
    assert found["thorough"]["gold_gain"] == pytest.approx(0.2)
    assert found["thorough"]["other_gain"] == pytest.approx(-0.2)


def test_one_annotator_is_refused():
    config = AnnotatorsStudy(preset="smoke", annotators=("warm", "warm"))
    with pytest.raises(LabError, match="compares two: --annotators concise thorough"):
        study.study_recipe(config, study_preset())
