import json
from dataclasses import replace

import pytest
import torch

from labkit import pipeline
from labkit.errors import LabError
from labkit.pipeline import prepare, redo, run
from labkit.runs import Run
from tests.tiny import weights_hash
from tests.tiny_recipe import TRAIN, tiny_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run: (its folder, all events)."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("runs") / "made"
    return path, list(run(tiny_recipe(), path))


def test_events_tell_the_whole_story(made):
    _, events = made
    phases = [(event.stage, event.phase) for event in events]
    each = ["prepare", *["train"] * 6, "evaluate", "finished"]
    assert phases == [("tokenizer", "prepare"), *[("pretrain", p) for p in each], *[("sft", p) for p in each]]
    trained = [event for event in events if event.phase == "train" and event.stage == "sft"]
    assert [(event.done, event.total, event.record.step) for event in trained] == [(i, 6, i) for i in range(1, 7)]


def test_the_report(made):
    path, events = made
    report = json.loads((path / "report.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == ["pretrain", "sft"]
    assert report["stages"][1] == events[-1].result
    assert report["recipe"] == tiny_recipe().to_dict() and report["machine"]["matrix_peak"] > 0
    for stage in report["stages"]:
        model = Run.open(path).model(stage["stage"])
        assert stage["tokens"] == 6 * 4 * 96
        assert stage["flops"] == stage["tokens"] * model.flops_per_token(96)
        assert 0 < stage["mfu"] < 1 and stage["peak_memory_mb"] > 10
        assert stage["seconds"] > stage["training_seconds"] > 0
        assert {"untrained_loss", "validation_loss", "bits_per_byte", "accuracy"} <= set(stage["metrics"])
    prompts = [[sample["prompt"] for sample in stage["samples"]] for stage in report["stages"]]
    assert prompts[0] == prompts[1] and len(prompts[0]) == 5


def test_it_learns(made):
    path, _ = made
    for stage in Run.open(path).report()["stages"]:
        assert stage["metrics"]["validation_loss"] < stage["metrics"]["untrained_loss"]


def test_sft_begins_where_pretraining_ended(made):
    path, _ = made
    opened = Run.open(path)
    base, recipe = opened.model("pretrain"), opened.recipe
    loss = recipe.sft.loss(base, prepare(opened), recipe.evaluation)
    assert opened.report()["stages"][1]["metrics"]["untrained_loss"] == loss


def test_the_same_recipe_gives_the_same_weights(made, tmp_path):
    path, _ = made
    list(run(tiny_recipe(), tmp_path / "again"))
    for stage in ("pretrain", "sft"):
        assert weights_hash(Run.open(path).model(stage)) == weights_hash(Run.open(tmp_path / "again").model(stage))


def test_another_seed_gives_others(made, tmp_path):
    path, _ = made
    list(run(tiny_recipe(seed=1), tmp_path / "other", stages=["pretrain"]))
    ours, theirs = Run.open(tmp_path / "other").model(), Run.open(path).model("pretrain")
    assert weights_hash(ours) != weights_hash(theirs)
    assert not (tmp_path / "other" / "sft").exists()


def test_stopped_anywhere_and_resumed(made, tmp_path):
    """`break` after every fourth event, until there is nothing left to do: the weights and the metrics of one go."""
    path, events = made
    for _ in range(len(events)):
        finished = False
        for count, event in enumerate(run(tiny_recipe(), tmp_path / "run", resume=True)):
            finished = event.stage == "sft" and event.phase in ("finished", "skipped")
            if count == 4 and not finished:
                break
        if finished:
            break
    for stage in ("pretrain", "sft"):
        assert weights_hash(Run.open(tmp_path / "run").model(stage)) == weights_hash(Run.open(path).model(stage))
    theirs, ours = (Run.open(p).report()["stages"] for p in (path, tmp_path / "run"))
    assert [stage["metrics"] for stage in ours] == [stage["metrics"] for stage in theirs]


def test_a_finished_run_is_left_as_it_is(made):
    path, _ = made
    before = (path / "report.json").read_text()
    again = list(run(tiny_recipe(), path, resume=True))
    assert [(e.stage, e.phase) for e in again[1:]] == [("pretrain", "skipped"), ("sft", "skipped")]
    assert (path / "report.json").read_text() == before


def test_redo_one_stage_with_another_config(tmp_path):
    list(run(tiny_recipe(), tmp_path))
    base = weights_hash(Run.open(tmp_path).model("pretrain"))
    shorter = replace(tiny_recipe().sft, train=replace(TRAIN, steps=2))
    events = list(redo(tmp_path, "sft", shorter))
    assert [e.phase for e in events if e.stage == "sft"] == ["prepare", "train", "train", "evaluate", "finished"]
    opened = Run.open(tmp_path)
    assert opened.recipe.sft == shorter and weights_hash(opened.model("pretrain")) == base
    list(redo(tmp_path, "pretrain"))
    assert not (tmp_path / "sft").exists() and weights_hash(Run.open(tmp_path).model()) == base


def test_real_text_and_instructions(tmp_path, corpora):
    text, instructions = str(corpora / "tinyshakespeare.txt"), str(corpora / "instructions.json")
    list(run(tiny_recipe(text=text, instructions=instructions), tmp_path / "run"))
    base, chat = Run.open(tmp_path / "run").report()["stages"]
    assert {"bits_per_byte", "nats_per_character"} <= set(base["metrics"])
    assert "accuracy" not in base["metrics"] and "accuracy" not in chat["metrics"]
    assert [s["prompt"] for s in base["samples"]] == [s["prompt"].rstrip() + "\n" for s in chat["samples"]]


def test_real_text_alone_is_pretrained_on_alone(tmp_path, corpora):
    recipe = tiny_recipe(text=str(corpora / "tinyshakespeare.txt"))
    assert [e.stage for e in run(recipe, tmp_path / "run") if e.phase == "finished"] == ["pretrain"]
    with pytest.raises(LabError, match="no stage sft; it has pretrain .real text without --instructions"):
        next(run(recipe, tmp_path / "other", stages=["sft"]))


def test_instructions_alone_follow_the_worlds_documents(tmp_path, corpora):
    recipe = tiny_recipe(instructions=str(corpora / "instructions.json"))
    list(run(recipe, tmp_path / "run"))
    base, chat = Run.open(tmp_path / "run").report()["stages"]
    assert "grammatical" in base["metrics"] and "accuracy" not in chat["metrics"]


# In words


def test_a_folder_in_use(made):
    path, _ = made
    with pytest.raises(LabError, match="already holds a run. Go on with it .--resume., or choose another folder"):
        next(run(tiny_recipe(), path))


def test_a_folder_of_another_recipe(made):
    path, _ = made
    before = sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*"))
    with pytest.raises(LabError, match="another recipe .seed: 0, not 1"):
        next(run(tiny_recipe(seed=1), path, resume=True))
    assert sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*")) == before


def test_a_stage_before_its_forerunner(tmp_path):
    with pytest.raises(LabError, match="pretrain is not finished"):
        list(run(tiny_recipe(), tmp_path / "run", stages=["sft"]))


def test_after_a_bad_input_the_folder_is_still_free(tmp_path):
    with pytest.raises(LabError, match="There is no file or folder"):
        list(run(tiny_recipe(text=str(tmp_path / "none.txt")), tmp_path / "run"))
    text = tmp_path / "short.txt"
    text.write_text("A few words, far too few.\n" * 4)
    with pytest.raises(LabError, match="too short"):
        list(run(tiny_recipe(text=str(text)), tmp_path / "run"))
    events = run(tiny_recipe(), tmp_path / "run")
    assert next(event.record.step for event in events if event.record) == 1


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    for resume in (True, False):
        with pytest.raises(LabError, match="holds no run"):
            next(run(tiny_recipe(), tmp_path, resume=resume))


def test_an_input_that_changed(tmp_path, corpora):
    text = tmp_path / "text.txt"
    text.write_text((corpora / "tinyshakespeare.txt").read_text()[:20_000])
    recipe = tiny_recipe(text=str(text))
    next(event for event in run(recipe, tmp_path / "run") if event.record)
    text.write_text(text.read_text() + "More.")
    with pytest.raises(LabError, match="text.txt has changed since"):
        next(run(recipe, tmp_path / "run", resume=True))


def test_the_preparation_is_part_of_the_first_stages_cost(made, monkeypatch, tmp_path):
    clock = iter(range(0, 10_000_000, 100))
    monkeypatch.setattr(pipeline.time, "perf_counter", lambda: float(next(clock)))
    events = list(run(tiny_recipe(replace(TRAIN, steps=1)), tmp_path / "run"))
    first, second = (event.result for event in events if event.phase == "finished" and event.result)
    assert first["seconds"] >= second["seconds"] + 100
