"""Files of rows in the forms that people have them in: JSON, tables, parquet, damaged ones among them."""

import gzip
import json

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from labkit.commands.read import KINDS, read_rows
from labkit.errors import LabError
from labkit.text.reading import csv_rows
from tests.text.reading.samples import ROWS, TALKS, as_csv, jsonl, pairs, talks

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


def test_a_cut_file_of_rows_that_is_named_txt_is_refused_as_rows(tmp_path):
    (tmp_path / "rows.txt").write_text(json.dumps(ROWS)[:-9])
    with pytest.raises(LabError, match="rows.txt is plain text; .* rows.txt starts like JSON but is not valid JSON"):
        talks(tmp_path / "rows.txt")


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
