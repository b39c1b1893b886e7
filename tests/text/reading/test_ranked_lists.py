"""Answers with a number for each, as files have them: their order, ties, and what is no ranking."""

import json
from typing import Any

import pytest

from labkit.commands.read import format_row, read_rows
from labkit.errors import LabError
from labkit.preferences.annotate import AnnotatedRanking, write_annotated_rankings
from labkit.text.rankings import Ranking
from labkit.text.reading import read_preferences
from labkit.text.reading.preferences import read_unsplit_preferences
from labkit.world import Message

EMPTY = {f"column {name}" for name in ("scores", "chosen", "rejected", "winner")}
ORDER = ("In Lund.", "In Oslo.", "No.")


def rows(**answers) -> list[dict]:
    """Four prompts with such answers, {n} being the prompt's number."""
    return [json.loads(json.dumps({"prompt": "Where is Tom {n}?", **answers}).replace("{n}", str(n))) for n in range(4)]


def write(path, given):
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


@pytest.mark.parametrize(
    "answers",
    [
        {"responses": ["In Oslo.", "No.", "In Lund."], "scores": [7, -1.5, 9]},
        {"responses": ["In Oslo.", "No.", "In Lund."], "ranks": [2, 3, 1]},
        {"completions": [{"response": x, "overall_score": s} for x, s in zip(ORDER, (9, 7.5, 1), strict=True)]},
        {"answers": [{"answer": x, "rank": r} for x, r in zip(reversed(ORDER), (3, 2, 1), strict=True)]},
        {"answers": [{"Answer": x, "Rank": r, "score": None} for x, r in zip(ORDER, (1, 2, 3), strict=True)]},
        {"responses": [{"text": x} for x in ORDER], "scores": [3, 2, 1]},
        {"responses": [{"text": x, "score": None} for x in ORDER], "ranks": [1, 2, 3], "scores": [None] * 3},
        {"responses": list(ORDER), "score": [3, 2, 1]},
        {"responses": str(list(ORDER)), "scores": "[3, 2, 1]"},
        {"all_generated_responses": list(ORDER), "all_rm_scores": [0.3, 0.2, 0.1]},
        {"answers": [{"role": "assistant", "content": x, "score": s} for x, s in zip(ORDER, (3, 2, 1), strict=True)]},
        {"responses": list(ORDER), "scores": [9, 7, 1], "ranks": [1, 2, 3]},
        {"responses": list(ORDER), "scores": [9, 7, 1], "chosen": None, "rejected": None, "winner": ""},
        {"generations": [{"text": x, "rating": s} for x, s in zip(ORDER, ("9", "7", "1"), strict=True)]},
    ],
    ids=lambda answers: "-".join(answers),
)
def test_the_order_follows_from_the_numbers(tmp_path, answers):
    found = read_preferences(write(tmp_path / "p.jsonl", rows(**answers)))
    assert len(found.rankings) == 3 and {one.answers for one in found.rankings} == {ORDER}
    assert [one.prompt for one in found.rankings] == list(dict.fromkeys(pair.prompt for pair in found.train))
    assert len(found.train) == 9 and len(found.validation) == 3 and {*found.reading.unused} <= EMPTY
    assert [(pair.chosen, pair.rejected) for pair in found.validation] == [
        ("In Lund.", "In Oslo."),
        ("In Lund.", "No."),
        ("In Oslo.", "No."),
    ]


def test_pairs_beside_lists_are_lists_of_two(tmp_path):
    pairs = [{"prompt": f"Who is {n}?", "chosen": "Tom.", "rejected": "Um."} for n in range(4)]
    lists = rows(responses=list(ORDER), scores=[3, 2, 1])
    found = read_preferences(write(tmp_path / "p.jsonl", [*pairs, *lists]))
    sizes = sorted(len(one.answers) for one in found.rankings)
    assert {*sizes} == {2, 3} and sum(size * (size - 1) // 2 for size in sizes) == len(found.train)
    assert read_preferences(write(tmp_path / "q.jsonl", pairs)).rankings == ()


def test_of_a_tie_the_first_is_ranked_and_that_is_said(tmp_path):
    found = read_unsplit_preferences(write(tmp_path / "p.jsonl", rows(responses=[*ORDER, "Yes."], scores=[5, 9, 5, 1])))
    assert [getattr(one, "answers", ()) for one in found.values] == [("In Oslo.", "In Lund.", "Yes.")] * 4
    assert "4 rows: Several answers have the same score; the first of them is ranked" in found.reading.warnings[0]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"responses": list(ORDER)}, "preferences need chosen and rejected"),
        ({"responses": list(ORDER), "scores": [1, 2]}, "has 3 answers in its column responses and 2 numbers in scores"),
        ({"responses": list(ORDER), "scores": [1, 1, 1]}, "has no better answer: every score is the same"),
        ({"responses": list(ORDER), "scores": [1, "?", 3]}, "has the score '\\?', which is not a number"),
        ({"responses": list(ORDER), "scores": [1, None, "N/A"]}, "has a score for fewer than two answers"),
        ({"responses": list(ORDER[:1]), "scores": [1]}, "has one answer in its column responses"),
        ({"responses": ["Yes."] * 65, "scores": [1] * 65}, "has 65 answers in its column responses; at most 64"),
        ({"responses": list(ORDER), "ranks": [1, -1, 2]}, "has the rank -1; the best answer has 1"),
        ({"responses": list(ORDER), "scores": [1, 10**400, 3]}, "which is not a number"),
        ({"responses": list(ORDER), "ranks": [True, False, 2]}, "has the rank True, which is not a number"),
        ({"responses": list(ORDER), "scores": [1, 2, 3], "ranks": [1, 2, 3]}, "a better score and a worse rank"),
        (
            {"answers": [{"text": x, "reward": n, "rank": n} for n, x in enumerate(ORDER)]},
            "a better reward and a worse",
        ),
        ({"responses": ["Yes.", "Yes."], "scores": [1, 2]}, "has the same answer chosen and rejected"),
        ({"responses": ["Yes.", ""], "scores": [1, 2]}, "has an empty answer"),
        ({"answers": [{"rank": 1}, {"rank": 2}]}, "has an empty answer"),
        (
            {"responses": [[{"role": "assistant", "content": "A."}], [{"role": "assistant", "content": "B."}]]}
            | {"scores": [1, 2]},
            "has a list of answers as messages",
        ),
    ],
)
def test_what_is_no_ranking_is_refused(tmp_path, answers, words):
    with pytest.raises(LabError, match=words):
        read_preferences(write(tmp_path / "p.jsonl", rows(**answers)))


def test_chosen_and_rejected_go_before_scores(tmp_path):
    given = rows(responses=list(ORDER), scores=[1, 2, 3], chosen="In Lund.", rejected="No.")
    assert read_preferences(write(tmp_path / "p.jsonl", given)).rankings == ()


def test_what_a_run_keeps_is_read_and_shown(tmp_path):
    rankings = [Ranking((Message("user", f"Where is Tom {n}?"),), ORDER) for n in range(4)]
    path = tmp_path / "train.jsonl"
    write_annotated_rankings(path, [AnnotatedRanking(one, (0.9, 0.5, 0.0)) for one in rankings])
    assert read_unsplit_preferences(path).values == rankings
    shown, _ = read_rows(str(path), "preferences")
    assert format_row(shown[0]).splitlines()[1:] == ["response 1: In Lund.", "response 2: In Oslo.", "response 3: No."]


def read(path, answers):
    """The first of four such lists, and the record."""
    found: Any = read_unsplit_preferences(write(path / "p.jsonl", rows(**answers)))
    return found.values[0], found.reading


@pytest.mark.parametrize(
    ("answers", "kept", "words"),
    [
        (("a", "b", "a", "c"), ("a", "b", "c"), "with different scores; the better one is kept"),
        (("a", "a ", "b", "c"), ("a", "b", "c"), "with different scores; the better one is kept"),
        (("a", None, "b", ""), ("a", "b"), "Some answers have no text or no score, and are left out"),
    ],
)
def test_an_answer_that_is_there_twice_or_empty_is_left_out_and_that_is_said(tmp_path, answers, kept, words):
    found, reading = read(tmp_path, {"responses": answers, "scores": [4, 3, 2, 1]})
    assert found.answers == kept and any(words in line and line.startswith("4 rows: ") for line in reading.warnings)


def test_an_answer_with_the_same_score_twice_is_one_answer(tmp_path):
    found, reading = read(tmp_path, {"responses": ["a", "a", "b"], "scores": [4, 4, 1]})
    assert found.answers == ("a", "b")
    assert reading.warnings == ["4 rows: The same answer stands twice in the list, and is kept once."]


@pytest.mark.parametrize("missing", [None, "N/A", "", "nan"])
def test_an_answer_without_a_number_costs_no_other(tmp_path, missing):
    given = [{"text": x, "overall_score": s} for x, s in zip(ORDER, (1, missing, 3), strict=True)]
    found, reading = read(tmp_path, {"completions": given})
    assert found.answers == ("No.", "In Lund.") and found.scores == (3, 1)
    assert reading.warnings == ["4 rows: Some answers have no text or no overall_score, and are left out."]


def test_scores_are_kept_and_are_margins_and_ranks_are_none(tmp_path):
    found, _ = read(tmp_path, {"responses": list(ORDER), "scores": [7, 4.5, 0]})
    assert found.scores == (7, 4.5, 0) and [pair.margin for pair in found.pairs] == [2.5, 7, 4.5]
    found, _ = read(tmp_path, {"responses": list(ORDER), "ranks": [1, 2, 3]})
    assert found.scores == () and [pair.margin for pair in found.pairs] == [0, 0, 0]


def test_keys_of_answers_that_are_not_read_are_listed(tmp_path):
    given = [{"text": x, "score": s, "model": "m", "critique": ""} for x, s in zip(ORDER, (1, 2, 3), strict=True)]
    assert read(tmp_path, {"answers": given})[1].unused == ["key model (12 times)"]


def test_without_the_prompt_answers_are_checked_again(tmp_path):
    question = "Where is Tom {n}?"
    lists = rows(responses=[f"{question} Here.", f"{question}  Here.", f"{question} No."], scores=[3, 2, 1])
    path = write(tmp_path / "p.jsonl", lists)
    found: Any = read_unsplit_preferences(path)
    assert [one.answers for one in found.values] == [("Here.", "No.")] * 4
    assert any("4 rows without the prompt: The same answer stands twice" in line for line in found.reading.warnings)
    good = rows(chosen=f"{question} Here.", rejected=f"{question} No.")
    same = rows(chosen=f"{question} Here.", rejected=f"{question}  Here.")[:1]
    found = read_unsplit_preferences(write(path, [*good, *same]))
    assert len(found.values) == 4 and found.reading.dropped == {"identical answers": 1}
    assert found.reading.read == found.reading.kept + 1


@pytest.mark.parametrize("name", ["one.json", "one.jsonl"])
def test_an_object_with_a_question_and_its_answers_is_one_row(tmp_path, name):
    given = {"completions": [{"response": x, "overall_score": s} for x, s in zip(ORDER, (9, 7, 1), strict=True)]}
    path = tmp_path / name
    path.write_text(json.dumps({"source": "web", "instruction": "Where is Tom?", "models": ["a", "b", "c"], **given}))
    found: Any = read_unsplit_preferences(path)
    assert [one.answers for one in found.values] == [ORDER]
    path.write_text(json.dumps({"name": "web", "rows": rows(**given)}))
    assert len(read_unsplit_preferences(path).values) == 4


def test_pairs_and_lists_in_one_table(tmp_path):
    pairs = [one | {"responses": None, "scores": None} for one in rows(chosen="Yes.", rejected="No.")]
    lists = [one | {"chosen": None, "rejected": None} for one in rows(responses=list(ORDER), scores=[3, 2, 1])]
    found: Any = read_unsplit_preferences(write(tmp_path / "p.jsonl", [*pairs, *lists]))
    assert [type(one).__name__ for one in found.values] == ["PreferencePair"] * 4 + ["Ranking"] * 4
    assert found.reading.dropped == {}


def test_a_pair_of_equal_scores_is_said_and_a_status_tie_is_one(tmp_path):
    equal = rows(chosen="Yes.", rejected="No.", score_chosen=7, score_rejected=7.0)
    tied = rows(chosen="Yes.", rejected="No.", status="tie")[:1]
    found: Any = read_unsplit_preferences(write(tmp_path / "p.jsonl", [*equal, *tied]))
    assert len(found.values) == 4 and found.reading.dropped == {"tie": 1}
    assert any(line.startswith("4 rows: score_chosen is the same as score_rejected") for line in found.reading.warnings)


def test_a_margin_that_is_true_or_false_is_none(tmp_path):
    given = rows(chosen="Yes.", rejected="No.", margin=True)
    found: Any = read_unsplit_preferences(write(tmp_path / "p.jsonl", given))
    assert [one.margin for one in found.values] == [0] * 4 and found.reading.unused == ["column margin"]
