"""A teacher and its students on a recipe of seconds."""

import json
from dataclasses import replace

import pytest

from labkit.errors import LabError
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage
from labkit.stages.distill import Distill
from labkit.studies import distillation as study
from labkit.studies.measuring import MAX_NEW_TOKENS
from labkit.studies.options import DistillationStudy
from tests.tiny_study import study_preset


def preset():
    """With a stage of the kind that the study is about, as a preset suggests one."""
    recipe = study_preset(MAX_NEW_TOKENS)
    train = recipe.stages["sft"].train
    return replace(recipe, plan=(*recipe.plan, PlannedStage("distill", Distill(train, teacher="sft"))))


def test_students_of_one_model_are_taught_in_each_way_and_beside_them_stands_more_fine_tuning(tmp_path):
    config = DistillationStudy(
        preset="smoke", seeds=(0,), prompts=6, teacher="32x1", student="16x1", teachers=("sft", "dpo"), out=tmp_path
    )
    result = study.run(config, study.study_recipe(config, preset()))
    teacher, student = (Run.open(tmp_path / f"seed-0-{name}") for name in ("teacher", "student"))
    assert (teacher.recipe.model.width, student.recipe.model.width) == (32, 16)
    assert (tmp_path / "seed-0-teacher/tokenizer.json").read_bytes() == (student.path / "tokenizer.json").read_bytes()
    taught = {name: stage for name, stage in student.recipe.stages.items() if name.startswith("distill")}
    assert {stage.teacher for stage in taught.values()} == {f"{teacher.path}/sft", f"{teacher.path}/dpo"}
    assert {name: (one.lmbda, one.beta, one.seq_kd, one.loss_type) for name, one in taught.items()} == {
        f"distill-{way}-{name}": settings
        for name in ("sft", "dpo")
        for way, settings in {
            "off-policy": (0.0, 0.0, False, "gjsd"),
            "on-policy": (1.0, 1.0, False, "gjsd"),
            "seqkd": (0.0, 0.5, True, "nll"),
        }.items()
    }
    assert all(student.recipe.predecessor(name) == "sft" for name in ("sft-more", *taught))
    assert len({one.train.steps for one in taught.values()} | {student.recipe.stages["sft-more"].train.steps}) == 1
    assert list(result["models"])[:4] == ["teacher, sft", "teacher, dpo", "student, sft", "more"]
    assert len(result["models"]) == 10 and len(result["comparisons"]) == 12
    assert json.loads((tmp_path / "distillation.json").read_text())["models"] == result["models"]
    text = study.text_report(result)
    assert "Teacher 32x1, student 16x1" in text and "on-policy, dpo - more" in text
    assert len(study.gold_figure(result).data) >= 1


def test_what_teaches_is_a_method_or_sft():
    alone = DistillationStudy(preset="smoke", teachers=("sft",))
    recipe = study.study_recipe(alone, preset())
    assert list(study.teacher_recipe(alone, recipe).stages) == ["pretrain", "sft"]
    with pytest.raises(LabError, match="There is no method 'nothing'"):
        study.study_recipe(DistillationStudy(preset="smoke", teachers=("nothing",)), preset())
    with pytest.raises(LabError, match="at least one teacher, and each once"):
        DistillationStudy(preset="smoke", teachers=("sft", "sft"))
    with pytest.raises(LabError, match="'96' is no size"):
        DistillationStudy(preset="smoke", teacher="96")
