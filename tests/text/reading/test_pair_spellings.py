"""Preference pairs in the spellings that people have them in, and what is refused rather than guessed."""

import json

import pytest

from labkit.errors import LabError
from tests.text.reading.samples import TURNS, jsonl, pairs, talks

PAIR = {"chosen": "Yes {}.", "rejected": "No."}
SIDES = [TURNS, [TURNS[0], {"role": "assistant", "content": "No."}]]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi {}?", **PAIR},
        {"Prompt": TURNS[:1], **PAIR},
        {"prompt": TURNS[:1], "chosen": SIDES[0], "rejected": SIDES[1]},
        {"prompt": "Hi {}?", "chosen": TURNS[1], "rejected": SIDES[1][1]},
        {"conversations": [{"from": "human", "value": "Hi {}?"}], "chosen": {"from": "gpt", "value": "Yes {}."},
         "rejected": {"from": "gpt", "value": "No."}},
        {"chosen": json.dumps(SIDES[0]), "rejected": json.dumps(SIDES[1])},
        {"chosen": "Human: Hi {}?\nAssistant: Yes {}.", "rejected": "Human: Hi {}?\nAssistant: No."},
        {"prompt": "\n\nHuman: Hi {}?\n\nAssistant:", "chosen": " Yes {}.", "rejected": " No."},
        {"prompt": "Hi {}?", "chosen": "Hi {}? Yes {}.", "rejected": "Hi {}? No."},
        {"prompt": "Hi {}?", "chosen_response": "Yes {}.", "rejected_response": ["No."]},
        {"prompt": "Hi {}?", "answer_a": "No.", "answer_b": "Yes {}.", "chosen": "b", "rejected": "a"},
        {"prompt": "Hi {}?", "answer_a": "No.", "answer_b": "Yes {}.", "chosen": "Answer B"},
        {"prompt": "Hi {}?", "response_1": "No.", "response_2": "Yes {}.", "chosen": 2, "rejected": "1"},
        {"prompt": "Hi {}?", "responses": ["Yes {}.", "No."], "chosen": 0, "rejected": 1},
        {"prompt": "Hi {}?", "responses": ["Yes {}.", "No."], "chosen": 1, "rejected": 2},
        {"prompt": "Hi {}?", "responses": ["No.", "Yes {}."], "chosen": "Yes {}.", "rejected": "No."},
        {"prompt": "Hi {}?", "gpt": "Yes {}.", "llama": "No.", "chosen": "gpt", "rejected": "llama"},
        {"prompt": "Hi {}?", "model_a": "gpt-4", "model_b": "llama", "response_a": "Yes {}.", "response_b": "No.",
         "chosen": "model_a", "rejected": "model_b"},
        {"prompt": "Hi {}?", "response_0": "Yes {}.", "response_1": "No.", "chosen": 0.0, "rejected": 1.0},
        {"prompt": "Hi {}?", "response_0": "Yes {}.", "response_1": "No.", "chosen": "0.0", "rejected": "1.0"},
        {"prompt": "Hi {}?", "responses": {"a": "Yes {}.", "b": "No."}, "chosen": "a", "rejected": "b"},
        {"prompt": "Hi {}?", "responses": '["Yes {}.", "No."]', "chosen": "0", "rejected": "1"},
        {"prompt": "Hi {}?", "responses": "['Yes {}.', 'No.']", "chosen": "0", "rejected": "1"},
        {"prompt": "Hi {}?", "all_responses": ["Yes {}.", "No."], "chosen": 0, "rejected": 1},
        {"prompt": "Hi {}?", "answers": [{"id": "x1", "text": "Yes {}."}, {"id": "x2", "text": "No."}],
         "chosen": "x1", "rejected": "x2"},
        {"prompt": "Hi {}?", "answer_a": "Yes {}.", "answer_b": "No.", "chosen": "Assistant A",
         "rejected": "Assistant B"},
        {"prompt": "Hi {}?", "answer_a": "Yes {}.", "answer_b": "No.", "chosen": "[[A]]", "rejected": "[[B]]"},
        {"prompt": "Hi {}?", "answer_a": "Yes {}.", "answer_b": "No.", "chosen": "(A)", "rejected": "(B)"},
        {"prompt": "Hi {}?", "response_1": "Yes {}.", "response_2": "No.", "chosen": "first", "rejected": "second"},
        {"prompt": "Hi {}?", "answer_a": "No.", "answer_b": "Yes {}.", "winner": "b"},
        {"prompt": "Hi {}?", "response_1": "Yes {}.", "response_2": "No.", "preference": "response_1"},
        {"prompt": "Hi {}?", "model_a": "gpt", "model_b": "llama", "response_a": "No.", "response_b": "Yes {}.",
         "winner": "model_b"},
        {"prompt": "Hi {}?", "model_a": "gpt", "model_b": "llama", "response_a": "No.", "response_b": "Yes {}.",
         "chosen": "model_b", "rejected": "model_a"},
        {"prompt": "Hi {}?", "responses": ["Yes {}.", "No."], "winner": 0},
        {"prompt": "Hi {}?", "responses": ["No.", "Yes {}."], "winner": "2"},
        {"prompt": "Hi {}?", "chosen": json.dumps(TURNS[1]), "rejected": json.dumps(SIDES[1][1])},
    ],
)  # fmt: skip
def test_a_pair_is_the_same_in_every_spelling(tmp_path, row):
    rows = [json.loads(json.dumps(row).replace("{}", str(n))) for n in range(4)]
    wanted = [([("user", f"Hi {n}?")], f"Yes {n}.", "No.") for n in range(4)]
    assert pairs(jsonl(tmp_path / "rows.jsonl", rows))[0] == wanted


def test_the_system_turn_of_a_pair_is_part_of_its_prompt(tmp_path):
    row = {"prompt": TURNS[:1], "system": "Be brief.", "chosen": SIDES[0], "rejected": SIDES[1]}
    found, _ = pairs(jsonl(tmp_path / "rows.jsonl", [json.loads(json.dumps(row).replace("{}", "1")), *[
        {"prompt": "Why?", "system": "Be brief.", **PAIR}]]))  # fmt: skip
    assert [prompt for prompt, _, _ in found] == [
        [("system", "Be brief."), ("user", "Hi 1?")],
        [("system", "Be brief."), ("user", "Why?")],
    ]


@pytest.mark.parametrize(
    "pair, reason",
    [
        ({"prompt": "Other?", "chosen": SIDES[0], "rejected": SIDES[1]}, "answers to another prompt"),
        ({"chosen": TURNS, "rejected": [{"role": "user", "content": "Ho?"}, TURNS[1]]}, "answers to two prompts"),
        ({"prompt": "Hi?", "chosen": "Yes.", "rejected": TURNS[1]}, "text and messages mixed"),
        ({"prompt": "Hi?", "chosen": TURNS[:1], "rejected": TURNS[:1]}, "answer with the wrong role"),
        ({"prompt": TURNS, "chosen": "Yes.", "rejected": "No."}, "prompt without a question"),
        ({"prompt": "Hi?", "chosen": ["Yes.", "Sure."], "rejected": "No."}, "a list instead of text"),
        ({"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "weight": 0}, "weight 0"),
        ({"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "label": "Tie"}, "tie"),
        ({"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "preference": "both_bad"}, "tie"),
        ({"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "images": ["a.png"]}, "images"),
        ({"prompt": "Hi?", "question": "Ho?", "chosen": "Yes.", "rejected": "No."}, "prompt and question"),
        ({"prompt": "Hi?", "chosen": '[{"role": "assistant", "content": "Ye', "rejected": "No."}, "broken messages"),
        ({"prompt": "Hi?", "chosen": "[{'role': 'assistant', 'content': 'Y'}\n {'role': 'user'}]", "rejected": "No."},
         "broken messages"),
        ({"prompt": "Hi?", "answer_a": "Yes.", "answer_b": "No.", "chosen": "c", "rejected": "a"}, (
            "answer in another column"
        )),
        ({"prompt": "Hi?", "answer_a": "Yes.", "answer_b": "No.", "chosen": "tie", "rejected": "tie"}, "tie"),
        ({(
            "prompt"
        ): (
            "Hi?"
        ), (
            "responses"
        ): [(
            "Yes."
        ), (
            "No."
        ), (
            "So."
        )], (
            "chosen"
        ): 1, (
            "rejected"
        ): 2}, (
            "answer in another column"
        )),
        ({"prompt": "Hi?", "responses": ["Yes.", "No."], "chosen": 1}, "answer in another column"),
        ({"prompt": "Hi?", "responses": ["Yes.", "No."], "winner": "gpt"}, "answer in another column"),
        ({"prompt": "Hi?", "answer_a": "Yes.", "answer_b": "No.", "winner": "tie"}, "tie"),
        ({"prompt": "Hi?", "text_1": "A.", "text_2": "B.", "output_1": "C.", "output_2": "D.", "chosen": 1},
         "answer in another column"),
        ({"prompt": "Hi?", "responses": {"x1": "A.", "y2": "B."}, "chosen": "x1", "rejected": "z9"},
         "answer in another column"),
        ({"prompt": "Hi?", "responses": {"x1": "A."}, "chosen": "x1", "rejected": "y2"}, "answer in another column"),
        ({"prompt": "Hi?", "responses": "['A.' 'B.']", "chosen": 0, "rejected": 1}, "answer in another column"),
        ({"prompt": "Hi?", "chosen": None, "rejected": "No."}, "empty answer"),
        ({"chosen": "Yes.", "rejected": "No."}, "empty prompt"),
    ],
)  # fmt: skip
def test_a_pair_that_is_none_is_counted_with_its_row(tmp_path, pair, reason):
    good = [{"prompt": f"Hi {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(4)]
    _, reading = pairs(jsonl(tmp_path / "rows.jsonl", [*good, pair]))
    assert reading.dropped == {reason: 1} and reading.warnings == [f"{reason}: rows.jsonl, line 5"]


@pytest.mark.parametrize(
    "beside",
    [
        {"drafts": ["Yes, it is so.", "No, never."]},
        {"drafts": {"one": "Yes, it is so.", "other": "No, never."}},
        {"draft_x": "Yes, it is so.", "draft_y": "No, never."},
    ],
)
def test_a_few_words_that_are_all_that_is_chosen_beside_longer_texts_are_refused(tmp_path, beside):
    rows = [{"prompt": f"Hi {n}?", "chosen": "left", "rejected": "right", **beside} for n in range(4)]
    with pytest.raises(LabError, match=r"ever chosen or rejected is left, right, which seem to point .* draft"):
        pairs(jsonl(tmp_path / "rows.jsonl", rows))
    rows.append({"prompt": "Why?", "chosen": "As it has been so for as long as we know.", "rejected": "So."})
    assert len(pairs(jsonl(tmp_path / "rows.jsonl", rows))[0]) == 5


def test_an_object_of_answers_that_is_pointed_into_is_used(tmp_path):
    row = {"responses": {"a": "Yes.", "b": "No."}, "chosen": "b", "rejected": "a"}
    path = jsonl(tmp_path / "rows.jsonl", [{"prompt": f"Hi {n}?", **row} for n in range(3)])
    assert pairs(path)[1].unused == []


def test_pointers_and_scores_of_pairs_are_said(tmp_path):
    rows = [{"prompt": f"Hi {n}?", "answer_a": "Yes.", "answer_b": "No.", "chosen": "a"} for n in range(3)]
    scored = [{**row, "score_chosen": 2, "score_rejected": 4.5} for row in rows]
    _, reading = pairs(jsonl(tmp_path / "rows.jsonl", scored))
    assert reading.warnings == [
        "3 rows: The columns chosen and rejected point to answers in other columns, which are read.",
        "3 rows: score_chosen is below score_rejected; the pair is used as given. Swap them if it is wrong.",
    ]


def numbered(numbers, **beside):
    return [
        {"prompt": f"Hi {n}?", "chosen": chosen, **({"rejected": rejected} if rejected is not None else {}), **beside}
        for n, (chosen, rejected) in enumerate(numbers)
    ]


ABC = {"responses": ["A.", "B.", "C."]}

TWO = {"response_1": "A.", "response_2": "B."}


@pytest.mark.parametrize(
    "rows, wanted",
    [
        (numbered([(1, 2), (0, 2), (2, 1)], **ABC), ["B.C.", "A.C.", "C.B."]),
        (numbered([(1, 2), (3, 2), (2, 1)], **ABC), ["A.B.", "C.B.", "B.A."]),
        (numbered([(1, None), (0, None)], responses=["A.", "B."]), ["B.A.", "A.B."]),
        (numbered([(1, None), (2, None)], **TWO), ["A.B.", "B.A."]),
        (numbered([(1, None), (0, None)], **TWO), ["B.A.", "A.B."]),
    ],
)
def test_numbers_of_answers_count_from_the_same_in_all_rows(tmp_path, rows, wanted):
    read, reading = pairs(jsonl(tmp_path / "rows.jsonl", rows))
    assert [chosen + rejected for _, chosen, rejected in read] == wanted and not reading.dropped


def test_numbers_that_count_from_0_and_from_1_are_refused(tmp_path):
    with pytest.raises(LabError, match="line 1 has 0 as chosen, which may point to an answer .* 3 of 3 rows"):
        pairs(jsonl(tmp_path / "rows.jsonl", numbered([(0, 1), (3, 1), (1, 2)], **ABC)))


@pytest.mark.parametrize(
    "scores",
    [
        {"chosen-rating": 1, "rejected-rating": 5},
        {"score_chosen": "1.0", "score_rejected": "5.0"},
        {"chosen_avg_rating": 1.5, "rejected_avg_rating": 4},
    ],
)
def test_a_chosen_answer_of_a_lower_score_is_said(tmp_path, scores):
    rows = [{"prompt": f"Hi {n}?", **PAIR, **scores} for n in range(3)]
    (warning,) = pairs(jsonl(tmp_path / "rows.jsonl", rows))[1].warnings
    names = list(scores)
    assert warning.startswith(f"3 rows: {names[0]} is below {names[1]};")


@pytest.mark.parametrize(
    "words", [("walk", "walked"), ("Tom has the ca", "Tom has the cat."), ("Once upon", "Once upon a time")]
)
def test_an_answer_that_only_begins_with_the_letters_of_its_question_is_whole(tmp_path, words):
    rows = [{"prompt": f"{'x' * n}{words[0]}", "completion": f"{'x' * n}{words[1]}"} for n in range(4)]
    rows = [{**row, "chosen": row["completion"], "rejected": row["completion"] + "!"} for row in rows]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    read, reading = talks(path)
    assert [talk[1][1] for talk in read] == [row["completion"] for row in rows] and not reading.warnings
    assert [chosen for _, chosen, _ in pairs(path)[0]] == [row["chosen"] for row in rows]


@pytest.mark.parametrize("column, value", [("margin", -0.5), ("preference", "rejected"), ("winner", "Rejected")])
def test_a_column_that_calls_the_rejected_answer_better_is_told(tmp_path, column, value):
    pair = {"prompt": "Add 1.", "chosen": "It is 2.", "rejected": "No."}
    odd = pair | {"prompt": "Add 2.", column: value}
    right = pair | {"prompt": "Add 3.", column: 0.5 if column == "margin" else "chosen"}
    rows, reading = pairs(jsonl(tmp_path / "rows.jsonl", [pair, odd, right]))
    assert len(rows) == 3
    assert reading.warnings == [
        f"1 row: {column} says that the rejected answer is better; the pair is used as given. Swap them if it is wrong."
    ]


def test_what_stands_beside_the_turns_of_a_prompt_is_counted(tmp_path):
    asked = {"messages": [{"role": "user", "content": "Hi {}?"}], "tools": [{"type": "function"}], "functions": []}
    row = {"input": asked, "preferred_output": [TURNS[1]], "non_preferred_output": [SIDES[1][1]]}
    rows = [json.loads(json.dumps(row).replace("{}", str(n))) for n in range(3)]
    assert pairs(jsonl(tmp_path / "rows.jsonl", rows))[1].unused == ["key tools (3 times)"]
