"""The Decoding tab, without a browser: texts under several strategies, and what is asked of them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from labkit.decoding.strategies import parse_strategy
from labkit.errors import LabError
from labkit.evaluation.strategies import EvalPrompt, compare_strategies
from labkit.runs.pipeline import run
from labkit.ui import decoding, writing
from labkit.ui.decoding_settings import DecodingSettings, StrategyColumn
from labkit.ui.lab import Lab
from labkit.ui.strategy_scores import score_strategies
from tests.tiny_recipe import tiny_recipe


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
    steps = list(score_strategies(lab, settings, 11))
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
            list(score_strategies(lab, asked("greedy"), seeds))


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
