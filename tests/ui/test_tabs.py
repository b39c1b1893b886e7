"""What stands behind the tabs, without a browser."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr
import pytest

from labkit.errors import LabError
from labkit.paths import demo_folder
from labkit.preferences.store import PreferenceStore
from labkit.runs.jobs import Jobs
from labkit.ui import attention, decoding, preferences, runs, shell, writing
from labkit.ui.decoding_settings import DecodingSettings, StrategyColumn
from labkit.ui.lab import Lab, LRUCache
from labkit.ui.strategy_scores import score_strategies
from labkit.ui.words import CHINESE, ENGLISH
from labkit.world import World
from tests.tiny import weights_hash
from tests.ui.test_writing import values


def test_the_lab_knows_runs_and_stages_that_write(lab):
    assert lab.runs_with_model() == ["tiny"] == lab.all_run_names()
    assert lab.language_model_stages("tiny") == ["pretrain", "sft", "ppo", "dpo"]
    assert Lab(lab.folder / "nowhere").runs_with_model() == []
    for name in ("", "../tiny", "tiny/pretrain", "other"):
        with pytest.raises(LabError, match="no run"):
            lab.open(name)


def test_models_are_loaded_once_and_again_when_they_change(lab):
    first = lab.model("tiny", "sft")
    assert lab.model("tiny", "sft") is first
    weights = lab.folder / "tiny" / "sft" / "model.safetensors"
    weights.touch()
    assert lab.model("tiny", "sft") is not first
    with pytest.raises(LabError, match="reward model"):
        lab.model("tiny", "reward")


def test_weights_in_shards_are_known_by_their_index(lab, tmp_path, monkeypatch):
    shutil.copytree(lab.folder / "tiny", tmp_path / "tiny")
    copied, settings = Lab(tmp_path), DecodingSettings("tiny", "sft", "Hello", (StrategyColumn("greedy"),))
    whole, version = writing.weights_hash(copied, settings), copied.weights_version("tiny", "sft")
    monkeypatch.setattr("labkit.training.weights.MAX_SHARD_BYTES", 20_000)
    copied.open("tiny").stage("sft").save_model(lab.model("tiny", "sft"))
    assert (
        copied.language_model_stages("tiny") == lab.language_model_stages("tiny")
        and copied.weights_version("tiny", "sft") != version
    )
    assert weights_hash(copied.model("tiny", "sft")) == weights_hash(lab.model("tiny", "sft"))
    assert len(writing.weights_hash(copied, settings)) == len(whole) and writing.weights_hash(copied, settings) != whole


def test_attention_of_a_text(lab):
    data = attention.attention_viewer_data(lab, "tiny", "sft", attention.OPENING)
    (map_,) = data["maps"]
    assert "".join(map_["rows"]).endswith("too tired.") and (map_["layers"], map_["heads"]) == (1, 1)
    assert (
        data["stages"] == ["pretrain", "sft", "ppo", "dpo"] and data["stage"] == "sft" and data["focus"][:2] == [0, 0]
    )
    assert "focus" not in attention.attention_viewer_data(lab, "tiny", "sft", "Where is Tom?")
    question = {**data["subject"], "stage": "dpo", "what": "without", "map": 0, "layer": 0, "head": 0, "kind": "mean"}
    assert attention.handle_viewer_request(lab, question)["kl_nats"] >= 0
    wrong: dict[str, Any] = {"run": "none", "text": " ", "head": 1}
    for (name, value), message in zip(wrong.items(), ["no run 'none'", "type a text", "no head 1"], strict=True):
        assert message in attention.handle_viewer_request(lab, {**question, name: value})["error"]
    assert "no run" in attention.handle_viewer_request(lab, {})["error"]
    with pytest.raises(LabError, match="The text has .* tokens; give 1 to"):
        attention.attention_viewer_data(lab, "tiny", "sft", "tired " * 200)


def test_heads_and_patches_of_the_run_that_comes_with_labkit(lab):
    demo = Lab(lab.folder, demo_folder())
    table = attention.heads_table(demo, "demo", "sft")
    key, said = table["note"]
    assert key == "heads" and said["where"] == "TinyWorld" and said["count"] == 48 and said["right"] > 0.9
    assert len(table["rows"]) == 8 and {len(row) for row in table["rows"]} == {len(table["heads"])}
    assert attention.cached_head_report(demo, "demo", "sft") is attention.cached_head_report(
        demo, "demo", "sft"
    )  # measured once
    key, said = attention.pronoun_accuracy_table(demo, "demo", "sft")["note"]
    assert [one["where"] for one in said["sets"]] == ["TinyWorld", "everyday English"] and said["stage"] == "sft"
    grid = attention.patching_grid(demo, "demo", "sft", *attention.PATCHED, "The")
    assert len(grid["rows"]) == 5 and grid["rows"][0] == "4" and grid["values"][0][-1] == 1
    key, said = grid["note"]
    assert said["answers"] == ["horse", "wall"] and said["example"] and any("→" in label for label in grid["columns"])
    story, asked_for = said["alone"]  # the words that differ, in the story and in the question
    assert grid["columns"][story[0] - 1] == story[1] and story[0] < asked_for[0]
    assert grid["values"][-1][asked_for[0] - 1] == pytest.approx(asked_for[2], abs=1e-3)
    other = attention.patching_grid(demo, "demo", "sft", " Tom had a red ball.", " Tom had a blue ball.", "The")
    assert "example" not in other["note"][1]
    with pytest.raises(LabError, match="the same number of tokens"):
        attention.patching_grid(demo, "demo", "sft", "Where is Tom?", "Where?", "")


def test_what_cannot_be_looked_at_or_compared_is_said(lab):
    with pytest.raises(LabError, match="type a text"):
        attention.attention_viewer_data(lab, "tiny", "sft", "  ")


@pytest.mark.parametrize("question", [None, [], "what", 7, {"what": "step"}, {"settings": [[]], "column": {}}])
def test_what_is_no_question_is_answered_in_words(lab, question):
    for answer in (writing.handle_viewer_request(lab, question), attention.handle_viewer_request(lab, question)):
        assert list(answer) == ["error"] and answer["error"]


@pytest.mark.parametrize("value", [None, [], {}, 3, "none", "../tiny", "\ud83d", "x" * 99_999])
def test_what_a_page_names_is_checked(lab, value):
    """Runs, checkpoints and texts that are none, in each of the tab's handlers."""
    text = "" if value in ("none", "../tiny") else value  # which are texts
    for given in ((value, "sft", "Tom."), ("tiny", value, "Tom."), ("tiny", "sft", text)):
        with pytest.raises(LabError):
            attention.attention_viewer_data(lab, *given)
    for name, stage in ((value, "sft"), ("tiny", value)):
        with pytest.raises(LabError):
            attention.heads_table(lab, name, stage)
        with pytest.raises(LabError):
            attention.patching_grid(lab, name, stage, "Tom.", "Sam.", "")
    with pytest.raises(LabError):
        attention.patching_grid(lab, "tiny", "sft", text, "Tom is in the park.", "")


def test_a_reward_model_is_asked_for_no_text_even_once_it_is_loaded(lab, tmp_path):
    assert lab.reward_model("tiny") is not None
    store = PreferenceStore(tmp_path / "votes.db")
    asks: list[Any] = [
        lambda: attention.heads_table(lab, "tiny", "reward"),
        lambda: attention.pronoun_accuracy_table(lab, "tiny", "reward"),
        lambda: attention.patching_grid(lab, "tiny", "reward", "Tom.", "Sam.", ""),
        lambda: next(iter(writing.stream_comparison(lab, decoding.read_settings(lab, values(stage="reward"))))),
        lambda: next(iter(writing.stream_comparison(lab, decoding.read_settings(lab, values(draft="reward"))))),
        lambda: next(iter(score_strategies(lab, decoding.read_settings(lab, values(stage="reward")), 2))),
        lambda: preferences.generate_and_store_pair(
            lab, store, [preferences.AnswerSource("tiny", "reward", 1.0)] * 2, "Tom."
        ),
    ]
    for ask in asks:
        with pytest.raises(
            LabError, match=("reward contains a reward model, which scores answers and generates no text")
        ):
            ask()


def test_no_field_for_a_number_fails_on_what_is_none(lab, tmp_path):
    jobs, store = Jobs(tmp_path), PreferenceStore(tmp_path / "votes.db")
    tabs = {
        "decoding": decoding.build,
        "preferences": lambda lab: preferences.build(lab, store),
        "runs": lambda lab: runs.build(lab, jobs, store),
    }
    fields: list[Any] = [
        one for one in shell.build_page(lab, tabs).blocks.values() if isinstance(one, gr.Slider | gr.Number)
    ]
    assert {one.get_block_name() for one in fields} == {"slider", "number"}
    for field in fields:
        assert (
            field.preprocess(None) is None
            and field.preprocess("x") == "x"
            and field.preprocess(field.value) == field.value
        )


@pytest.mark.parametrize(
    "file,content,message",
    [
        ("sft/result.json", "[1]", "sft/result.json is damaged: it contains a list, not an object"),
        ("sft/result.json", '{"stage": "sft"}', "sft/result.json is damaged: it has no 'metrics'"),
        ("sft/result.json", '{"stage": "sft", "metrics": 3}', "its 'metrics' is 3, not an object"),
        ("sft/config.json", "null", "sft/config.json is damaged: it contains null, not an object"),
        ("report.json", "[1]", "report.json is not a report of labkit"),
        ("report.json", '{"stages": [7]}', "one of its 'stages' is not the result of a stage"),
    ],
)
def test_json_of_another_kind_is_said_by_its_files_name(lab, tmp_path, file, content, message):
    shutil.copytree(lab.folder / "tiny", tmp_path / "tiny")
    shutil.copytree(lab.folder / "tiny", tmp_path / "other")
    (tmp_path / "tiny" / file).write_text(content)
    mine = Lab(tmp_path)
    shown = str(runs.RunTabUpdates(mine, Jobs(tmp_path)).component_updates("tiny", "other", "sft", "loss"))
    try:
        attention.attention_viewer_data(mine, "tiny", "sft", "Tom is in the park.")
    except LabError as error:
        shown += str(error)
    assert message in shown


def test_a_text_has_a_ceiling_of_attention(lab, monkeypatch):
    model = lab.model("tiny", "sft")
    attention.check_attention_fits_page(model, 40)
    monkeypatch.setattr(attention, "NUMBERS", 900)
    with pytest.raises(LabError, match="1,600 values; a page shows at most 900. Use a text of at most 30 tokens"):
        attention.check_attention_fits_page(model, 40)


def test_a_new_request_ends_the_one_before():
    asked_for = decoding.RequestTracker()
    asked_for.begin_request("page")
    first = asked_for.latest_request_number("page")
    assert asked_for.is_current("page", first)
    asked_for.begin_request("other")
    assert asked_for.is_current("page", first)
    asked_for.begin_request("page")
    assert not asked_for.is_current("page", first) and asked_for.is_current(
        "page", asked_for.latest_request_number("page")
    )


def test_what_is_kept_is_made_once_however_many_ask():
    kept, made = LRUCache(2), []

    def make() -> str:
        made.append(1)
        time.sleep(0.05)
        return "thing"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: kept.get("a", make), range(4))) == ["thing"] * 4
    assert len(made) == 1
    for key in "bc":
        kept.get(key, lambda: "other")
    kept.get("a", make)
    assert len(made) == 2  # the least recent of three went
    with pytest.raises(ZeroDivisionError):
        kept.get("d", lambda: 1 // 0)
    assert kept.get("d", lambda: 4) == 4


def test_both_languages_have_the_same_words():
    assert ENGLISH.keys() == CHINESE.keys() and all(CHINESE.values())


def test_menus_that_are_not_filled_yet_stand_for_what_they_will_say_first(lab, tmp_path):
    """A page is there before its menus are; whoever is quick asks the same pair as one who waits."""
    shutil.copytree(lab.folder / "tiny", tmp_path / "tiny")
    lab, source = Lab(tmp_path), preferences.AnswerSource
    quick = preferences._chosen(lab, [None, None, 1.0, None, None, 0.5])
    assert quick == [source("tiny", "dpo", 1.0), source("tiny", "ppo", 0.5)]
    assert preferences._chosen(lab, ["tiny", "ppo", 0.5, "other", None, 1]) == [
        source("tiny", "ppo", 0.5),
        source("other", "", 1.0),
    ]
    assert preferences._chosen(Lab(lab.folder / "nowhere"), [None, None, 1.0] * 2)[0].run_name == ""


def test_the_tabs_begin_with_what_the_world_could_tell():
    """A run that learnt TinyWorld has read such sentences."""
    for text in (attention.OPENING, *(prompt.partition("\n")[0] for prompt in attention.PATCHED)):
        check = World.load("lab").check(text)
        assert check.parsed == check.sentences == 1, text


def test_another_run_is_shown_when_it_is_chosen(lab):
    """Its checkpoint may have the name of the one before, and then only the run has changed."""
    blocks = shell.build_page(lab, {"attention": attention.build})
    (look,) = [one for one in blocks.config["dependencies"] if one["api_name"] == "attention"]
    (run,) = [number for number in look["inputs"] if [number, "input"] in [list(one) for one in look["targets"]]]
    assert run == look["inputs"][0]
