"""The same rows in the spellings that people have them in, and what is refused rather than guessed."""

import json
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.text.reading import read_conversations
from labkit.text.reading.values import field_to_messages, field_to_text, parse_transcript
from labkit.world import Message
from tests.text.reading.samples import ROWS, SPOKEN, TALKS, TURNS, jsonl, pairs, talks


@pytest.mark.parametrize(
    "row, wanted",
    [
        ({"messages": TURNS}, SPOKEN),
        ({"Conversations": [{"from": "Human", "value": "Hi {}?"}, {"from": "GPT", "value": "Yes {}."}]}, SPOKEN),
        ({"messages": json.dumps(TURNS)}, SPOKEN),
        ({"messages": str(TURNS)}, SPOKEN),
        ({"messages": [{"role": "system", "content": " "}, *TURNS]}, SPOKEN),
        ({"messages": [{"role": "model", "parts": [{"text": "Hello."}]}, *TURNS]}, [("assistant", "Hello."), *SPOKEN]),
        ({"messages": TURNS, "system_prompt": "Be brief."}, [("system", "Be brief."), *SPOKEN]),
        ({"messages": [TURNS[0], {"role": "assistant", "content": [{"type": "text", "text": "Yes "},
                                                                 {"type": "text", "text": "{}."}]}]}, SPOKEN),
        ({"prompt": "Hi {}?", "completion": "Yes {}."}, SPOKEN),
        ({"prompt": "Hi {}?", "completion": "Hi {}? Yes {}."}, SPOKEN),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, SPOKEN),
        ({"prompt": TURNS[:1], "completion": TURNS}, SPOKEN),
        ({"query": "Hi {}?", "ANSWER": "Yes {}."}, SPOKEN),
        ({"input": "Hi {}?", "output": "Yes {}."}, SPOKEN),
        ({"instruction": "Hi {}?", "input": float("nan"), "output": "Yes {}."}, SPOKEN),
        ({"instruction": "Hi", "input": "{}?", "output": "Yes {}."}, [("user", "Hi\n\n{}?"), SPOKEN[1]]),
        ({"instruction": "Hi {}?", "output": "Yes {}.", "history": [["Who?", "I."]]},
         [("user", "Who?"), ("assistant", "I."), *SPOKEN]),
        ({"text": "\n\nHuman: Hi {}?\n\nAssistant: Yes {}."}, SPOKEN),
        ({"text": "### Human: Hi {}?### Assistant: Yes {}."}, SPOKEN),
        ({"text": "### Instruction:\nHi {}?\n\n### Response:\nYes {}."}, SPOKEN),
        ({"question": "Hi {}?", "answers": ["{}", "so"], "answer": "{}"}, [SPOKEN[0], ("assistant", "{}")]),
        ({"data": ["Hi {}?", "Yes {}.", "So?", "No."]}, [*SPOKEN, ("user", "So?"), ("assistant", "No.")]),
        ({"instruction": "Hi {}?", "input": "", "output": "Yes {}.", "text": "Below is … Hi {}? … Yes {}."}, SPOKEN),
        ({"instruction": ["Hi {}?"], "output": ["Yes {}."]}, SPOKEN),
        ({"prompt": "\n\nHuman: Who?\n\nAssistant:  I.\n\nHuman: Hi {}?", "completion": " Yes {}."},
         [("user", "Who?"), ("assistant", "I."), *SPOKEN]),
        ({"prompt": "### Instruction:\nHi {}?\n\n### Response:\n", "completion": "Yes {}."}, SPOKEN),
        ({"question": "Hi {}?", "answer": "Yes {}.", "label": False}, SPOKEN),
        ({"prompt": "Hi {}?", "completion": json.dumps(TURNS[1])},
         [SPOKEN[0], ("assistant", '{"role": "assistant", "content": "Yes {}."}')]),
        ({"prompt": "Hi {}?", "completion": json.dumps(TURNS)}, [SPOKEN[0], ("assistant", json.dumps(TURNS))]),
        ({"prompt": json.dumps(TURNS[:1]), "completion": json.dumps(TURNS[1:])}, SPOKEN),
        ({"prompt": "Answer shortly: Hi {}?", "question": "Hi {}?", "answer": "Yes {}."},
         [("user", "Answer shortly: Hi {}?"), SPOKEN[1]]),
    ],
)  # fmt: skip
def test_a_row_says_the_same_in_every_spelling(tmp_path, row, wanted):
    rows = [json.loads(json.dumps(row).replace("{}", str(n))) for n in range(4)]
    wanted = [[(role, said.replace("{}", str(n))) for role, said in wanted] for n in range(4)]
    assert talks(jsonl(tmp_path / "rows.jsonl", rows))[0] == wanted


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"prompt": "Hi", "completion": "Yes.", "label": False}, "label false"),
        ({"prompt": "\n\nHuman: Hi\n\nAssistant: Yes.", "completion": "No."}, "prompt without a question"),
        ({"instruction": "Hi", "output": "Yes.", "weight": 0}, "weight 0"),
        ({"instruction": "Hi", "output": "Yes.", "weight": 0.5}, "weight"),
        ({"instruction": "Hi", "output": "Yes.", "history": "once"}, "unknown history"),
        ({"instruction": "Hi", "output": True}, "true or false instead of text"),
        ({"prompt": "Be short.", "question": "Hi?", "answer": "Yes."}, "prompt and question"),
        ({"prompt": "Hi?", "response": "Yes.", "answer": "No."}, "response and answer"),
        ({"question": "Hi?", "choices": ["Yes.", "No."], "answer": 1}, "answer in another column"),
        ({"question": "Hi?", "options": ["Yes.", "No."], "answer": "B"}, "answer in another column"),
        ({"question": "Hi?", "answers": ["6", "six"], "answer": "3"}, "answer in another column"),
        ({"question": "Hi?", "options": {"A": "Yes.", "B": "No."}, "answer": "A"}, "answer in another column"),
        ({"question": "Hi?", "choices": "['Yes.', 'No.']", "answer": "1"}, "answer in another column"),
        ({"question": "Hi?", "choices": "['Yes.' 'No.']", "answer": "1"}, "answer in another column"),
        (
            {"question": "Hi?", "choices": {"text": ["Yes.", "No."], "label": ["A", "B"]}, "answer": "B"},
            "answer in another column",
        ),
        ({"question": "Hi?", "A": "Yes.", "B": "No.", "C": "So.", "answer": "C"}, "answer in another column"),
        ({"question": "Hi?", "option_a": "Yes.", "option_b": "No.", "answer": "A"}, "answer in another column"),
        ({"question": "Hi?", "choice1": "Yes.", "choice2": "No.", "answer": 1}, "answer in another column"),
        ({"question": "Hi?", "option1": "Yes.", "option2": "No.", "answer": "2"}, "answer in another column"),
        ({"instruction": "Hi", "output": "Yes.", "image": "a.png"}, "image"),
        ({"instruction": "Hi", "output": "Yes.", "Output": "No."}, "duplicate column"),
        ({"messages": [{**TURNS[0], "images": ["a.png"]}, TURNS[1]]}, "images part"),
        ({"messages": '[{"role": "user", "content": "Hi'}, "broken messages"),
        ({"instruction": "Hi", "output": {"text": "Yes."}}, "an object instead of text"),
        ({"instruction": " ", "output": "Yes."}, "empty question"),
        ({"instruction": "Hi", "output": None}, "empty answer"),
        ({"messages": TURNS[:1]}, "conversation without an answer"),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 0}]}, "weight 0"),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 2}]}, "weight"),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 1, "masked": True}]}, "weight"),
        ({"messages": [TURNS[0], {**TURNS[1], "mask": 1}]}, "mask"),
        ({"instruction": "Hi", "output": "Yes.", "kto_tag": False}, "label false"),
        ({"messages": [*TURNS, {"role": "narrator", "content": "So."}]}, "unknown role"),
        ({"messages": [*TURNS, {"role": "tool", "content": "7"}]}, "tool message"),
        ({"messages": "no messages"}, "not messages"),
        ({"title": "Hi"}, "unknown columns"),
        ("text", "row without columns"),
    ],
)
def test_a_row_that_is_none_is_counted_with_its_row(tmp_path, row, reason):
    _, reading = talks(jsonl(tmp_path / "rows.jsonl", [*ROWS, row]))
    assert reading.dropped == {reason: 1} and reading.warnings == [f"{reason}: rows.jsonl, line 7"]


@pytest.mark.parametrize("row", [{"a\nb" * 200: 1}, {"instruction": "Hi", "output": "x"}, {"messages": "a\nb" * 99}])
def test_a_refusal_is_one_short_line_whatever_stands_in_the_row(tmp_path, row):
    nested = json.loads("[" * 500 + "]" * 500)
    row = {**row, **({"output": nested} if "output" in row else {})}
    with pytest.raises(LabError) as caught:
        talks(jsonl(tmp_path / "rows.jsonl", [row] * 3))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


def test_most_rows_gone_is_an_error_that_counts_them(tmp_path):
    rows = [*ROWS[:2], *({"instruction": "Hi", "output": ""} for _ in range(3))]
    with pytest.raises(LabError, match="rows.jsonl, line 3 has an empty answer.* 3 of 5 rows cannot be used"):
        talks(jsonl(tmp_path / "rows.jsonl", rows))


def test_repeated_conversations_are_one_and_no_error(tmp_path):
    rows, reading = talks(jsonl(tmp_path / "rows.jsonl", ROWS * 3))
    assert rows == TALKS and reading.dropped == {"duplicate": 12}


def test_an_answer_of_weight_0_stays_in_the_conversation(tmp_path):
    turns = [TURNS[0], {**TURNS[1], "weight": 0}, {"role": "user", "content": "Sure?"}, {**TURNS[1], "content": "Yes!"}]
    path = jsonl(tmp_path / "rows.jsonl", [{"messages": turns}, {"messages": TURNS}])
    (document,) = [d for part in read_conversations(path)[:2] for d in part if len(d.messages) == 4]
    assert [message.weight for message in document.messages] == [1, 0, 1, 1]


def test_values():
    fields: list[Any] = ["a", 3, 2.5, None, float("nan"), []]
    assert [field_to_text(field) for field in fields] == ["a", "3", "2.5", "", "", ""]
    assert field_to_messages('[{"role": "user", "content": "Hi"}]') == (Message("user", "Hi"),)
    assert field_to_messages('{"role": "user"}') is None and field_to_messages("[1, 2]") is None
    assert parse_transcript("Assistant: is a word.") == (Message("assistant", "is a word."),)
    assert parse_transcript("The Human: said no") is None and parse_transcript("Human: alone") is None


@pytest.mark.parametrize(("good", "bad"), [(1, 0), ("1", "0"), ("True", "False"), ("good", "bad"), (1.0, 0.0)])
def test_a_label_beside_a_completion(tmp_path, good, bad):
    rows = [{"prompt": f"Hi {n}", "completion": "Yes", "label": (bad, good)[n % 2]} for n in range(4)]
    read, reading = talks(jsonl(tmp_path / "rows.jsonl", rows))
    assert [talk[0][1] for talk in read] == ["Hi 1", "Hi 3"] and reading.dropped == {"label false": 2}


def test_an_unknown_label_beside_a_completion_is_refused(tmp_path):
    rows = [{"prompt": f"Hi {n}", "completion": "Yes", "label": "fine"} for n in range(4)]
    with pytest.raises(LabError, match="label 'fine'"):
        talks(jsonl(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize(
    "mask",
    [
        {"loss": False},
        {"training": 0},
        {"masked": True},
        {"trainable": False},
        {"do_train": 0},
        {"train_on_turn": False},
    ],
)
def test_an_answer_that_is_masked_is_not_learned(mask):
    answer = {"role": "assistant", "content": "Yes"}
    messages = field_to_messages([{**answer, **mask}, answer])
    assert messages is not None and [message.weight for message in messages] == [0, 1]


def test_what_a_turn_holds_beside_its_words_is_counted(tmp_path):
    turns = [{**TURNS[0], "name": "Tom"}, {**TURNS[1], "reasoning_content": "He asks.", "tool_calls": [], "weight": 1}]
    rows = [json.loads(json.dumps({"messages": turns}).replace("{}", str(n))) for n in range(4)]
    read, reading = talks(jsonl(tmp_path / "rows.jsonl", rows))
    assert len(read) == 4 and reading.unused == ["key name (4 times)", "key reasoning_content (4 times)"]
    _, reading = talks(jsonl(tmp_path / "text.jsonl", [{"messages": json.dumps(row["messages"])} for row in rows]))
    assert reading.unused == ["key name (4 times)", "key reasoning_content (4 times)"]


@pytest.mark.parametrize("mark", ["<|im_start|>user\nHi {}<|im_end|>", "[INST] Hi {} [/INST]", "<start_of_turn>Hi {}"])
def test_a_template_that_stands_in_the_words_is_said(tmp_path, mark):
    rows = [{"prompt": mark.format(n), "completion": "Yes.", "chosen": "Yes.", "rejected": "No."} for n in range(3)]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    for read in (talks, pairs):
        (warning,) = read(path)[1].warnings
        assert warning.startswith("3 rows: The text spells a chat template") and warning.endswith("without a template.")


CODE = "\n    if x:\n        y{}\n\n\n\n\nend   "


def test_an_answer_keeps_its_indentation_and_what_cleaning_takes_is_counted(tmp_path):
    row = {"prompt": "\ufeffWhich\x07 {}?", "completion": CODE, "chosen": CODE, "rejected": " No {}."}
    path = jsonl(tmp_path / "rows.jsonl", [json.loads(json.dumps(row).replace("{}", str(n))) for n in range(4)])
    read, reading = talks(path)
    assert read[0] == [("user", "Which 0?"), ("assistant", "    if x:\n        y0\n\nend")]
    assert reading.removed_characters == 4 * (2 + 1 + 3 + 3)
    read, reading = pairs(path)
    assert read[0] == ([("user", "Which 0?")], "    if x:\n        y0\n\nend", "No 0.")
    assert reading.removed_characters == 4 * (2 + 1 + 3 + 3 + 1)


def test_a_class_beside_a_question_is_no_judgement_of_its_answer(tmp_path):
    rows = [{"question": f"Hi {n}?", "answer": "Yes.", "label": n % 2 == 0} for n in range(6)]
    read, reading = talks(jsonl(tmp_path / "rows.jsonl", rows))
    assert len(read) == 6 and reading.unused == ["column label"]


def test_a_column_that_only_some_rows_are_read_from_is_said_with_their_number(tmp_path):
    rows = [{"prompt": f"Answer briefly: Hi {n}?", "question": f"Hi {n}?", "answer": "Yes."} for n in range(3)]
    rows += [{"prompt": "", "question": f"Why {n}?", "answer": "So.", "id": str(n)} for n in range(5)]
    read, reading = talks(jsonl(tmp_path / "rows.jsonl", rows))
    assert [talk[0][1] for talk in read][2:4] == ["Answer briefly: Hi 2?", "Why 0?"]
    assert reading.unused == ["column id", "column question of 3 rows"]
