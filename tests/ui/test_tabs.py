"""What stands behind the tabs, without a browser."""

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.jobs import Jobs
from labkit.paths import demo_folder
from labkit.pipeline import run
from labkit.preferences.store import Store
from labkit.runs import Run
from labkit.ui import attention, decoding, preferences, runs, writing
from labkit.ui.lab import Lab
from labkit.ui.words import CHINESE, ENGLISH
from labkit.ui.writing import Column, Settings
from tests.tiny_recipe import tiny_recipe


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    """A lab with one finished run, `tiny`."""
    folder = tmp_path_factory.mktemp("runs")
    for _ in run(tiny_recipe(), folder / "tiny"):
        pass
    return Lab(folder)


def test_the_lab_knows_runs_and_stages_that_write(lab):
    assert lab.names() == ["tiny"] == lab.all_names()
    assert lab.stages("tiny") == ["pretrain", "sft", "ppo", "dpo"]
    assert Lab(lab.folder / "nowhere").names() == []
    for name in ("", "../tiny", "tiny/pretrain", "other"):
        with pytest.raises(LabError, match="no run"):
            lab.run(name)


def test_models_are_loaded_once_and_again_when_they_change(lab):
    first = lab.model("tiny", "sft")
    assert lab.model("tiny", "sft") is first
    weights = lab.folder / "tiny" / "sft" / "model.safetensors"
    weights.touch()
    assert lab.model("tiny", "sft") is not first
    with pytest.raises(LabError, match="reward model"):
        lab.model("tiny", "reward")


def test_attention_of_a_text(lab):
    data = attention.look(lab, "tiny", "sft", attention.OPENING)
    (map_,) = data["maps"]
    assert "".join(map_["rows"]).endswith("too tired.") and (map_["layers"], map_["heads"]) == (1, 1)
    assert (
        data["stages"] == ["pretrain", "sft", "ppo", "dpo"] and data["stage"] == "sft" and data["focus"][:2] == [0, 0]
    )
    assert "focus" not in attention.look(lab, "tiny", "sft", "Where is Tom?")
    question = {**data["subject"], "stage": "dpo", "what": "without", "map": 0, "layer": 0, "head": 0, "kind": "mean"}
    assert attention.answer(lab, question)["nats"] >= 0
    wrong: dict[str, Any] = {"run": "none", "text": " ", "head": 1}
    for (name, value), message in zip(wrong.items(), ["no run 'none'", "type a text", "no head 1"], strict=True):
        assert message in attention.answer(lab, {**question, name: value})["error"]
    assert "no run" in attention.answer(lab, {})["error"]
    with pytest.raises(LabError, match="cannot be looked at"):
        attention.look(lab, "tiny", "sft", "tired " * 200)


def test_heads_and_patches_of_the_run_that_comes_with_labkit(lab):
    demo = Lab(lab.folder, demo_folder())
    said, rows = attention.heads_found(demo, "demo", "sft")
    assert said.startswith("48 texts of TinyWorld: whom “it” stands for is told right in 100%") and len(rows) == 8
    assert "everyday English" in attention.about_opening(demo, "demo", "sft")
    grid = attention.patched(demo, "demo", "sft", *attention.PATCHED, "The")
    assert len(grid["rows"]) == 5 and grid["rows"][0] == "layer 4" and grid["values"][0][-1] == 1
    assert "horse" in grid["note"] and any("→" in label for label in grid["columns"])
    with pytest.raises(LabError, match="must have as many"):
        attention.patched(demo, "demo", "sft", "Where is Tom?", "Where?", "")


def asked(*lines: str, **options: Any) -> Settings:
    given: dict[str, Any] = {"run": "tiny", "stage": "sft", "prompt": "Where is Tom?", "tokens": 12} | options
    return Settings(columns=tuple(Column(line) for line in lines), **given)


def last(lab: Lab, settings: Settings) -> dict[str, Any]:
    *_, final = writing.compare(lab, settings)
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
    again = last(lab, Settings.of_link(link))
    assert again["columns"] == first["columns"] and again["settings"] == first["settings"]
    ids = [token["id"] for token in first["columns"][0]["tokens"]]
    begins = [*ids[: len(ids) // 2], 17]
    column = {"strategy": line, "begins": begins}
    branch = writing.answer(lab, {"what": "branch", "settings": first["settings"], "column": column})
    assert [token["id"] for token in branch["tokens"]][: len(begins)] == begins
    with_branch = {**first["settings"], "columns": [*first["settings"]["columns"], column]}
    both = last(lab, Settings.of_link(json.dumps(with_branch)))["columns"]
    assert both[0]["tokens"] == first["columns"][0]["tokens"] and both[1]["tokens"] == branch["tokens"]


def test_a_token_is_looked_at_and_filters_change_places(lab):
    """What is removed at a step depends on the order; the draw's own token is among the candidates."""
    first = last(lab, asked("temperature=2 top-p=0.5", seed=1))
    ids = [token["id"] for token in first["columns"][0]["tokens"]]

    def step(line: str) -> dict[str, Any]:
        column = {"strategy": line, "begins": ids[:4]}
        return writing.answer(lab, {"what": "step", "settings": first["settings"], "column": column})

    one, other = step("temperature=2 top-p=0.5"), step("top-p=0.5 temperature=2")
    assert one["names"] == ["temperature=2", "top-p=0.5"] and other["names"] == one["names"][::-1]
    assert one["effects"][0][0] == 0 and one["effects"][1][0] > 0.3
    assert other["effects"][0][2] < one["effects"][1][2]  # the nucleus of the sharper distribution is smaller
    assert ids[3] in [token for token, *_ in one["candidates"]]
    assert step("top-p=0")["error"].startswith("TopP must be above 0")


def test_the_tree_of_beams_ends_in_the_text(lab):
    first = last(lab, asked("beam beams=3"))
    tree = writing.answer(
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
    refused = writing.answer(
        lab, {"what": "tree", "settings": first["settings"], "column": {"strategy": "greedy", "begins": []}}
    )
    assert "Only beam search" in refused["error"]


def test_strategies_are_scored_over_seeds(lab):
    heads, rows = decoding.score_table(lab, asked("greedy", "temperature=1.5"), 3)
    assert heads[:3] == ["strategy", "nats a token", "repetition"] and "self-BLEU" in heads and "grammatical" in heads
    assert [row[0] for row in rows] == ["greedy", "temperature=1.5"] and "±" in " ".join(rows[1])
    with pytest.raises(LabError, match="1 to 256 seeds, not 0"):
        decoding.score_table(lab, asked("greedy"), 0)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"seed": -5}, "A seed is a whole number from 0 to 4294967295, not -5"),
        ({"seed": 10**23}, "A seed is a whole number"),
        ({"tokens": 0}, "from 1 to 1000 new tokens, not 0"),
        ({"columns": []}, "From 1 to 12 strategies are compared, not 0"),
        ({"columns": [{"strategy": "greedy"}]}, "no settings of a comparison: KeyError 'begins'"),
        ({"columns": [{"strategy": "greedy", "begins": [10**9]}]}, "no token 1000000000 in this model's vocabulary"),
        ({"columns": [{"strategy": "top-p=0", "begins": []}]}, "TopP must be above 0"),
        ({"columns": [{"strategy": "temperature=-1", "begins": []}]}, "Temperature must be 0"),
        ({"columns": [{"strategy": "beam beams=0", "begins": []}]}, "at least one beam, not 0"),
        ({"columns": [{"strategy": "warm", "begins": []}]}, "There is no strategy 'warm'"),
        ({"run": "none"}, "no run 'none'"),
        ({"stage": "none"}, "none"),
        ({"prompt": "word " * 900}, "no room in a context"),
        ({"prompt": " "}, "nothing to reply to: type a prompt"),
        ({"stop": [1]}, None),
    ],
)
def test_what_cannot_be_written_is_said(lab, change, message):
    raw = {**asked("greedy").json(), **change}
    if message is None:
        last(lab, Settings.read(raw))
        return
    with pytest.raises(LabError, match=message):
        last(lab, Settings.read(raw))
    column = (raw["columns"] or [{"strategy": "greedy"}])[0]
    assert "error" in writing.answer(lab, {"what": "branch", "settings": raw, "column": column})


def test_a_link_that_cannot_be_followed_is_said(lab):
    good = json.dumps(asked("greedy").json())
    settings, said = decoding.from_link(lab, good)
    assert settings == asked("greedy") and said == ""
    _, said = decoding.from_link(lab, json.dumps(asked("greedy", checkpoint="0" * 12).json()))
    assert "others than when this link was made" in said
    for text, message in [(good[:-9], "no settings that can be read"), ("[]", "no settings of a comparison")]:
        with pytest.raises(LabError, match=message):
            decoding.from_link(lab, text)
    with pytest.raises(LabError, match="of a run 'gone', not found here"):
        decoding.from_link(lab, json.dumps(asked("greedy", run="gone").json()))


def test_what_cannot_be_looked_at_or_compared_is_said(lab):
    with pytest.raises(LabError, match="type a text"):
        attention.look(lab, "tiny", "sft", "  ")


def test_texts_that_were_stopped_are_over():
    columns: list[dict[str, Any]] = [{"tokens": [1], "done": False}, {"tokens": [2], "done": True}]
    found = writing.stopped({"columns": columns, "parts": 3})
    assert found is not None and found["parts"] == 3
    assert [(column["done"], column["stopped"]) for column in found["columns"]] == [(True, True), (True, False)]
    assert writing.stopped(None) is None


def test_where_texts_end_alike_they_do_not_part(lab):
    """An end that was drawn, and one that another strategy came to, are the same end; both can be looked at."""
    found = last(lab, asked("greedy", "contrastive k=1 alpha=0", tokens=60))
    one, other = found["columns"]
    assert [token["text"] for token in one["tokens"]] == [token["text"] for token in other["tokens"]]
    assert one["tokens"][-1]["ended"] and other["tokens"][-1]["ended"] and found["parts"] is None
    ids = [token["id"] for token in other["tokens"]]
    column = {"strategy": "greedy", "begins": ids}
    end = writing.answer(lab, {"what": "step", "settings": found["settings"], "column": column})
    assert ids[-1] in [token for token, *_ in end["candidates"]]


def test_a_stop_text_is_shown_as_one(lab):
    story = {"stage": "pretrain", "prompt": "One day"}
    for line in ("greedy", "contrastive k=1 alpha=0"):
        free = last(lab, asked(line, **story))["columns"][0]["tokens"]
        text = free[2]["text"]
        tokens = last(lab, asked(line, stop=(text,), **story))["columns"][0]["tokens"]
        assert tokens[-1]["ended"] and tokens[-1]["stop"] and len(tokens) <= 4


def test_pairs_are_blind_and_sides_are_drawn(lab, tmp_path):
    store = Store(tmp_path / "votes.db")
    both = [preferences.Source("tiny", "sft", 1.0), preferences.Source("tiny", "pretrain", 1.5)]
    shown = [store.pair(preferences.new_pair(lab, store, both)) for _ in range(12)]
    for pair in shown:
        assert {pair.left.source, pair.right.source} == set(map(str, both)) and pair.left.text != pair.right.text
    assert {pair.left.source for pair in shown} == set(map(str, both))  # by chance alone: 1 in 2,048
    own = store.pair(preferences.new_pair(lab, store, both, "Who are you? <b>"))
    assert own.prompt[0].content == "Who are you? <b>"


def test_two_that_always_say_the_same_are_no_pair(lab, tmp_path):
    same = preferences.Source("tiny", "sft", 0.0)
    with pytest.raises(LabError, match="Both said the same"):
        preferences.new_pair(lab, Store(tmp_path / "votes.db"), [same, same], "Where is Tom?")


def voted(lab: Lab, store: Store, count: int) -> None:
    both = [preferences.Source("tiny", "sft", 1.0), preferences.Source("tiny", "ppo", 1.5)]
    for number in range(count):  # short prompts, each another, so that one can be held out and all fit in a row
        store.vote(preferences.new_pair(lab, store, both, f"Where is Tom? {number}"), "ada", "left")


def test_votes_are_exported_and_counted(lab, tmp_path):
    store = Store(tmp_path / "votes.db")
    with pytest.raises(LabError, match="nothing to train on"):
        preferences.export(store, tmp_path)
    voted(lab, store, 3)
    lines = preferences.export(store, tmp_path).read_text().splitlines()
    assert len(lines) == 3 and set(json.loads(lines[0])) == {"prompt", "chosen", "rejected"}
    assert sum(int(row[1]) for row in preferences.table(store)) == 6  # each vote is about two sources


def test_progress_and_card_of_a_run(lab):
    made = lab.run("tiny")
    rows = runs.progress(made, running=False)
    assert [row[:3] for row in rows] == [[s, "finished", "6 of 6"] for s in ("pretrain", "sft", "reward", "ppo", "dpo")]
    table = runs.card(made)
    assert table["headers"] == ["measure", "pretrain", "sft", "reward", "ppo", "dpo"]
    assert all(len(row) == 6 for row in table["data"])
    assert list(runs.drawn(made.stage("ppo")))[0] == "reward"


class Started(Jobs):
    """Starts nothing, and remembers what it was asked to."""

    def __init__(self, folder):
        super().__init__(folder)
        self.asked: list[tuple] = []

    def start(self, name, arguments):
        self.asked.append((name, list(arguments)))


def test_a_run_is_begun_with_flags_and_never_through_a_shell(lab):
    jobs = Started(lab.folder)
    assert runs.begin(lab, jobs, " new ", "smoke", (), 3, "--model.width 32 --text 'a; rm -rf b'") == "new"
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
    for bad, message in (("../x", "no name for a run"), ("", "no name"), ("tiny", "a run tiny already")):
        with pytest.raises(LabError, match=message):
            runs.begin(lab, jobs, bad, "smoke")
    with pytest.raises(LabError, match="cannot be read"):
        runs.begin(lab, jobs, "other", "smoke", more="'open")
    with pytest.raises(LabError, match="--out=/tmp/x is chosen by the fields above"):
        runs.begin(lab, jobs, "other", "smoke", more="--model.width 32 --out=/tmp/x")


def test_a_stage_is_made_anew_beside_the_run_it_builds_on(lab):
    jobs = Started(lab.folder)
    with pytest.raises(LabError, match="Choose the stages"):
        runs.begin(lab, jobs, "other", "tiny")
    runs.begin(lab, jobs, "other", "tiny", ["dpo"], more="--dpo.beta 0.5")
    assert jobs.asked[0][1][3:] == ["--build-on", str(lab.folder / "tiny"), "--stages", "dpo", "--dpo.beta", "0.5"]


def test_what_is_finished_is_not_gone_on_with(lab):
    with pytest.raises(LabError, match="tiny is finished"):
        runs.resume(lab, Started(lab.folder), "tiny")


def test_the_run_that_comes_with_labkit_is_one_more_run(lab, tmp_path):
    with_demo = Lab(tmp_path / "mine", demo=lab.folder / "tiny")
    assert with_demo.names() == ["demo"] and with_demo.stages("demo") == lab.stages("tiny")
    assert with_demo.path("demo") == lab.folder / "tiny"
    with pytest.raises(LabError, match="a run demo already"):
        runs.begin(with_demo, Started(with_demo.folder), "demo", "smoke")
    store = Store(tmp_path / "votes.db")
    both = [preferences.Source("demo", "sft", 1.0), preferences.Source("demo", "ppo", 1.5)]
    for number in range(4):
        store.vote(preferences.new_pair(with_demo, store, both, f"Where is Tom? {number}"), "ada", "right")
    assert runs.train_on_votes(with_demo, Started(with_demo.folder), store, "demo")[0] == "demo-votes-1"
    assert with_demo.names() == ["demo-votes-1", "demo"]


def test_dpo_on_votes_is_a_run_of_its_own(lab, tmp_path):
    store, jobs = Store(tmp_path / "votes.db"), Started(lab.folder)
    with pytest.raises(LabError, match="nothing to train on"):
        runs.train_on_votes(lab, jobs, store, "tiny")
    voted(lab, store, 4)
    new, note = runs.train_on_votes(lab, jobs, store, "tiny")
    assert note.startswith("tiny-votes-1 learns from 4 votes. So few are soon known by heart")
    assert new == "tiny-votes-1" and jobs.asked[-1][1][-2:] == ["--stages", "dpo"]
    branched = Run.open(lab.folder / new)
    assert branched.stage("sft").finished and not branched.stage("dpo").begun
    for _ in run(branched.recipe, branched.path, ["dpo"], resume=True):
        pass
    assert branched.stage("dpo").finished
    assert lab.stages(new) == ["pretrain", "sft", "dpo"]


def test_a_branch_needs_what_it_begins_with(lab, tmp_path):
    made = lab.run("tiny")
    unfinished = Run.create(tmp_path / "fresh", made.recipe)
    with pytest.raises(LabError, match="has not finished pretrain, sft"):
        unfinished.branch(tmp_path / "other", replace(made.recipe, seed=1), ["pretrain", "sft"])
    assert not (tmp_path / "other").exists()


def test_two_runs_side_by_side(lab):
    assert runs.beside(lab, "tiny", None) == []
    table = runs.beside(lab, "tiny", "tiny")
    assert table and all(len(row) == 5 for row in table)
    assert runs.beside(lab, "tiny", "other")[0][1].startswith("There is no run 'other'")


def test_both_languages_have_the_same_words():
    assert ENGLISH.keys() == CHINESE.keys() and all(CHINESE.values())


def test_menus_that_are_not_filled_yet_stand_for_what_they_will_say_first(lab, tmp_path):
    """A page is there before its menus are; whoever is quick asks the same pair as one who waits."""
    shutil.copytree(lab.folder / "tiny", tmp_path / "tiny")
    lab = Lab(tmp_path)
    quick = [preferences._source(lab, place, None, None, 1.0) for place in preferences.PLACES]
    assert quick == [preferences.Source("tiny", "dpo", 1.0), preferences.Source("tiny", "sft", 1.0)]
    assert preferences._source(lab, -1, "tiny", "ppo", 0.5) == preferences.Source("tiny", "ppo", 0.5)
    assert preferences._source(Lab(lab.folder / "nowhere"), -1, None, None, 1.0).name == ""
