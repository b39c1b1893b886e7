"""The same rows in the spellings that people have them in, and what is refused rather than guessed."""

import csv
import gzip
import json
from typing import Any

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from labkit.commands.read import KINDS, read_rows
from labkit.errors import LabError
from labkit.text.reading import csv_rows, read_conversations
from labkit.text.reading.values import field_to_messages, field_to_text, parse_transcript
from labkit.world import Message

ROWS = [{"instruction": f"Add {n} and 1, {n}.", "output": f"It is {n + 1}."} for n in range(6)]
TALKS = [[("user", row["instruction"]), ("assistant", row["output"])] for row in ROWS]


def talks(path):
    rows, reading = read_rows(str(path), "instructions")
    return [[(m["role"], m["content"]) for m in row["messages"]] for row in rows], reading


def pairs(path):
    rows, reading = read_rows(str(path), "preferences")
    return [
        ([(m["role"], m["content"]) for m in row["prompt"]], row["chosen"], row["rejected"]) for row in rows
    ], reading


def jsonl(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def as_csv(path, delimiter):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["instruction", "output"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


WRITERS = {
    "list.json": lambda path: path.write_text(json.dumps(ROWS)),
    "lines.json": lambda path: jsonl(path, ROWS),
    "list.jsonl": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "rows.ndjson": lambda path: jsonl(path, ROWS),
    "rows.txt": lambda path: jsonl(path, ROWS),
    "data-key.json": lambda path: path.write_text(json.dumps({"version": 2, "tags": ["a", "b"], "data": ROWS})),
    "deeper.json": lambda path: path.write_text(json.dumps({"meta": {"by": "me"}, "set": {"rows": ROWS}})),
    "columns.json": lambda path: pandas.DataFrame(ROWS).to_json(path),
    "index.json": lambda path: pandas.DataFrame(ROWS).to_json(path, orient="index"),
    "split.json": lambda path: pandas.DataFrame(ROWS).to_json(path, orient="split"),
    "table.json": lambda path: pandas.DataFrame(ROWS).to_json(path, orient="table"),
    "lists.json": lambda path: path.write_text(json.dumps(pandas.DataFrame(ROWS).to_dict("list"))),
    "commas.csv": lambda path: as_csv(path, ","),
    "semicolons.csv": lambda path: as_csv(path, ";"),
    "tabs.tsv": lambda path: as_csv(path, "\t"),
    "tabs.csv": lambda path: as_csv(path, "\t"),
    "rows.parquet": lambda path: parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "packed.jsonl": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "wide.csv": lambda path: path.write_text(pandas.DataFrame(ROWS).to_csv(index=False), encoding="utf-16"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_container_is_known_by_what_stands_in_it(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert talks(tmp_path / name)[0] == TALKS


TURNS = [{"role": "user", "content": "Hi {}?"}, {"role": "assistant", "content": "Yes {}."}]
SPOKEN = [("user", "Hi {}?"), ("assistant", "Yes {}.")]


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


def test_several_lists_of_rows_are_not_guessed_among(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"old": ROWS, "new": ROWS}))
    with pytest.raises(LabError, match="rows.json contains several lists, old, new; which is meant"):
        talks(tmp_path / "rows.json")


def test_a_table_with_a_broken_row(tmp_path):
    (tmp_path / "rows.csv").write_text("instruction,output\nHi 1,Yes\nHi 2,Yes\nHi, 3,Yes\n\nHi 4,Yes\n")
    rows, reading = talks(tmp_path / "rows.csv")
    assert len(rows) == 3 and reading.warnings == ["broken line: rows.csv, row 3"]


def test_a_damaged_file_among_good_ones_is_said_and_most_damaged_is_an_error(tmp_path):
    for name in ("a", "b"):
        jsonl(tmp_path / f"{name}.jsonl", ROWS)
    (tmp_path / "c.json").write_text('{"instruction": "cut o')
    _, reading = talks(tmp_path)
    assert "file c.json" in reading.unused and "Not read: c.json is not JSON" in " ".join(reading.warnings)
    (tmp_path / "d.json").write_text("[")
    (tmp_path / "e.json").write_text("")
    with pytest.raises(LabError, match="e.json is empty"):
        talks(tmp_path)


def test_a_note_of_plain_text_beside_tables_is_said(tmp_path):
    jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "notes.txt").write_text("Made in May.")
    (tmp_path / "settings.json").write_text('{"width": 3}')
    rows, reading = talks(tmp_path)
    assert rows == TALKS and reading.unused == ["file notes.txt (plain text)", "file settings.json (no rows)"]


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


@pytest.mark.parametrize("broken", ['"Say ""hi" now,Yes', '"Not closed,Yes'])
def test_rows_after_a_bad_quote_are_read(tmp_path, broken):
    lines = [f"Hi {n},Yes" for n in range(6)]
    (tmp_path / "rows.csv").write_text("\n".join(["instruction,output", *lines[:3], broken, *lines[3:]]))
    rows, reading = talks(tmp_path / "rows.csv")
    assert len(rows) == 6 and reading.read == 7
    assert reading.warnings == ["broken line: rows.csv, row 4"]


def test_a_column_named_twice_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("instruction,output,Output\nHi 1,Yes,No\nHi 2,Yes,No\n")
    with pytest.raises(LabError, match="column output twice"):
        talks(tmp_path / "rows.csv")


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


@pytest.mark.parametrize("mark", ["<|im_start|>user\nHi {}<|im_end|>", "[INST] Hi {} [/INST]", "<start_of_turn>Hi {}"])
def test_a_template_that_stands_in_the_words_is_said(tmp_path, mark):
    rows = [{"prompt": mark.format(n), "completion": "Yes.", "chosen": "Yes.", "rejected": "No."} for n in range(3)]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    for read in (talks, pairs):
        (warning,) = read(path)[1].warnings
        assert warning.startswith("3 rows: The text spells a chat template") and warning.endswith("without a template.")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_an_object_with_two_values_for_a_key_is_counted_with_its_row(tmp_path, name):
    lines = [json.dumps(row) for row in ROWS]
    lines[2] = '{"instruction": "Hi", "output": "Yes", "output": "No"}'
    lines[3] = '{"messages": [{"role": "user", "role": "assistant", "content": "Hi"}]}'
    lines[4] = lines[4].replace("{", '{"output": "It is 5.", ')  # said twice, but the same
    (tmp_path / name).write_text(f"[{','.join(lines)}]" if name == "rows.json" else "\n".join(lines))
    rows, reading = talks(tmp_path / name)
    assert len(rows) == 4 and reading.dropped == {"duplicate key": 2}
    assert reading.warnings == [f"duplicate key: {name}, {'row' if name == 'rows.json' else 'line'}s 3, 4"]


def test_a_number_of_too_many_digits_is_counted_with_its_row(tmp_path):
    lines = [*map(json.dumps, ROWS), '{"instruction": "Count.", "output": ' + "7" * 5000 + "}"]
    (tmp_path / "rows.json").write_text(f"[{','.join(lines)}]")
    _, reading = talks(tmp_path / "rows.json")
    assert reading.dropped == {"long number": 1} and reading.warnings == ["long number: rows.json, row 7"]


def test_rows_of_the_viewers_api(tmp_path):
    rows = [{"row_idx": n, "row": row, "truncated_cells": ["output"] * (n == 5)} for n, row in enumerate(ROWS)]
    value = {"features": [{"name": "instruction"}], "rows": rows, "num_rows_total": 900, "partial": False}
    (tmp_path / "rows.json").write_text(json.dumps(value))
    read, reading = talks(tmp_path / "rows.json")
    assert read == TALKS[:5] and reading.dropped == {"truncated cell": 1}
    assert reading.unused == ["894 rows left out of rows.json"]


@pytest.mark.parametrize("name", ["rows.json", "rows.txt", "rows.jsonl"])
def test_a_csv_of_another_name_is_refused(tmp_path, name):
    as_csv(tmp_path / name, ",")
    for kind in KINDS:
        with pytest.raises(LabError, match=f"{name} is CSV by its content .* Rename it to rows.csv"):
            read_rows(str(tmp_path / name), kind)


@pytest.mark.parametrize("first", ['{ "key" is how', '[{"a": 1}] is JSON', "[1] Smith said so", '{"a": 1}\n\nHe'])
@pytest.mark.parametrize("name", ["story.txt", "story.md"])
def test_prose_that_begins_as_json_is_prose(tmp_path, first, name):
    text = f"{first}.\n" + "So it went on, year by year.\n" * 30
    (tmp_path / name).write_text(text)
    rows, _ = read_rows(str(tmp_path / name), "text")
    assert rows == [{"text": text}]


def test_json_lines_of_texts(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(f"Story {n} of {n * 7} birds.") for n in range(6)))
    rows, _ = read_rows(str(tmp_path / "rows.jsonl"), "text")
    assert rows == [{"text": f"Story {n} of {n * 7} birds."} for n in range(6)]


def test_what_stands_beside_the_turns_of_a_prompt_is_counted(tmp_path):
    asked = {"messages": [{"role": "user", "content": "Hi {}?"}], "tools": [{"type": "function"}], "functions": []}
    row = {"input": asked, "preferred_output": [TURNS[1]], "non_preferred_output": [SIDES[1][1]]}
    rows = [json.loads(json.dumps(row).replace("{}", str(n))) for n in range(3)]
    assert pairs(jsonl(tmp_path / "rows.jsonl", rows))[1].unused == ["key tools (3 times)"]


def test_a_cut_file_of_rows_that_is_named_txt_is_refused_as_rows(tmp_path):
    (tmp_path / "rows.txt").write_text(json.dumps(ROWS)[:-9])
    with pytest.raises(LabError, match="rows.txt is plain text; .* rows.txt starts like JSON but is not valid JSON"):
        talks(tmp_path / "rows.txt")


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


def test_a_broken_row_of_a_table_is_dropped_up_to_its_closing_quote(tmp_path):
    broken = '"bad "quote" here\ncontinues here\nend of it"'
    good = [f"Story {n} of {n * 7} birds." for n in range(6)]
    (tmp_path / "rows.csv").write_text("\n".join(["text", *good[:3], broken, *good[3:]]))
    rows, reading = read_rows(str(tmp_path / "rows.csv"), "text")
    assert [row["text"] for row in rows] == good and reading.dropped == {"broken line": 1}


def test_a_table_of_broken_rows_is_walked_once(monkeypatch):
    walked, step = [], csv_rows._Lines.__next__

    def next_line(lines):
        walked.append(lines.at)
        return step(lines)

    monkeypatch.setattr(csv_rows._Lines, "__next__", next_line)
    text = "text\n" + 'a "quote" here\n"bad "quote" here\nand on"\n' * 500
    found = list(csv_rows.csv_rows(text, ",", "rows.csv"))
    assert [isinstance(row, dict) for row in found] == [True, False] * 500
    assert len(walked) < 3 * 500  # the header, a line for each row, and the end


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


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path):
    asked, said = ([row[name] for row in ROWS] for name in ("instruction", "output"))
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(one) for one in (asked, said, said)], ["instruction", *["output"] * 2]
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(LabError, match="rows.parquet has the column output twice"):
        talks(tmp_path / "rows.parquet")


def test_a_table_of_pandas_with_an_index_and_one_column(tmp_path):
    texts = [f"Story {n} of {n * 7} birds." for n in range(6)]
    pandas.DataFrame({"text": texts}).to_csv(tmp_path / "rows.tsv", sep="\t")
    rows, reading = read_rows(str(tmp_path / "rows.tsv"), "text")
    assert rows == [{"text": text} for text in texts] and reading.unused == ["column without a name"]


@pytest.mark.parametrize("container", ["list", "lines"])
def test_the_flat_messages_of_a_tree_are_no_conversation(tmp_path, container):
    rows = [
        {"message_id": str(n), "parent_id": str(n - 1), "role": ("prompter", "assistant")[n % 2], "text": f"Hi {n}"}
        for n in range(6)
    ]
    path = jsonl(tmp_path / "rows.json", rows)
    if container == "list":
        path.write_text(json.dumps(rows))
    with pytest.raises(LabError, match="Message trees are not supported"):
        talks(path)


@pytest.mark.parametrize("number", ["3.10", "1e400", "-0.0", "1E5", "7", "0.1000000000000000055511151231257827"])
def test_a_number_is_learned_as_the_file_spells_it(tmp_path, number):
    path = tmp_path / "rows.json"
    path.write_text(f'[{{"instruction": "Which version?", "output": {number}}}, {{"instruction": 1, "output": "b"}}]')
    rows, _ = talks(path)
    assert rows == [[("user", "Which version?"), ("assistant", number)], [("user", "1"), ("assistant", "b")]]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;;"])
def test_the_line_by_which_excel_knows_a_tables_separator_is_no_row(tmp_path, line):
    path = tmp_path / "rows.csv"
    path.write_text(f"{line}\r\ninstruction;output\r\nAdd 1, 2, 3.;6\r\nAdd 2, 2, 3.;7\r\n", newline="")
    rows, reading = talks(path)
    assert rows[0] == [("user", "Add 1, 2, 3."), ("assistant", "6")] and len(rows) == reading.read == 2


def test_a_file_with_the_rows_of_another_is_named(tmp_path):
    votes = [{"prompt": f"Add {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(4)]
    jsonl(tmp_path / "a.jsonl", votes)
    pandas.DataFrame(votes[::-1]).to_csv(tmp_path / "b.csv", index=False)
    jsonl(tmp_path / "c.jsonl", [*votes[:3], votes[0]])
    rows, reading = pairs(tmp_path)
    assert len(rows) == 12  # two people may have voted alike
    assert reading.warnings == ["b.csv has the same 4 rows as a.jsonl. If it is a copy, remove it."]


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
