"""Single answers with a label or a rating, as files have them, and what is refused beside them."""

import json

import pytest

from labkit.commands.main import main
from labkit.commands.read import format_row, read_rows
from labkit.errors import LabError
from labkit.text.reading import read_preferences
from labkit.text.reading.unpaired import parse_label
from labkit.text.unpaired import LabeledAnswer, RatedAnswer, SingleAnswer, single_answer_to_row
from labkit.world import Message
from tests.text.reading.samples import jsonl, talks

ASKED = [{"role": "user", "content": "Where is {n}?"}]
ANSWER = {"role": "assistant", "content": "In Lund {n}."}
TRANSCRIPT = "\n\nHuman: Where is {n}?\n\nAssistant: In Lund {n}."


def numbered(*rows, size=8):
    """The rows in turn, {n} being the number of each."""
    return [json.loads(json.dumps(rows[n % len(rows)]).replace("{n}", str(n))) for n in range(size)]


def read(tmp_path, *rows, size=8):
    found = read_preferences(jsonl(tmp_path / "p.jsonl", numbered(*rows, size=size)))
    assert not found.train and not found.validation and not found.rankings
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where is {n}?", "completion": "In Lund {n}."},
        {"prompt": ASKED, "completion": [ANSWER]},
        {"prompt": ASKED, "completion": [*ASKED, ANSWER]},
        {"instruction": "Where is {n}?", "input": "", "output": " In Lund {n}."},
        {"messages": [*ASKED, ANSWER]},
        {"conversations": json.dumps([*ASKED, ANSWER])},
        {"text": TRANSCRIPT},
        {"completion": TRANSCRIPT},
    ],
    ids=["trl", "messages", "whole conversation", "alpaca", "llamafactory", "as text", "transcript", "hh"],
)
def test_an_answer_with_a_label_in_every_shape(tmp_path, row):
    found = read(tmp_path, {**row, "label": True}, {**row, "label": False})
    assert found.answers.kind == "labels" and len(found.answers.validation) == 1
    every = sorted((*found.answers.train, *found.answers.validation), key=str)
    prompts = [(Message("user", f"Where is {n}?"),) for n in range(8)]
    assert every == [LabeledAnswer(prompt, f"In Lund {n}.", n % 2 == 0) for n, prompt in enumerate(prompts)]
    assert sorted((*found.train_prompts, *found.validation_prompts)) == prompts
    assert found.reading.unused == [] and found.reading.kept == 8
    assert found.reading.warnings == ["Single answers with a label: 4 good, 4 bad."]


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("label", 1, 0),
        ("label", "TRUE", "false"),
        ("kto_tag", True, False),
        ("label", 1.0, "0"),
        ("feedback", "thumbs_up", "Thumbs Down"),
        ("thumbs", "up", "down"),
        ("vote", "👍🏽", "👎"),
        ("rating", "like", "dislike"),
        ("score", True, False),
    ],
)
def test_the_words_of_labels(tmp_path, column, good, bad):
    row = {"prompt": "Where is {n}?", "response": "In Lund {n}."}
    found = read(tmp_path, {**row, column: good}, {**row, column: bad})
    assert [answer.label for answer in found.answers.train].count(True) in (3, 4)
    assert found.reading.warnings == ["Single answers with a label: 4 good, 4 bad."]
    assert [parse_label(value) for value in (good, bad)] == [True, False]


def test_what_is_no_label():
    values: tuple[object, ...] = ("", "fine", 0.5, 2, -1, None, "thumb", [], {"up": 1})
    assert {parse_label(value) for value in values} == {None}


@pytest.mark.parametrize("column", ["rating", "score", "overall_score", "reward", "helpfulness"])
def test_an_answer_with_a_number(tmp_path, column):
    row = {"prompt": "Where is {n}?", "response": "In Lund {n}."}
    found = read(tmp_path, {**row, column: 4}, {**row, column: "1.5"}, {**row, column: 1})
    assert found.answers.kind == "ratings" and {one.rating for one in found.answers.train} <= {4.0, 1.5, 1.0}
    assert found.reading.warnings == ["Single answers with a rating: from 1 to 4, mean 2.31."]


def test_of_a_row_with_both_the_label_is_read_and_that_is_said(tmp_path):
    row = {"prompt": "Where is {n}?", "completion": "In Lund {n}.", "score": 3}
    found = read(tmp_path, {**row, "label": True}, {**row, "label": False})
    assert found.answers.kind == "labels" and found.reading.unused == ["column score"]


def test_rows_that_are_not_understood_are_counted_with_their_lines(tmp_path):
    good = {"prompt": "Where is {n}?", "completion": "In Lund {n}.", "label": True}
    rows = [good] * 16 + [
        {**good, "label": "fine"},
        {**good, "label": None},
        {**good, "completion": ""},
        {**good, "prompt": ""},
        {**good, "completion": [*ASKED]},
    ]
    found = read(tmp_path, *rows, size=21)
    assert found.reading.read == 21 and found.reading.kept == 16
    assert found.reading.dropped == {
        "label": 1,
        "unknown columns": 1,
        "empty answer": 1,
        "empty prompt": 1,
        "answer with the wrong role": 1,
    }
    assert "label: p.jsonl, line 17" in found.reading.warnings


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"label": "fine"}, r"line 1 has the label 'fine' beside its answer; true \(1\) or false \(0\) is needed"),
        ({"label": 3}, "line 1 has the label 3 .* A number on a scale stands in a column rating"),
        ({"rating": 10**400}, "as its rating, which is not a number"),
        ({"rating": "4 stars"}, "line 1 has '4 stars' as its rating, which is not a number"),
        ({"score": float("inf")}, "line 1 has inf as its score, which is not a number"),
        ({}, r"line 1 has the columns .* single answers with a label \(true or false\) or a rating \(a number\)"),
        ({"response": "In Oslo.", "label": True}, "has both response and completion"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(tmp_path, row, words):
    rows = numbered({"prompt": "Where is {n}?", "completion": "In Lund {n}.", **row})
    with pytest.raises(LabError, match=words):
        read_preferences(jsonl(tmp_path / "p.jsonl", rows))


def test_files_of_two_kinds_and_of_one_prompt_are_refused(tmp_path):
    row = {"prompt": "Where is {n}?", "completion": "In Lund {n}."}
    pair = {"prompt": "Where is {n}?", "chosen": "In Lund.", "rejected": "No."}
    words = "p.jsonl has 5 rows of single answers with a label and 4 rows of pairs or ranked lists. .* file of its own"
    with pytest.raises(LabError, match=words):
        read_preferences(jsonl(tmp_path / "p.jsonl", numbered({**row, "label": 1}, pair, size=9)))
    with pytest.raises(LabError, match="4 rows of single answers with a label and 4 rows of single answers with a rat"):
        read_preferences(jsonl(tmp_path / "p.jsonl", numbered({**row, "label": 1}, {**row, "rating": 3})))
    with pytest.raises(LabError, match="all 8 answers have the same prompt"):
        read_preferences(jsonl(tmp_path / "p.jsonl", numbered({**row, "prompt": "Where?", "label": 1})))


def test_a_copied_question_is_removed_and_copies_stay(tmp_path):
    row = {
        "prompt": "Where in all of Lund is {n}?",
        "completion": "Where in all of Lund is {n}? In a park.",
        "label": 1,
    }
    found = read(tmp_path, *[row] * 2)
    assert {one.completion for one in found.answers.train} == {"In a park."}
    twice = jsonl(tmp_path / "q.jsonl", numbered(row) * 2)
    assert len(read_preferences(twice).answers.train) == 14


def test_instructions_take_the_same_words(tmp_path):
    row = {"prompt": "Hi {n}", "completion": "Yes."}
    found, reading = talks(
        jsonl(tmp_path / "r.jsonl", numbered({**row, "label": "👍"}, {**row, "label": "thumbs down"}))
    )
    assert len(found) == 4 and reading.dropped == {"label false": 4}


def test_what_is_written_is_read_and_shown(tmp_path, capsys):
    kept: dict[str, list[SingleAnswer]] = {
        "label": [LabeledAnswer((Message("user", f"Where is {n}?"),), "In Lund.", n > 3) for n in range(8)],
        "rating": [RatedAnswer((Message("user", f"Where is {n}?"),), "In Lund.", n / 2) for n in range(8)],
    }
    for name, answers in kept.items():
        path = jsonl(tmp_path / f"{name}.jsonl", [single_answer_to_row(one) for one in answers])
        rows, _ = read_rows(str(path), "preferences")
        assert rows == [single_answer_to_row(one) for one in answers]
        shown = {"label": "label: bad", "rating": "rating: 0"}[name]
        assert format_row(rows[0]).splitlines() == ["user: Where is 0?", "completion: In Lund.", shown]
        assert main(["read", str(path), "--as", "preferences"]) == 0
        said = capsys.readouterr().out
        assert "read 8, kept 8, dropped none" in said and f"Single answers with a {name}" in said and shown in said
