import hashlib
import json
from dataclasses import replace

import pytest
import torch

from labkit.errors import LabError
from labkit.files import read_json
from labkit.model.feedforward import Gated
from labkit.model.transformer import ModelConfig, Transformer
from labkit.paths import demo_folder
from labkit.runs.folder import Run
from labkit.runs.inputs import hash_path, input_hashes, matches_hash
from labkit.runs.stage_folder import StageFolder
from labkit.stages import Pretrain
from tests.faults import tree
from tests.tiny import weights_hash
from tests.tiny_recipe import tiny_recipe

CONFIG = ModelConfig(vocabulary=16, context=8, width=8, depth=1, heads=1, key_value_heads=1, feed_forward=Gated(8))


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
    opened.check_same_recipe(tiny_recipe(seed=4))


def test_what_another_labkit_keeps_in_the_recipe_stays_there(made, tmp_path):
    """And so does a link in its place."""
    file, elsewhere = made.path / "recipe.json", tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps(read_json(file) | {"cluster": {"nodes": 2}}))
    file.unlink()
    file.symlink_to(elsewhere)
    Run.open(made.path).save_recipe()
    begun = Run.open(made.path).begin_rerun("pretrain")
    begun.rollback()
    assert file.is_symlink() and read_json(elsewhere) == read_json(file)
    assert read_json(file)["cluster"] == {"nodes": 2} and Run.open(made.path).recipe == made.recipe


def test_a_model_comes_back(made):
    model = trained(made)
    again = Run.open(made.path).model("pretrain")
    assert weights_hash(again) == weights_hash(model) and again.config == CONFIG and not again.training
    assert weights_hash(Run.open(made.path).model()) == weights_hash(model)  # the latest there is


def test_a_stage_finishes(made):
    folder = made.stage("pretrain")
    assert not folder.exists and not folder.trained and not folder.finished and folder.result is None
    trained(made)
    (folder.path / "checkpoints" / "step-00000001").mkdir(parents=True)
    folder.write_result_and_clear_checkpoints({"stage": "pretrain", "metrics": {}, "seconds": 1.5})
    assert folder.finished and folder.result == {"stage": "pretrain", "metrics": {}, "seconds": 1.5, "tokenizer": None}
    assert not (folder.path / "checkpoints").exists()
    report = made.write_report({"cores": 2})
    assert report["stages"] == [folder.result] and made.report() == report


def test_a_folder_prepared_but_never_trained_is_free(made):
    again = Run.create(made.path, tiny_recipe(seed=5))
    assert Run.open(made.path).recipe == again.recipe


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run: Run.open(run.path / "none"), "none contains no run"),
        (lambda run: run.stage("grpo"), "no stage 'grpo'; it has pretrain, sft"),
        (lambda run: run.model("sft"), "its stage sft is not finished"),
        (lambda run: run.model(), "has no model yet"),
        (lambda run: run.report(), "has no report yet"),
        (lambda run: run.tokenizer(), "no tokenizer"),
        (
            lambda run: run.check_same_recipe(tiny_recipe(seed=4, preset="other")),
            "a different recipe .preset: 'test', not 'other'",
        ),
    ],
)
def test_what_is_not_there_is_said(made, ask, words):
    with pytest.raises(LabError, match=words):
        ask(made)


def test_a_folder_in_use_is_refused(made):
    trained(made)
    with pytest.raises(LabError, match="already contains a run"):
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
    with pytest.raises(LabError, match="damaged, or of a different model than config.json describes"):
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


def test_a_folder_is_known_by_the_names_and_contents_of_what_is_read(tmp_path):
    """A name says to which split a file belongs; a file that is passed over says nothing."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    known = hash_path(folder)
    (folder / ".DS_Store").write_text("seen by a file manager")
    (folder / "notes.pdf").write_text("unsupported type")
    assert hash_path(folder) == known and matches_hash(folder, known)
    (folder / "b.txt").rename(folder / "test.txt")
    assert not matches_hash(folder, known)


def test_what_an_older_labkit_has_hashed_is_known_again(tmp_path):
    """It took the contents of all files in a folder, and no names."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    old = hashlib.sha256(hashlib.sha256(b"a").digest())
    assert matches_hash(folder, old.hexdigest())
    (folder / ".DS_Store").write_text("x")
    assert matches_hash(folder, old.hexdigest())
    old.update(hashlib.sha256(b"b").digest())
    assert not matches_hash(folder, old.hexdigest())
    (folder / "b.txt").write_text("b")
    assert matches_hash(folder, old.hexdigest())
    shipped = Run.open(demo_folder())
    shipped.check_same_recipe(shipped.recipe)


def test_what_was_read_is_known_when_a_stage_is_taken_back(made):
    """Also where nothing else was finished, so that meanwhile there is no report."""
    trained(made)
    made.stage("pretrain").write_result_and_clear_checkpoints({"stage": "pretrain", "metrics": {}})
    made.reading = {"text": {"read": 10, "dropped": {"near duplicate": 4}}}
    made.write_report({"cores": 2})
    before = tree(made.path)
    Run.open(made.path).begin_rerun("pretrain")
    assert not (made.path / "report.json").exists()
    Run.open(made.path).undo_unfinished_rerun("pretrain")
    assert tree(made.path) == before
    Run.open(made.path).write_report({"cores": 4})
    assert Run.open(made.path).report()["reading"] == made.reading


# Inputs that have moved, changed or gone


@pytest.fixture
def reads(tmp_path, monkeypatch) -> Run:
    """A run that was begun in one folder with a relative path, seen from another."""
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "corpus").write_text("a")  # a name that could be a hub data set's
    monkeypatch.chdir(tmp_path / "here")
    Run.create(tmp_path / "run", tiny_recipe(text="corpus", instructions="owner/of-the-hub"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return Run.open(tmp_path / "run")


def test_an_input_is_found_from_another_folder(reads, tmp_path):
    reads.check_same_recipe(reads.recipe)
    assert reads.input_locations == {"text": str(tmp_path / "here" / "corpus"), "instructions": "owner/of-the-hub"}


def test_an_input_that_is_gone_says_where_it_was_looked_for(reads, tmp_path):
    (tmp_path / "here" / "corpus").unlink()
    with pytest.raises(LabError) as said:
        reads.check_same_recipe(reads.recipe)
    for words in (
        "corpus, which", "reads (text), is missing", str(tmp_path / "elsewhere" / "corpus"),
        str(tmp_path / "here" / "corpus"), f"--out {tmp_path / 'run'} --resume --text PLACE",
    ):  # fmt: skip
        assert words in str(said.value)


def test_an_input_can_be_shown_its_new_place(reads, tmp_path):
    """The same content is the same input; another is refused."""
    (tmp_path / "here" / "corpus").rename(tmp_path / "moved.txt")
    moved = replace(reads.recipe, text=str(tmp_path / "moved.txt"))
    reads.check_same_recipe(moved)
    assert reads.input_locations["text"] == str(tmp_path / "moved.txt")
    (tmp_path / "moved.txt").write_text("b")
    with pytest.raises(LabError, match="a different recipe .text: 'corpus', not"):
        Run.open(reads.path).check_same_recipe(moved)


def test_another_file_of_that_name_is_not_taken_for_it(reads, tmp_path):
    (tmp_path / "elsewhere" / "corpus").write_text("another")
    reads.check_same_recipe(reads.recipe)
    assert reads.input_locations["text"] == str(tmp_path / "here" / "corpus")
    (tmp_path / "here" / "corpus").unlink()
    with pytest.raises(LabError, match="elsewhere/corpus has changed since .*--text PLACE"):
        Run.open(reads.path).check_same_recipe(reads.recipe)


def test_a_data_set_of_the_hub_is_not_a_folder_here(reads, tmp_path):
    (tmp_path / "elsewhere" / "owner" / "of-the-hub").mkdir(parents=True)
    with pytest.raises(LabError, match="owner/of-the-hub was a data set of the hub when"):
        reads.check_same_recipe(reads.recipe)


def test_a_run_of_an_older_labkit_knows_its_inputs_too(reads, tmp_path):
    """It kept no places: a local path is known by its hash, and looked for where it is run."""
    saved = read_json(reads.path / "recipe.json")
    del saved["places"]
    (reads.path / "recipe.json").write_text(json.dumps(saved))
    where = tmp_path / "elsewhere" / "corpus"
    with pytest.raises(LabError, match=f"corpus, which .* is missing: there is no {where}. Put it back"):
        Run.open(reads.path).check_same_recipe(reads.recipe)


def test_a_branch_takes_no_edited_corpus(reads, tmp_path):
    model = Transformer(CONFIG)
    reads.stage("pretrain").save_model(model)
    reads.stage("pretrain").write_result_and_clear_checkpoints({"stage": "pretrain", "metrics": {}})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (reads.path / name).write_text("{}")
    made = reads.branch(tmp_path / "branch", reads.recipe, ["pretrain"])
    assert Run.open(made.path).inputs == reads.inputs
    assert Run.open(made.path).original_locations["corpus"] == str(tmp_path / "here" / "corpus")
    (tmp_path / "here" / "corpus").write_text("edited")
    with pytest.raises(LabError, match="corpus has changed since"):
        Run.open(reads.path).branch(tmp_path / "other", reads.recipe, ["pretrain"])
    assert not (tmp_path / "other").exists()


# Folders of runs


@pytest.mark.parametrize(
    "text",
    ["", '{"recipe": {', "[]", "7", '{"recipe": {"model": 5}, "inputs": {}, "threads": 1}', '{"recipe": []}', "\0"],
)
def test_a_recipe_that_cannot_be_read_is_named(made, text):
    (made.path / "recipe.json").write_text(text)
    with pytest.raises(LabError, match="run/recipe.json (cannot be read|is not a recipe of labkit)"):
        Run.open(made.path)


def test_a_stage_folder_needs_no_run(tmp_path):
    assert not StageFolder(tmp_path / "pretrain", Pretrain()).finished
