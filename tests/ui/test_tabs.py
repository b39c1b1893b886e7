"""What stands behind the tabs, without a browser."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from labkit.decoding.strategies import parse_strategy
from labkit.errors import LabError
from labkit.evaluation.strategies import EvalPrompt, compare_strategies
from labkit.paths import demo_folder
from labkit.preferences.store import PreferenceStore, SourcedAnswer
from labkit.runs.folder import Run
from labkit.runs.jobs import Jobs
from labkit.runs.pipeline import run
from labkit.ui import attention, decoding, manage, preferences, runs, shell, writing
from labkit.ui.lab import Lab, LRUCache
from labkit.ui.words import CHINESE, ENGLISH
from labkit.ui.writing import DecodingSettings, StrategyColumn
from labkit.world import Message, World
from tests.tiny import weights_hash
from tests.tiny_recipe import tiny_recipe


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    """A lab with one finished run, `tiny`."""
    folder = tmp_path_factory.mktemp("runs")
    for _ in run(tiny_recipe(preset="smoke"), folder / "tiny"):
        pass
    return Lab(folder)


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


def asked(*lines: str, **options: Any) -> DecodingSettings:
    given: dict[str, Any] = {"run": "tiny", "stage": "sft", "prompt": "Where is Tom?", "tokens": 12} | options
    return DecodingSettings(columns=tuple(StrategyColumn(line) for line in lines), **given)


def last(lab: Lab, settings: DecodingSettings) -> dict[str, Any]:
    *_, final = writing.stream_comparison(lab, settings)
    return final


def test_strategies_are_compared_on_the_same_numbers(lab):
    found = last(lab, asked("greedy", "greedy", "temperature=1.5", seed=1))
    columns = found["columns"]
    assert [column["strategy"] for column in columns] == ["greedy", "greedy", "temperature=1.5"]
    assert columns[0]["tokens"] == columns[1]["tokens"] and all(column["done"] for column in columns)
    part = found["parts"]
    assert part is not None
    texts = [[token["id"] for token in column["tokens"]] for column in columns]
    assert texts[0][:part] == texts[2][:part] and texts[0][part : part + 1] != texts[2][part : part + 1]


@pytest.mark.parametrize(
    "line", ["temperature=1.3", "beam beams=3", "contrastive", "best n=3", "speculative ahead=2", "greedy no-repeat=2"]
)
def test_what_a_link_holds_writes_the_same_text(lab, line):
    """Of every strategy, through the JSON of a link; and so does its branch at the third token."""
    first = last(lab, asked(line, seed=3))
    link = json.dumps(first["settings"])
    again = last(lab, DecodingSettings.from_link_json(link))
    assert again["columns"] == first["columns"] and again["settings"] == first["settings"]
    ids = [token["id"] for token in first["columns"][0]["tokens"]]
    begins = [*ids[: len(ids) // 2], 17]
    column = {"strategy": line, "begins": begins}
    branch = writing.handle_viewer_request(lab, {"what": "branch", "settings": first["settings"], "column": column})
    assert [token["id"] for token in branch["tokens"]][: len(begins)] == begins
    with_branch = {**first["settings"], "columns": [*first["settings"]["columns"], column]}
    both = last(lab, DecodingSettings.from_link_json(json.dumps(with_branch)))["columns"]
    assert both[0]["tokens"] == first["columns"][0]["tokens"] and both[1]["tokens"] == branch["tokens"]


def test_a_token_is_looked_at_and_filters_change_places(lab):
    """What is removed at a step depends on the order; the draw's own token is among the candidates."""
    first = last(lab, asked("temperature=2 top-p=0.5", seed=1))
    ids = [token["id"] for token in first["columns"][0]["tokens"]]

    def step(line: str) -> dict[str, Any]:
        column = {"strategy": line, "begins": ids[:4]}
        return writing.handle_viewer_request(lab, {"what": "step", "settings": first["settings"], "column": column})

    one, other = step("temperature=2 top-p=0.5"), step("top-p=0.5 temperature=2")
    assert one["names"] == ["temperature=2", "top-p=0.5"] and other["names"] == one["names"][::-1]
    assert one["effects"][0][0] == 0 and one["effects"][1][0] > 0.3
    assert other["effects"][0][2] < one["effects"][1][2]  # the nucleus of the sharper distribution is smaller
    assert ids[3] in [token for token, *_ in one["candidates"]]
    assert step("top-p=0")["error"].startswith("top-p=0: sample: top-p must be above 0")


def test_the_tree_of_beams_ends_in_the_text(lab):
    first = last(lab, asked("beam beams=3"))
    tree = writing.handle_viewer_request(
        lab, {"what": "tree", "settings": first["settings"], "column": {"strategy": "beam beams=3", "begins": []}}
    )
    ended = [node for node in tree["nodes"] if node[4] == "ended"]
    best = max(ended, key=lambda node: node[2] / (node[3] + 1) ** tree["penalty"])
    path, node = [], best
    while True:
        path.append(node[1])
        if node[0] < 0:
            break
        node = tree["nodes"][node[0]]
    shown = [token["text"] for token in first["columns"][0]["tokens"] if not token["ended"]]
    assert [text for text in path[::-1] if text != "■"] == shown
    refused = writing.handle_viewer_request(
        lab, {"what": "tree", "settings": first["settings"], "column": {"strategy": "greedy", "begins": []}}
    )
    assert "Only beam search" in refused["error"]


def test_strategies_are_scored_over_seeds(lab):
    settings = asked("greedy", "temperature=1.5")
    steps = list(writing.score_strategies(lab, settings, 11))
    assert [(one.done, one.total, len(one.finished_strategies)) for one in steps] == [
        (0, 12, 0),
        (1, 12, 1),
        (9, 12, 1),
        (12, 12, 2),
    ]
    first, *_, last_table = map(decoding.score_table, steps)
    assert first == {"heads": [], "rows": [], "note": ["scoring", {"done": 0, "total": 12}]}
    heads, rows = last_table["heads"], last_table["rows"]
    assert heads[:3] == ["strategy", "nats per token", "repetition"] and "self-BLEU" in heads and "grammatical" in heads
    assert [row[0] for row in rows] == ["greedy", "temperature=1.5"] and "±" in " ".join(rows[1])
    assert last_table["note"] is None
    at = writing.decoding_session(lab, settings)
    (whole,) = compare_strategies(
        at.model,
        at.tokenizer,
        [EvalPrompt(settings.prompt, at.prompt)],
        [parse_strategy("temperature=1.5")],
        seeds=11,
        max_new_tokens=12,
        world=lab.world("tiny"),
        resources=at.resources,
    )
    assert steps[-1].finished_strategies[1][1] == whole.scores  # written a few at a time, they are the same texts
    wrong: list[Any] = [0, 257, "x", None, 2.5, float("nan")]
    for seeds in wrong:
        with pytest.raises(LabError, match="The number of samples must be a whole number from 1 to 256, not"):
            list(writing.score_strategies(lab, asked("greedy"), seeds))


@pytest.mark.parametrize(
    "change,message",
    [
        ({"seed": -5}, "A seed must be a whole number from 0 to 4294967295, not -5"),
        ({"seed": 10**23}, "A seed must be a whole number"),
        ({"tokens": 0}, "from 1 to 1000, not 0"),
        ({"columns": []}, "From 1 to 12 strategies are compared, not 0"),
        ({"columns": [{"strategy": "greedy"}]}, "not settings of a comparison: KeyError 'begins'"),
        ({"seed": float("inf")}, "not settings of a comparison: OverflowError"),
        (
            {"columns": [{"strategy": "beam beams=1000", "begins": []}]},
            "^Strategy 1, beam beams=1000 is 1,000 texts at once; the limit is 32. Use a smaller beams=.$",
        ),
        ({"columns": [{"strategy": "best n=100000", "begins": []}]}, "^Strategy 1, best n=100000 is .*a smaller n="),
        (
            {"columns": [{"strategy": "contrastive k=500", "begins": []}]},
            "^Strategy 1, contrastive k=500 is .*a smaller k=",
        ),
        ({"columns": [{"strategy": "speculative ahead=999999", "begins": []}]}, "Strategy 1, speculative ahead=999999"),
        ({"prompt": "half \ud83d of one"}, "The prompt: character 6 is broken"),
        ({"run": "\ud83d"}, "The run: character 1 is broken"),
        ({"stop": ["\ud83d"]}, "A stop text: character 1 is broken"),
        ({"columns": [{"strategy": "ban=\ud83d", "begins": []}]}, "A strategy: character 5 is broken"),
        ({"columns": [{"strategy": "greedy", "begins": [10**9]}]}, "no token 1000000000 in this model's vocabulary"),
        ({"columns": [{"strategy": "top-p=0", "begins": []}]}, "^Strategy 1, top-p=0: sample: top-p must be above 0"),
        ({"columns": [{"strategy": " ", "begins": []}]}, "Strategy 1 is missing: type one, as sample"),
        ({"columns": [{"strategy": "temperature=-1", "begins": []}]}, "temperature must be at least 0"),
        ({"columns": [{"strategy": "beam beams=0", "begins": []}]}, "at least one beam, not 0"),
        ({"columns": [{"strategy": "warm", "begins": []}]}, "There is no strategy 'warm'"),
        ({"run": "none"}, "no run 'none'"),
        ({"stage": "none"}, "none"),
        ({"prompt": "word " * 900}, "no room for new tokens in a context"),
        ({"prompt": "word " * 9000}, "The prompt has 45,000 characters; the limit is 20,000"),
        ({"prompt": " "}, "nothing to reply to: type a prompt"),
        ({"stop": [1]}, None),
    ],
)
def test_what_cannot_be_written_is_said(lab, change, message):
    raw = {**asked("greedy").to_json(), **change}
    if message is None:
        last(lab, DecodingSettings.from_json(raw))
        return
    with pytest.raises(LabError, match=message):
        last(lab, DecodingSettings.from_json(raw))
    column = (raw["columns"] or [{"strategy": "greedy"}])[0]
    assert "error" in writing.handle_viewer_request(lab, {"what": "branch", "settings": raw, "column": column})


def test_a_link_that_cannot_be_followed_is_said(lab):
    good = json.dumps(asked("greedy").to_json())
    settings, said = decoding.open_link(lab, good)
    assert settings == asked("greedy") and said == ""
    _, said = decoding.open_link(lab, json.dumps(asked("greedy", weights_hash="0" * 12).to_json()))
    assert "have changed since this link was made" in said
    for text in (good[:-9], "[]", "{", "null", '{"run": 1}', '{"run": "a", "stage": "b", "prompt": "", "columns": 5}'):
        with pytest.raises(LabError) as broken:  # and no word of a parser
            decoding.open_link(lab, text)
        assert str(broken.value).startswith("This link is broken: no settings can be read from it. Shown instead are")
        assert not {"Error", "Expecting", "char"} & set(str(broken.value).split())
    with pytest.raises(LabError, match="cannot be opened: Strategy 1 is missing: type one.* Shown instead are the"):
        decoding.open_link(lab, json.dumps({**asked("greedy").to_json(), "columns": [{"strategy": " ", "begins": []}]}))
    with pytest.raises(LabError, match="of a run 'gone', not found here"):
        decoding.open_link(lab, json.dumps(asked("greedy", run="gone").to_json()))


def test_what_cannot_be_looked_at_or_compared_is_said(lab):
    with pytest.raises(LabError, match="type a text"):
        attention.attention_viewer_data(lab, "tiny", "sft", "  ")


def test_strategies_together_have_a_ceiling(lab):
    """Each may be within it, and all together above."""
    lines = ["beam beams=32"] * 10
    with pytest.raises(LabError, match="All strategies together are .* tokens to process; the limit is 40,000"):
        last(lab, asked(*lines, tokens=300, prompt="a", stage="pretrain", run=longer(lab)))
    assert writing.MAX_COMPARISON_COST.processed_tokens == 40_000


def longer(lab: Lab) -> str:
    """The name of a run like `tiny`, whose models have a context in which there is room for long texts."""
    if "longer" not in lab.runs_with_model():
        recipe = tiny_recipe()
        recipe = replace(recipe, model=replace(recipe.model, context=512))
        for _ in run(recipe, lab.folder / "longer", ["pretrain"]):
            pass
    return "longer"


def test_best_of_n_shows_all_answers_with_what_they_are_worth(lab):
    (column,) = last(lab, asked("best n=4 temperature=1.5"))["columns"]
    worth = [one for _, one, _ in column["answers"]]
    assert len(worth) == 4 and worth == sorted(worth, reverse=True)
    assert [chosen for *_, chosen in column["answers"]] == [True, False, False, False]
    chosen = [token["id"] for token in column["tokens"] if not token["ended"]]
    assert column["answers"][0][0] == lab.tokenizer("tiny").decode(chosen)


def test_best_of_n_can_be_stopped_between_its_answers(lab):
    """Nothing of it is shown until the best is known, but whoever asked is asked whether it is still wanted."""
    settings = asked("best n=10 temperature=1.5")
    steps = writing.stream_comparison(lab, settings)
    for _ in range(3):  # four answers, four and two
        stopped = writing.mark_stopped(next(steps))
        assert stopped is not None and stopped["columns"][0]["stopped"] and not stopped["columns"][0]["tokens"]
    *_, whole = steps
    assert whole["columns"][0]["tokens"] and len(whole["columns"][0]["answers"]) == 10


def test_contrastive_search_shows_its_penalty(lab):
    """score = (1 - alpha) probability - alpha similarity, and the best is the token that came."""
    found = last(lab, asked("contrastive k=4 alpha=0.6"))
    ids = [token["id"] for token in found["columns"][0]["tokens"]]
    for place in (0, 3):
        column = {"strategy": "contrastive k=4 alpha=0.6", "begins": ids[: place + 1]}
        step = writing.handle_viewer_request(lab, {"what": "step", "settings": found["settings"], "column": column})
        assert len(step["contrast"]) == 4 and step["contrast"][0][0] == ids[place] and step["alpha"] == 0.6
        for _, _, probability, similarity, score in step["contrast"]:
            assert score == pytest.approx(0.4 * probability - 0.6 * similarity, abs=1e-5) and similarity <= 1.001


def test_a_tree_that_was_searched_is_not_searched_again(lab, monkeypatch):
    found = last(lab, asked("beam beams=3", seed=9))
    column = {"strategy": "beam beams=3", "begins": []}

    def search(*args: object, **options: object) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(writing, "beam_steps", search)
    tree = writing.handle_viewer_request(lab, {"what": "tree", "settings": found["settings"], "column": column})
    assert tree["nodes"]


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


def values(**changes: Any) -> tuple[Any, ...]:
    """What the controls of the Decoding tab hand over."""
    given = {
        "run": "tiny",
        "stage": "sft",
        "prompt": "Tom.",
        "many": 1,
        "seed": 0,
        "tokens": 10,
        "ends": "",
        "draft": "",
    }
    return (*(given | changes).values(), "greedy", "greedy", "greedy", "greedy")


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"many": "x"}, "The number of strategies must be a whole number from 1 to 4, not 'x'"),
        ({"many": None}, "The number of strategies"),
        ({"many": 99}, "from 1 to 4, not 99"),
        ({"seed": "7"}, "A seed must be a whole number from 0 to 4294967295, not '7'"),
        ({"seed": float("inf")}, "A seed must be a whole number"),
        ({"tokens": 10**9}, "from 1 to 1000, not 1000000000"),
        ({"tokens": [3]}, "from 1 to 1000, not list"),
        ({"tokens": None}, "The number of new tokens must be a whole number from 1 to 1000, not NoneType"),
        ({"prompt": {"a": 1}}, "The prompt must be text, not dict"),
        ({"ends": 3}, "The stop texts must be text, not int"),
        ({"draft": []}, "The draft must be text, not list"),
    ],
)
def test_what_the_controls_cannot_say_is_refused(lab, changes, message):
    with pytest.raises(LabError, match=message):
        decoding.read_settings(lab, values(**changes))


def test_a_reward_model_is_asked_for_no_text_even_once_it_is_loaded(lab, tmp_path):
    assert lab.reward_model("tiny") is not None
    store = PreferenceStore(tmp_path / "votes.db")
    asks: list[Any] = [
        lambda: attention.heads_table(lab, "tiny", "reward"),
        lambda: attention.pronoun_accuracy_table(lab, "tiny", "reward"),
        lambda: attention.patching_grid(lab, "tiny", "reward", "Tom.", "Sam.", ""),
        lambda: next(iter(writing.stream_comparison(lab, decoding.read_settings(lab, values(stage="reward"))))),
        lambda: next(iter(writing.stream_comparison(lab, decoding.read_settings(lab, values(draft="reward"))))),
        lambda: next(iter(writing.score_strategies(lab, decoding.read_settings(lab, values(stage="reward")), 2))),
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


def test_curves_are_drawn_beside_lines_that_are_no_records(lab, tmp_path):
    shutil.copytree(lab.folder / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny" / "dpo" / "metrics.jsonl").write_text('[1]\n{"step": "x"}\n{"step": 3}\nnull\n')
    with pytest.warns(UserWarning, match="3 of its lines are not step records"):
        shown = runs.RunTabUpdates(Lab(tmp_path), Jobs(tmp_path)).component_updates("tiny", None, "dpo", "loss")
    assert "3 / " in str(shown[1])


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


def test_texts_that_were_stopped_are_over():
    columns: list[dict[str, Any]] = [{"tokens": [1], "done": False}, {"tokens": [2], "done": True}]
    found = writing.mark_stopped({"columns": columns, "parts": 3})
    assert found is not None and found["parts"] == 3
    assert [(column["done"], column["stopped"]) for column in found["columns"]] == [(True, True), (True, False)]
    assert writing.mark_stopped(None) is None


def test_where_texts_end_alike_they_do_not_part(lab):
    """An end that was drawn, and one that another strategy came to, are the same end; both can be looked at."""
    found = last(lab, asked("greedy", "contrastive k=1 alpha=0", tokens=60))
    one, other = found["columns"]
    assert [token["text"] for token in one["tokens"]] == [token["text"] for token in other["tokens"]]
    assert one["tokens"][-1]["ended"] and other["tokens"][-1]["ended"] and found["parts"] is None
    ids = [token["id"] for token in other["tokens"]]
    column = {"strategy": "greedy", "begins": ids}
    end = writing.handle_viewer_request(lab, {"what": "step", "settings": found["settings"], "column": column})
    assert ids[-1] in [token for token, *_ in end["candidates"]]


def test_a_stop_text_is_shown_as_one(lab):
    story = {"stage": "pretrain", "prompt": "One day"}
    for line in ("greedy", "contrastive k=1 alpha=0"):
        free = last(lab, asked(line, **story))["columns"][0]["tokens"]
        text = free[2]["text"]
        tokens = last(lab, asked(line, stop=(text,), **story))["columns"][0]["tokens"]
        assert tokens[-1]["ended"] and tokens[-1]["stop"] and len(tokens) <= 4


def test_pairs_are_blind_and_sides_are_drawn(lab, tmp_path):
    store = PreferenceStore(tmp_path / "votes.db")
    both = [preferences.AnswerSource("tiny", "sft", 1.0), preferences.AnswerSource("tiny", "pretrain", 1.5)]
    shown = [store.get_pair(preferences.generate_and_store_pair(lab, store, both)) for _ in range(12)]
    for pair in shown:
        assert {pair.left.source, pair.right.source} == set(map(str, both)) and pair.left.text != pair.right.text
    assert {pair.left.source for pair in shown} == set(map(str, both))  # by chance alone: 1 in 2,048
    own = store.get_pair(preferences.generate_and_store_pair(lab, store, both, "Who are you? <b>"))
    assert own.prompt[0].content == "Who are you? <b>"


def test_two_that_always_say_the_same_are_no_pair(lab, tmp_path):
    same = preferences.AnswerSource("tiny", "sft", 0.0)
    with pytest.raises(LabError, match="Both models gave the same answer"):
        preferences.generate_and_store_pair(lab, PreferenceStore(tmp_path / "votes.db"), [same, same], "Where is Tom?")


def voted(lab: Lab, store: PreferenceStore, count: int) -> None:
    both = [preferences.AnswerSource("tiny", "sft", 1.0), preferences.AnswerSource("tiny", "ppo", 1.5)]
    for number in range(count):  # short prompts, each another, so that one can be held out and all fit in a row
        store.add_vote(preferences.generate_and_store_pair(lab, store, both, f"Where is Tom? {number}"), "ada", "left")


def test_votes_are_exported_and_counted(lab, tmp_path):
    store = PreferenceStore(tmp_path / "votes.db")
    with pytest.raises(LabError, match="nothing to train on"):
        preferences.export_preferences(store, tmp_path)
    voted(lab, store, 3)
    lines = preferences.export_preferences(store, tmp_path).read_text().splitlines()
    assert len(lines) == 3 and set(json.loads(lines[0])) == {"prompt", "chosen", "rejected"}
    assert sum(int(row[1]) for row in preferences.ratings_table(store)) == 6  # each vote is about two sources


def test_progress_and_card_of_a_run(lab):
    made, jobs = lab.open("tiny"), Jobs(lab.folder)
    rows = runs.stage_progress_rows(made, runs.run_status(jobs, made))
    assert [row[:3] for row in rows] == [[s, "Finished", "6 / 6"] for s in ("pretrain", "sft", "reward", "ppo", "dpo")]
    table = runs.metrics_table(made)
    assert table["headers"] == ["metric", "pretrain", "sft", "reward", "ppo", "dpo"]
    assert all(len(row) == 6 for row in table["data"])
    assert list(runs.curve_figures(made.stage("ppo")))[0] == "reward"


def test_nats_of_tokens_and_of_pairs_stand_apart(lab):
    rows = {row[0]: row[1:] for row in runs.metrics_table(lab.open("tiny"))["data"]}
    token = rows["validation loss before this stage (nats per token)"]
    pair = rows["loss on held-out pairs before this stage (nats per pair)"]
    assert [bool(value) for value in token] == [True, True, False, False, False]
    assert [bool(value) for value in pair] == [False, False, True, False, True]


class Started(Jobs):
    """Starts nothing, and remembers what it was asked to."""

    def __init__(self, folder):
        super().__init__(folder)
        self.asked: list[tuple] = []

    def start(self, name, arguments):
        self.asked.append((name, list(arguments)))


def test_a_run_is_begun_with_flags_and_never_through_a_shell(lab, tmp_path, monkeypatch):
    jobs = Started(lab.folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a; rm -rf b").write_text("One day.")
    assert manage.start_run(lab, jobs, " new ", "smoke", (), 3, "--model.width 32 --text 'a; rm -rf b'") == "new"
    (name, arguments) = jobs.asked[0]
    assert name == "new" and arguments[:7] == [
        "run",
        "--out",
        str(lab.folder / "new"),
        "--preset",
        "smoke",
        "--seed",
        "3",
    ]
    assert arguments[-4:] == ["--model.width", "32", "--text", "a; rm -rf b"]
    for bad, message in (
        ("../x", "not a valid name for a run"),
        ("", "not a valid name"),
        ("tiny", "a run tiny already"),
    ):
        with pytest.raises(LabError, match=message):
            manage.start_run(lab, jobs, bad, "smoke")
    with pytest.raises(LabError, match="cannot be read"):
        manage.start_run(lab, jobs, "other", "smoke", extra_flags="'open")
    with pytest.raises(LabError, match="--out=/tmp/x is set by the fields above"):
        manage.start_run(lab, jobs, "other", "smoke", extra_flags="--model.width 32 --out=/tmp/x")


def test_a_stage_is_made_anew_beside_the_run_it_builds_on(lab):
    jobs = Started(lab.folder)
    with pytest.raises(LabError, match="Choose the stages"):
        manage.start_run(lab, jobs, "other", "tiny")
    manage.start_run(lab, jobs, "other", "tiny", ["dpo"], extra_flags="--dpo.beta 0.5")
    assert jobs.asked[0][1][3:] == ["--build-on", str(lab.folder / "tiny"), "--stages", "dpo", "--dpo.beta", "0.5"]


def test_what_is_finished_is_not_gone_on_with(lab):
    with pytest.raises(LabError, match="tiny is finished"):
        manage.resume_run(lab, Started(lab.folder), "tiny")


def test_the_run_that_comes_with_labkit_is_one_more_run(lab, tmp_path):
    with_demo = Lab(tmp_path / "mine", demo=lab.folder / "tiny")
    assert with_demo.runs_with_model() == ["demo"] and with_demo.language_model_stages(
        "demo"
    ) == lab.language_model_stages("tiny")
    assert with_demo.path("demo") == lab.folder / "tiny"
    with pytest.raises(LabError, match="a run demo already"):
        manage.start_run(with_demo, Started(with_demo.folder), "demo", "smoke")
    store = PreferenceStore(tmp_path / "votes.db")
    both = [preferences.AnswerSource("demo", "sft", 1.0), preferences.AnswerSource("demo", "ppo", 1.5)]
    for number in range(4):
        store.add_vote(
            preferences.generate_and_store_pair(with_demo, store, both, f"Where is Tom? {number}"), "ada", "right"
        )
    assert manage.train_on_votes(with_demo, Started(with_demo.folder), store, "demo")[0] == "demo-votes-1"
    assert with_demo.runs_with_model() == ["demo-votes-1", "demo"]


def test_dpo_on_votes_is_a_run_of_its_own(lab, tmp_path):
    store, jobs = PreferenceStore(tmp_path / "votes.db"), Started(lab.folder)
    with pytest.raises(LabError, match="nothing to train on"):
        manage.train_on_votes(lab, jobs, store, "tiny")
    voted(lab, store, 4)
    new, note = manage.train_on_votes(lab, jobs, store, "tiny")
    assert note.startswith(
        "tiny-votes-1 is trained on the votes that prefer an answer: 4. Too few votes: it will overfit"
    )
    assert new == "tiny-votes-1" and jobs.asked[-1][1][-2:] == ["--stages", "dpo"]
    branched = Run.open(lab.folder / new)
    assert (
        branched.recipe.stages["dpo"].train.max_length == branched.recipe.model.context
    )  # people's prompts may be long
    assert branched.stage("sft").finished and not branched.stage("dpo").exists
    for _ in run(branched.recipe, branched.path, ["dpo"], resume=True):
        pass
    assert branched.stage("dpo").finished
    assert lab.language_model_stages(new) == ["pretrain", "sft", "dpo"]
    votes = branched.recipe.preferences
    assert votes is not None
    before = Path(votes).read_bytes()
    (lab.folder / new).rename(lab.folder / "renamed")  # what it reads stays its own
    voted(lab, store, 1)
    assert manage.train_on_votes(lab, jobs, store, "tiny")[0] == "tiny-votes-2" and Path(votes).read_bytes() == before
    for name in ("renamed", "tiny-votes-2"):
        shutil.rmtree(lab.folder / name)


def test_the_run_that_was_voted_on_is_the_one_to_train(lab, tmp_path):
    """Counted are votes that prefer an answer: a tie or a skip teaches nothing. A pair of two runs counts for both."""
    store = PreferenceStore(tmp_path / "votes.db")
    with_demo = Lab(lab.folder, demo_folder())
    assert manage.voted_runs(with_demo, store) == [("tiny", 0), ("demo", 0)]
    prompt = (Message("user", "Where is Tom?"),)

    def vote(one: str, other: str, choice: str) -> None:
        left, right = (SourcedAnswer(name, str(preferences.AnswerSource(name, "sft", 1.0))) for name in (one, other))
        store.add_vote(store.add_pair(prompt, left, right), "ada", choice)

    for one, other, choice in [("demo", "demo", "left"), ("demo", "tiny", "right"), ("tiny", "tiny", "skip"),
                               ("tiny", "tiny", "tie"), ("gone", "gone", "left")]:  # fmt: skip
        vote(one, other, choice)
    assert manage.voted_runs(with_demo, store) == [("demo", 2), ("tiny", 1)]
    store.undo_last_vote("ada")
    store.undo_last_vote("ada")
    assert sum(store.decisive_votes_by_source_pair().values()) == 2


def test_training_on_votes_that_cannot_begin_leaves_nothing(lab, tmp_path, monkeypatch):
    store, jobs = PreferenceStore(tmp_path / "votes.db"), Started(lab.folder)
    voted(lab, store, 4)

    def there():
        return {path for path in lab.folder.rglob("*") if path.name != ".votes"}

    before = there()
    full = LabError("4 runs are running: a, b, c, d. Stop one of them, or wait.")
    for broken, what in ((jobs, "start"), (Run, "branch"), (manage, "export_preferences")):
        with monkeypatch.context() as patch:
            patch.setattr(broken, what, raising(full))
            with pytest.raises(LabError, match="4 runs are running"):
                manage.train_on_votes(lab, jobs, store, "tiny")
        assert there() == before


def raising(error):
    def call(*args, **options):
        raise error

    return call


def test_a_branch_needs_what_it_begins_with(lab, tmp_path):
    made = lab.open("tiny")
    unfinished = Run.create(tmp_path / "fresh", made.recipe)
    with pytest.raises(LabError, match="has not finished pretrain, sft"):
        unfinished.branch(tmp_path / "other", replace(made.recipe, seed=1), ["pretrain", "sft"])
    assert not (tmp_path / "other").exists()


def test_two_runs_side_by_side(lab):
    with_demo = Lab(lab.folder, demo_folder())
    told, table = runs.run_comparison_table(with_demo, "tiny", "demo")
    assert not told["visible"] and table["headers"] == ["stage", "metric", "tiny", "demo", "difference"]
    assert table["data"] and all(len(row) == 5 for row in table["data"])


def test_why_two_runs_are_not_compared_is_said_above_an_empty_table(lab):
    """In words, without the place of a file on this machine."""
    Run.create(lab.folder / "fresh", tiny_recipe())
    try:
        for other, words in [
            ("fresh", "fresh cannot be compared yet: no stage of it is finished."),
            ("tiny", "tiny is compared with itself. Choose another run."),
            ("other", "There is no run 'other' in "),
            (None, "Choose another run"),
        ]:
            told, table = runs.run_comparison_table(lab, "tiny", other)
            assert told["visible"] and told["value"].startswith(words) and table["data"] == []
            assert str(lab.folder) not in told["value"]
    finally:
        shutil.rmtree(lab.folder / "fresh")


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


def test_the_two_models_at_first_are_two(lab, tmp_path):
    """Of a run with one model, and another run: the newest of each. Of one model alone there is no other."""
    for name, stages in (("new", ["pretrain"]), ("old", ["pretrain", "sft"])):
        shutil.copytree(lab.folder / "tiny", tmp_path / name)
        for stage in {"pretrain", "sft", "reward", "ppo", "dpo"} - set(stages):
            shutil.rmtree(tmp_path / name / stage)
    os.utime(tmp_path / "old", (0, 0))
    assert preferences.default_model_pair(Lab(tmp_path)) == [("new", "pretrain"), ("old", "sft")]
    shutil.rmtree(tmp_path / "old")
    assert preferences.default_model_pair(Lab(tmp_path)) == [("new", "pretrain")] * 2
    assert preferences.default_model_pair(Lab(tmp_path / "nowhere")) == []


def test_a_dialogue_is_shown_whole():
    one = (Message("user", "Where is Tom?"),)
    assert preferences.format_dialogue(one) == "Where is Tom?"
    more = (*one, Message("assistant", "At home."), Message("user", "And Ann?"))
    assert preferences.format_dialogue(more) == "user: Where is Tom?\n\nassistant: At home.\n\nuser: And Ann?"


@pytest.mark.parametrize("hot", [-0.1, 2.1, float("nan"), float("inf"), "warm", None, True])
def test_what_is_no_temperature_is_said(hot):
    if hot is True:
        assert preferences.checked_answer_source("a", "b", hot).temperature == 1
        return
    with pytest.raises(LabError, match="The temperature must be a number from 0 to 2"):
        preferences.checked_answer_source("a", "b", hot)


def test_prompts_and_names_have_an_end(lab, tmp_path):
    two = [preferences.AnswerSource("tiny", "sft", 1.0), preferences.AnswerSource("tiny", "ppo", 1.0)]
    with pytest.raises(LabError, match="at most 20,000 characters, not 20,001"):
        preferences.generate_and_store_pair(lab, PreferenceStore(tmp_path / "votes.db"), two, "x" * 20_001)
    with pytest.raises(LabError, match="at most 100 characters"):
        preferences.checked_annotator_name("x" * 101)
    for name in (None, 3):
        with pytest.raises(LabError, match=f"The voter's name must be text, not {name}"):
            preferences.checked_annotator_name(name)
    assert [preferences.checked_annotator_name(name) for name in ("", "  ", "ada")] == ["anonymous", "anonymous", "ada"]


def test_an_export_says_which_votes_are_in_it(lab, tmp_path):
    """Fewer than were counted after each vote."""
    store = PreferenceStore(tmp_path / "votes.db")
    voted(lab, store, 2)
    both = [preferences.AnswerSource("tiny", "sft", 1.0), preferences.AnswerSource("tiny", "ppo", 1.5)]
    store.add_vote(preferences.generate_and_store_pair(lab, store, both, "Where is Tom?"), "ada", "skip")
    file, told = preferences._save(store)
    assert (
        told["value"] == "Votes that prefer an answer: 2 of 3. Ties, both bad and skips are left out."
        and file["visible"]
    )


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
