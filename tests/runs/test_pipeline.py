import json
import math
import shutil
from dataclasses import replace

import datasets
import pytest
import torch

from labkit.errors import LabError
from labkit.preferences.annotate import read_annotated_pairs
from labkit.runs import pipeline
from labkit.runs.folder import Run
from labkit.runs.pipeline import rerun_stage, run
from labkit.runs.prepare import prepare_inputs
from labkit.runs.presets import make_recipe
from tests.tiny import weights_hash
from tests.tiny_recipe import TRAIN, tiny_recipe

STAGES = ("pretrain", "sft", "reward", "ppo", "dpo")


def hash_of(path, stage):
    """The weights that a stage left, a reward model's too."""
    folder = Run.open(path).stage(stage)
    return weights_hash(folder.model() if folder.generates_text else folder.reward_model())


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
    assert phases == [("tokenizer", "prepare"), *[(stage, p) for stage in STAGES for p in each]]
    trained = [event for event in events if event.phase == "train" and event.stage == "sft"]
    assert [(event.steps_done, event.total_steps, event.record.step) for event in trained] == [
        (i, 6, i) for i in range(1, 7)
    ]


def test_the_report(made):
    path, events = made
    report = json.loads((path / "report.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == list(STAGES)
    assert report["stages"][-1] == events[-1].result
    assert report["recipe"] == tiny_recipe().to_dict() and report["machine"]["matrix_peak"] > 0
    for stage in report["stages"]:
        took = Run.open(path).stage(stage["stage"]).step_records[-1]["seconds"]
        assert stage["mfu"] == pytest.approx(stage["flops"] / took / report["machine"]["matrix_peak"])
        assert stage["peak_memory_mb"] > 10
        assert stage["seconds"] > stage["training_seconds"] > 0
    for stage in report["stages"][:2]:
        model = Run.open(path).model(stage["stage"])
        assert stage["tokens"] == 6 * 4 * 96
        assert stage["flops"] == stage["tokens"] * model.training_flops_per_token(96)
        assert {"untrained_loss", "validation_loss", "bits_per_byte", "accuracy"} <= set(stage["metrics"])
    reward, ppo, dpo = (stage["metrics"] for stage in report["stages"][2:])
    assert {"untrained_loss", "validation_loss", "pair_accuracy", "length_accuracy", "noise_ceiling"} <= set(reward)
    assert {"gold_gain", "gold_gain_standard_error", "win_rate", "right", "unsupported", "polite"} <= set(ppo) & set(
        dpo
    )
    assert {"reward", "reward_before", "reward_win_rate"} <= set(ppo) & set(dpo)
    assert dpo["untrained_loss"] == pytest.approx(math.log(2), abs=1e-6)
    prompts = [[sample["prompt"] for sample in stage["samples"]] for stage in report["stages"] if "samples" in stage]
    assert len(prompts) == 4 and len(prompts[0]) == 5 and all(given == prompts[0] for given in prompts)


def test_it_learns(made):
    path, _ = made
    for stage in Run.open(path).report()["stages"][:2]:
        assert stage["metrics"]["validation_loss"] < stage["metrics"]["untrained_loss"]


def test_sft_begins_where_pretraining_ended(made):
    path, _ = made
    opened = Run.open(path)
    base, recipe = opened.model("pretrain"), opened.recipe
    loss = recipe.stages["sft"].validation_loss(base, prepare_inputs(opened), recipe.evaluation)
    assert opened.report()["stages"][1]["metrics"]["untrained_loss"] == loss


def test_the_same_recipe_gives_the_same_weights(made, tmp_path):
    path, _ = made
    list(run(tiny_recipe(), tmp_path / "again"))
    for stage in STAGES:
        assert hash_of(path, stage) == hash_of(tmp_path / "again", stage)


def test_another_seed_gives_others(made, tmp_path):
    path, _ = made
    list(run(tiny_recipe(seed=1), tmp_path / "other", stages=["pretrain"]))
    ours, theirs = Run.open(tmp_path / "other").model(), Run.open(path).model("pretrain")
    assert weights_hash(ours) != weights_hash(theirs)
    assert not (tmp_path / "other" / "sft").exists()


def test_stopped_anywhere_and_resumed(made, tmp_path):
    """`break` after every fifth event that is no skip, to the end: the weights and the metrics of one go."""
    path, events = made
    for _ in range(len(events)):
        finished, count = False, 0
        for event in run(tiny_recipe(), tmp_path / "run", resume=True):
            finished = event.stage == "dpo" and event.phase in ("finished", "skipped")
            count += event.phase != "skipped"
            if count == 5 and not finished:
                break
        if finished:
            break
    for stage in STAGES:
        assert hash_of(tmp_path / "run", stage) == hash_of(path, stage)
    theirs, ours = (Run.open(p).report()["stages"] for p in (path, tmp_path / "run"))
    assert [stage["metrics"] for stage in ours] == [stage["metrics"] for stage in theirs]


def test_a_finished_run_is_left_as_it_is(made):
    path, _ = made
    before = (path / "report.json").read_text()
    again = list(run(tiny_recipe(), path, resume=True))
    assert [(e.stage, e.phase) for e in again[1:]] == [(stage, "skipped") for stage in STAGES]
    assert (path / "report.json").read_text() == before


def test_redo_one_stage_with_another_config(tmp_path):
    list(run(tiny_recipe(), tmp_path, stages=["pretrain", "sft", "reward"]))
    base = weights_hash(Run.open(tmp_path).model("pretrain"))
    shorter = replace(tiny_recipe().stages["sft"], train=replace(TRAIN, steps=2))
    events = list(rerun_stage(tmp_path, "sft", shorter))
    assert [e.phase for e in events if e.stage == "sft"] == ["prepare", "train", "train", "evaluate", "finished"]
    opened = Run.open(tmp_path)
    assert not (tmp_path / "reward").exists() and not (tmp_path / "preferences").exists()
    assert opened.recipe.stages["sft"] == shorter and weights_hash(opened.model("pretrain")) == base
    list(rerun_stage(tmp_path, "pretrain"))
    assert not (tmp_path / "sft").exists() and weights_hash(Run.open(tmp_path).model()) == base


def test_real_text_and_instructions(tmp_path, corpora):
    text, instructions = str(corpora / "tinyshakespeare.txt"), str(corpora / "instructions.json")
    events = list(run(tiny_recipe(text=text, instructions=instructions), tmp_path / "run"))
    report = Run.open(tmp_path / "run").report()
    assert {event.stage: event.result for event in events if event.phase == "read"} == report["reading"]
    read = report["reading"]["instructions"]
    assert read["source"] == instructions and read["read"] == read["kept"] + sum(read["dropped"].values()) > 100
    base, chat = report["stages"]
    assert {"bits_per_byte", "nats_per_character"} <= set(base["metrics"])
    assert "accuracy" not in base["metrics"] and "accuracy" not in chat["metrics"]
    assert [s["prompt"] for s in base["samples"]] == [s["prompt"].rstrip() + "\n" for s in chat["samples"]]


def test_real_preferences(tmp_path, corpora):
    text, instructions, preferences = (
        str(corpora / name) for name in ("tinyshakespeare.txt", "instructions.json", "instruction-preferences.json")
    )
    list(run(tiny_recipe(text=text, instructions=instructions, preferences=preferences), tmp_path / "run"))
    _, _, reward, ppo, dpo = (stage["metrics"] for stage in Run.open(tmp_path / "run").report()["stages"])
    assert {"pair_accuracy", "length_accuracy"} <= set(reward) & set(dpo) and "gold_accuracy" not in reward
    assert {"reward", "reward_before", "reward_win_rate"} <= set(ppo) and "gold_gain" not in {**ppo, **dpo}


def test_preferences_without_a_model_that_answers(corpora):
    with pytest.raises(LabError, match="--preferences need a fine-tuned model: give --instructions too"):
        make_recipe("smoke", text="a.txt", preferences="c.json")


def test_choices_are_kept_and_datasets_reads_them(made):
    path, _ = made
    rows = datasets.load_dataset("json", data_files=str(path / "preferences" / "train.jsonl"), split="train")
    assert len(rows) > 5 and rows[0]["prompt"][-1]["role"] == "user" and rows[0]["chosen"][0]["role"] == "assistant"
    choices = read_annotated_pairs(path / "preferences" / "train.jsonl")
    assert [choice.pair.chosen for choice in choices] == [row["chosen"][0]["content"] for row in rows]


def test_a_reward_model_does_not_write(made):
    path, _ = made
    assert Run.open(path).latest_language_model_stage().name == "dpo"
    with pytest.raises(LabError, match="contains a reward model, which scores answers and generates no text"):
        Run.open(path).model("reward")


def test_a_reward_model_of_another_tokenizer_is_refused(made, tmp_path):
    path, _ = made
    shutil.copytree(path, tmp_path / "copy")
    other = tmp_path / "copy" / "tokenizer.json"
    other.write_text(other.read_text() + " ")
    for name in ("reward", "sft"):
        stage = Run.open(tmp_path / "copy").stage(name)
        with pytest.raises(LabError, match=f"a different tokenizer from the run's.*labkit {name} .*--again"):
            stage.model() if stage.generates_text else stage.reward_model()


def test_real_text_alone_is_pretrained_on_alone(tmp_path, corpora):
    recipe = tiny_recipe(text=str(corpora / "tinyshakespeare.txt"))
    assert [e.stage for e in run(recipe, tmp_path / "run") if e.phase == "finished"] == ["pretrain"]
    with pytest.raises(LabError, match="no stage sft; it has pretrain .on real text it takes --instructions"):
        next(run(recipe, tmp_path / "other", stages=["sft"]))


def test_instructions_alone_follow_the_worlds_documents(tmp_path, corpora):
    recipe = tiny_recipe(instructions=str(corpora / "instructions.json"))
    list(run(recipe, tmp_path / "run"))
    base, chat = Run.open(tmp_path / "run").report()["stages"]
    assert "grammatical" in base["metrics"] and "accuracy" not in chat["metrics"]


# In words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ppo": {"max_new_tokens": 126}}, "None of .* prompts fits in 2 tokens"),
        (
            {"evaluation": {"answer_max_new_tokens": 127}},
            "None of .* held-out prompts leaves room for an answer of 127 tokens",
        ),
        ({"reward": {"train": replace(TRAIN, optimizer="adamw", max_length=8)}}, "None of .* preference pairs fits"),
        (
            {"sft": {"train": replace(TRAIN, max_length=4)}},
            "None of .* conversations fits, with its prompt, in 4 tokens",
        ),
    ],
)
def test_what_a_later_stage_cannot_do_is_refused_before_the_first(tmp_path, corpora, change, words):
    text, instructions, preferences = (
        str(corpora / name) for name in ("tinyshakespeare.txt", "instructions.json", "instruction-preferences.json")
    )
    recipe = tiny_recipe(text=text, instructions=instructions, preferences=preferences)
    ((name, fields),) = change.items()
    recipe = recipe.with_parts({name: replace(recipe.parts[name], **fields)})
    with pytest.raises(LabError, match=words):
        list(run(recipe, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use(made):
    path, _ = made
    with pytest.raises(LabError, match="already contains a run. Resume it .--resume., or choose another folder"):
        next(run(tiny_recipe(), path))


def test_a_folder_of_another_recipe(made):
    path, _ = made
    before = sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*"))
    with pytest.raises(LabError, match="a different recipe .seed: 0, not 1"):
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
        with pytest.raises(LabError, match="contains no run"):
            next(run(tiny_recipe(), tmp_path, resume=resume))


def test_an_input_that_changed(tmp_path, corpora):
    text = tmp_path / "text.txt"
    text.write_text((corpora / "tinyshakespeare.txt").read_text()[:20_000])
    recipe = tiny_recipe(text=str(text))
    next(event for event in run(recipe, tmp_path / "run") if event.record)
    text.write_text(text.read_text() + "More.")
    with pytest.raises(LabError, match="text.txt has changed since"):
        next(run(recipe, tmp_path / "run", resume=True))
    text.unlink()
    with pytest.raises(LabError, match="text.txt, which .* reads .text., is missing"):
        next(run(recipe, tmp_path / "run", resume=True))


def test_the_preparation_is_part_of_the_first_stages_cost(made, monkeypatch, tmp_path):
    clock = iter(range(0, 10_000_000, 100))
    monkeypatch.setattr(pipeline.time, "perf_counter", lambda: float(next(clock)))
    events = list(run(tiny_recipe(replace(TRAIN, steps=1)), tmp_path / "run", stages=["pretrain", "sft"]))
    first, second = (event.result for event in events if event.phase == "finished" and event.result)
    assert first["seconds"] >= second["seconds"] + 100
