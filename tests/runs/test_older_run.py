"""A run that labkit made at commit c2dd124, before there were plans and some names: older_run.tar.gz.

A tiny recipe with the cosine schedule, Shaw's positions and heads that look one token back; its pretraining,
fine-tuning and reward model are finished, its PPO was stopped between the two steps of a rollout.
"""

import shutil
from pathlib import Path

import pytest

from labkit.model.positions import Shaw
from labkit.runs.folder import Run
from labkit.runs.pipeline import run


@pytest.fixture
def older(tmp_path) -> Path:
    shutil.unpack_archive(Path(__file__).with_name("older_run.tar.gz"), tmp_path)
    return tmp_path / "older"


def test_it_is_read_as_what_it_was(older):
    opened = Run.open(older)
    recipe = opened.recipe
    assert list(recipe.stages) == ["pretrain", "sft", "reward", "ppo", "dpo"]
    assert recipe.stages["pretrain"].train.schedule == "cosine" and recipe.model.position == Shaw(max_distance=8)
    assert recipe.model.previous_token_init == 1
    assert {name: recipe.fingerprint(name) for name in recipe.stages} == {
        "pretrain": "21909525ac52defb",
        "sft": "327c2725c48c43f2",
        "reward": "3d96c4325d5de22e",
        "ppo": "a2107df07243e0ab",
        "dpo": "daa213daad2ea11c",
    }
    assert opened.stage("reward").reward_model().logprob_weight.item() == pytest.approx(1, abs=0.1)
    assert opened.model("sft").parameter_count == opened.model("pretrain").parameter_count


def test_it_is_resumed_where_it_was_stopped(older, monkeypatch):
    """Its fourth step is on the rollout that was kept; it had this loss where it was never stopped, too."""
    # The world may change, this must not.
    monkeypatch.setattr("labkit.runs.folder.check_world_unchanged", lambda run, inputs: None)
    list(run(Run.open(older).recipe, older, ["ppo"], resume=True))
    records = Run.open(older).stage("ppo").step_records
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[3]["loss"] == pytest.approx(6.231076, rel=1e-4)
