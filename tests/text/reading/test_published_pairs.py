"""Preferences under the names that published data sets gave their columns: read rightly, or refused with the mend."""

import json
from typing import cast

import pytest

from labkit.errors import LabError
from labkit.text.pairs import PreferencePair
from labkit.text.reading.preferences import read_unsplit_preferences

QUESTIONS = ["Where is Tom?", "Where is Ann?", "Where is Bo?"]


def write(tmp_path, rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pairs(tmp_path, rows) -> list[PreferencePair]:
    return [cast(PreferencePair, one) for one in read_unsplit_preferences(write(tmp_path, rows)).values]


def answers(tmp_path, rows):
    return [(one.chosen, one.rejected) for one in pairs(tmp_path, rows)]


def pku(question, better):
    texts = {"response_0": "In Lund.", "response_1": "In Oslo."}
    return {"prompt": question, **texts, "better_response_id": better, "safer_response_id": 0}


def shp(question, label, a, b):
    texts = {"human_ref_A": "In Lund.", "human_ref_B": "In Oslo."}
    return {"history": question, **texts, "labels": label, "score_A": a, "score_B": b}


def test_better_response_id_names_the_chosen_answer_and_not_the_safer_one(tmp_path):
    rows = [pku(question, better) for question, better in zip(QUESTIONS, (1, 0, 1), strict=True)]
    assert answers(tmp_path, rows) == [("In Oslo.", "In Lund."), ("In Lund.", "In Oslo."), ("In Oslo.", "In Lund.")]
    with pytest.raises(LabError, match="has 2 as its better_response_id; it must be 0 or 1"):
        answers(tmp_path, [pku(question, 2) for question in QUESTIONS])


def test_the_label_of_shp_is_one_where_the_first_answer_is_preferred(tmp_path):
    rows = [shp(QUESTIONS[0], 1, 9, 2), shp(QUESTIONS[1], 0, 3, 5)]
    assert answers(tmp_path, rows) == [("In Lund.", "In Oslo."), ("In Oslo.", "In Lund.")]
    assert [one.prompt[-1].content for one in pairs(tmp_path, rows)] == QUESTIONS[:2]
    with pytest.raises(LabError, match="labels that contradict score_A and score_B"):
        answers(tmp_path, [shp(question, 1, 2, 9) for question in QUESTIONS])


def test_trees_and_lists_of_rejected_answers_are_refused_with_what_to_write(tmp_path):
    replies = [{"role": "assistant", "text": text, "rank": rank, "replies": []} for rank, text in enumerate("ab")]
    tree = [{"message_tree_id": "x", "prompt": {"text": q, "role": "prompter", "replies": replies}} for q in QUESTIONS]
    with pytest.raises(LabError, match="tree of messages in its column prompt. Write a row for each message"):
        answers(tmp_path, tree)
    with pytest.raises(LabError, match=r"list in its column rejected: .*Write a row for each of its answers"):
        answers(tmp_path, [{"prompt": q, "chosen": "In Lund.", "rejected": ["In Oslo.", "No."]} for q in QUESTIONS])


def test_one_line_that_holds_a_list_of_rows_is_these_rows(tmp_path):
    rows = [{"prompt": question, "chosen": "In Lund.", "rejected": "In Oslo."} for question in QUESTIONS]
    assert answers(tmp_path, [rows]) == [("In Lund.", "In Oslo.")] * 3
