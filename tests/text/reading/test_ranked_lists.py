"""Answers with a number for each, as files have them: their order, ties, and what is no ranking."""

import json

import pytest

from labkit.commands.read import format_row, read_rows
from labkit.errors import LabError
from labkit.preferences.annotate import AnnotatedRanking, write_annotated_rankings
from labkit.text.rankings import Ranking
from labkit.text.reading import read_preferences
from labkit.text.reading.preferences import read_unsplit_preferences
from labkit.world import Message

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
        {"generations": [{"text": x, "rating": s} for x, s in zip(ORDER, ("9", "7", "1"), strict=True)]},
    ],
    ids=["scores", "ranks", "ultrafeedback", "nectar", "numbers as text"],
)
def test_the_order_follows_from_the_numbers(tmp_path, answers):
    found = read_preferences(write(tmp_path / "p.jsonl", rows(**answers)))
    assert len(found.rankings) == 3 and {one.answers for one in found.rankings} == {ORDER}
    assert [one.prompt for one in found.rankings] == list(dict.fromkeys(pair.prompt for pair in found.train))
    assert len(found.train) == 9 and len(found.validation) == 3 and found.reading.unused == []
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
        ({"responses": list(ORDER), "scores": [1, 2]}, "preferences need chosen and rejected"),
        ({"responses": list(ORDER), "scores": [1, 1, 1]}, "has no better answer: every score is the same"),
        ({"responses": list(ORDER), "scores": [1, "?", 3]}, "has '\\?' as a score, which is not a number"),
        ({"responses": list(ORDER), "scores": [1, None, 3]}, "has None as a score, which is not a number"),
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
