"""A run is given more stages; what it has stays."""

from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import LabError
from labkit.runs.extend import extend_run, is_begun
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage
from labkit.runs.recipe import Recipe
from labkit.stages import DPO
from tests.tiny_recipe import tiny_recipe


def more(recipe: Recipe) -> Recipe:
    return replace(recipe, plan=(*recipe.plan, PlannedStage("dpo-soft", DPO(recipe.stages["dpo"].train, beta=0.5))))


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def test_new_stages_stand_behind_the_others_which_stay_the_same(tmp_path):
    recipe = tiny_recipe()
    Run.create(tmp_path, recipe)
    assert extend_run(tmp_path, more(recipe)) == Run.open(tmp_path).recipe == more(recipe)
    extended = Run.open(tmp_path).recipe
    assert [extended.fingerprint(name) for name in recipe.stages] == [recipe.fingerprint(one) for one in recipe.stages]
    before = contents(tmp_path)
    assert extend_run(tmp_path, recipe) == more(recipe) and contents(tmp_path) == before  # what is there stays
    fewer = replace(recipe, plan=recipe.plan[:2])
    assert extend_run(tmp_path, fewer) == more(recipe) and contents(tmp_path) == before


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda one: replace(one, seed=5), "seed: 0, not 5"),
        (lambda one: one.with_stages(dpo=replace(one.stages["dpo"], beta=0.7)), "dpo.beta: 0.3, not 0.7"),
        (lambda one: replace(one, evaluation=replace(one.evaluation, policy_prompts=9)), "policy_prompts: 8, not 9"),
    ],
)
def test_another_recipe_is_refused_and_leaves_the_run_as_it_is(tmp_path, change, message):
    Run.create(tmp_path, tiny_recipe())
    before = contents(tmp_path)
    with pytest.raises(LabError, match=message):
        extend_run(tmp_path, change(more(tiny_recipe())))
    assert contents(tmp_path) == before


def test_not_while_a_stage_is_made_again(tmp_path):
    run = Run.create(tmp_path, tiny_recipe())
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "result.json").write_text('{"stage": "dpo", "metrics": {}}')
    run.begin_rerun("dpo")
    with pytest.raises(LabError, match="dpo is being trained again and not finished"):
        extend_run(tmp_path, more(tiny_recipe()))
    run.undo_unfinished_rerun("dpo")
    assert "dpo-soft" in extend_run(tmp_path, more(tiny_recipe())).stages


def test_a_folder_without_a_run_has_none_begun(tmp_path):
    Run.create(tmp_path / "run", tiny_recipe())
    assert not is_begun(tmp_path / "nowhere") and not is_begun(tmp_path / "run")
    (tmp_path / "run" / "pretrain").mkdir()
    assert is_begun(tmp_path / "run")
    with pytest.raises(LabError, match="contains no run"):
        extend_run(tmp_path / "nowhere", tiny_recipe())
