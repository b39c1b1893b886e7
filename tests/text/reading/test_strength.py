"""Numbers that say which of two answers is better, and by how much; and numbers of which nobody knows what they say."""

from typing import Any

import pytest

from labkit.errors import LabError
from labkit.text.reading.preferences import read_unsplit_preferences
from tests.text.reading.samples import jsonl


def rows(numbers, name="preference", **columns):
    answers = {"response_1": "First {}.", "response_2": "Second {}."} | columns
    return [
        {"prompt": f"Hi {n}?", name: number} | {key: text.format(n) for key, text in answers.items()}
        for n, number in enumerate(numbers)
    ]


@pytest.mark.parametrize("name", ["preference_strength", "overall_preference"])
@pytest.mark.parametrize("numbers", [(-3, 1, 2, -1), ("-3", "1", "2.0", "-1")])
def test_the_sign_says_which_is_better_and_the_number_by_how_much(tmp_path, name, numbers):
    found: Any = read_unsplit_preferences(jsonl(tmp_path / "p.jsonl", rows(numbers, name)))
    assert [(one.chosen, one.rejected, one.margin) for one in found.values] == [
        ("First 0.", "Second 0.", 3.0),
        ("Second 1.", "First 1.", 1.0),
        ("Second 2.", "First 2.", 2.0),
        ("First 3.", "Second 3.", 1.0),
    ]
    assert found.reading.unused == []
    assert f"4 rows: {name} prefers response_1 below 0 and response_2 above 0." in found.reading.warnings


def test_no_strength_is_a_tie_and_what_is_no_number_is_refused(tmp_path):
    found: Any = read_unsplit_preferences(
        jsonl(tmp_path / "p.jsonl", rows((1, 0, "much", -1, True, 2, 1, 3, 10**400), "preference_strength"))
    )
    assert found.reading.dropped == {"tie": 1, "preference_strength": 3} and len(found.values) == 5


@pytest.mark.parametrize("numbers", [(1, -1, 1, 1), (1, 1, 1, "-2"), (0.7, 0.2, 1.0, 0.0), ("1", "0.5", "0", "1")])
@pytest.mark.parametrize("name", ["preference", "winner", "verdict"])
def test_a_scale_in_a_column_that_names_the_better_answer_is_refused(tmp_path, name, numbers):
    path = jsonl(tmp_path / "p.jsonl", rows(numbers, name))
    with pytest.raises(
        LabError, match=f"in its column {name}, so its numbers are a scale.* call the column preference_str"
    ):
        read_unsplit_preferences(path)


def test_one_sign_among_many_names_shows_the_scale(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", rows((1, 2) * 30 + (-1,)))
    with pytest.raises(LabError, match="a row has -1 in its column preference, so its numbers are a scale"):
        read_unsplit_preferences(path)


def test_whole_numbers_name_answers_as_before(tmp_path):
    found: Any = read_unsplit_preferences(jsonl(tmp_path / "p.jsonl", rows((1, 2.0, "2", "1.0"))))
    assert [one.chosen for one in found.values] == ["First 0.", "Second 1.", "Second 2.", "First 3."]


def test_a_winner_goes_before_a_strength(tmp_path):
    given = [row | {"winner": "response_2"} for row in rows((1, 2, 1, 3), "preference_strength")]
    found: Any = read_unsplit_preferences(jsonl(tmp_path / "p.jsonl", given))
    assert [one.chosen for one in found.values] == [f"Second {n}." for n in range(4)]
