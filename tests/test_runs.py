import json

import pytest
import torch

from labkit.errors import LabError
from labkit.files import read_json
from labkit.model.feedforward import Gated
from labkit.model.transformer import ModelConfig, Transformer
from labkit.runs import Run, StageFolder, input_hashes
from tests.tiny import weights_hash
from tests.tiny_recipe import tiny_recipe

CONFIG = ModelConfig(vocabulary=16, context=8, width=8, depth=1, heads=1, key_heads=1, feed_forward=Gated(8))


@pytest.fixture
def made(tmp_path):
    return Run.create(tmp_path / "run", tiny_recipe(seed=4))


def trained(run, stage="pretrain"):
    model = Transformer(CONFIG)
    run.stage(stage).save_model(model)
    return model


def test_a_run_is_found_again(made):
    opened = Run.open(made.path)
    assert opened.recipe == tiny_recipe(seed=4) and opened.threads == torch.get_num_threads()
    opened.check(tiny_recipe(seed=4))


def test_a_model_comes_back(made):
    model = trained(made)
    again = Run.open(made.path).model("pretrain")
    assert weights_hash(again) == weights_hash(model) and again.config == CONFIG and not again.training
    assert weights_hash(Run.open(made.path).model()) == weights_hash(model)  # the latest there is


def test_a_stage_finishes(made):
    folder = made.stage("pretrain")
    assert not folder.begun and not folder.trained and not folder.finished and folder.result is None
    trained(made)
    (folder.path / "checkpoints" / "step-00000001").mkdir(parents=True)
    folder.finish({"stage": "pretrain", "seconds": 1.5})
    assert folder.finished and folder.result == {"stage": "pretrain", "seconds": 1.5, "tokenizer": None}
    assert not (folder.path / "checkpoints").exists()
    report = made.write_report({"cores": 2})
    assert report["stages"] == [folder.result] and made.report() == report


def test_a_folder_prepared_but_never_trained_is_free(made):
    again = Run.create(made.path, tiny_recipe(seed=5))
    assert Run.open(made.path).recipe == again.recipe


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run: Run.open(run.path / "none"), "none holds no run"),
        (lambda run: run.stage("grpo"), "no stage 'grpo'; it has pretrain, sft"),
        (lambda run: run.model("sft"), "its stage sft is not finished"),
        (lambda run: run.model(), "has no model yet"),
        (lambda run: run.report(), "has no report yet"),
        (lambda run: run.tokenizer(), "no tokenizer"),
        (lambda run: run.check(tiny_recipe(seed=4, preset="other")), "another recipe .preset: 'test', not 'other'"),
    ],
)
def test_what_is_not_there_is_said(made, ask, words):
    with pytest.raises(LabError, match=words):
        ask(made)


def test_a_folder_in_use_is_refused(made):
    trained(made)
    with pytest.raises(LabError, match="already holds a run"):
        Run.create(made.path, tiny_recipe())


def test_damage_is_said(made):
    trained(made)
    weights = made.path / "pretrain" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(LabError, match="model.safetensors is damaged"):
        made.model("pretrain")
    (made.path / "recipe.json").write_text("{")
    with pytest.raises(LabError, match="recipe.json cannot be read"):
        Run.open(made.path)
    (made.path / "recipe.json").write_text("{}")
    with pytest.raises(LabError, match="not a recipe of labkit"):
        Run.open(made.path)


def test_weights_of_another_shape_are_said(made):
    trained(made)
    config = made.path / "pretrain" / "config.json"
    config.write_text(json.dumps({**read_json(config), "width": 16}))
    with pytest.raises(LabError, match="damaged, or of another model than config.json says"):
        made.model("pretrain")


def test_inputs_are_known_by_their_content(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    recipe = tiny_recipe(text=str(folder), instructions="owner/of-the-hub")
    before = input_hashes(recipe)
    assert list(before) == [str(folder)]
    (folder / "a.txt").write_text("b")
    assert input_hashes(recipe) != before
    assert list(input_hashes(tiny_recipe())) == ["data/world"]


def test_a_stage_folder_needs_no_run(tmp_path):
    assert not StageFolder(tmp_path / "pretrain").finished
