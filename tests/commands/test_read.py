"""`labkit read` as a user meets it."""

import json

import pytest

from labkit.cli import main

ROWS = [{"instruction": f"Add {n} and 1.", "output": f"It is {n + 1}.", "score": 3} for n in range(9)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [*ROWS, {"instruction": "Why?", "output": ""}])))
    return path


def test_as_json(file, capsys):
    assert main(["read", str(file), "--as", "instructions", "--json", "--rows", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "files": [{"path": "rows.jsonl", "format": "jsonl", "encoding": "utf-8", "rows": 10}],
        "read": 10,
        "kept": 9,
        "dropped": {"empty answer": 1},
        "unused": ["column score"],
        "warnings": ["empty answer: rows.jsonl, line 10"],
        "rows": [
            {"messages": [{"role": "user", "content": "Add 0 and 1."}, {"role": "assistant", "content": "It is 1."}]}
        ],
    }
    assert main(["read", str(file), "--as", "instructions", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 9


def test_for_a_reader(file, capsys):
    assert main(["read", str(file), "--as", "instructions"]) == 0
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first == (f"{file} (jsonl in utf-8): read 10, kept 9, dropped 1 empty answer; not used: column score.")
    assert second == "  empty answer: rows.jsonl, line 10"
    assert rest[:3] == ["", "user: Add 0 and 1.", "assistant: It is 1."] and len(rest) == 9


def test_what_is_refused_is_said_in_one_line(file, capsys):
    assert main(["read", str(file), "--as", "text"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert "rows.jsonl, line 1 has the columns instruction, output, score; plain text needs one of text" in err
    assert main(["read", str(file.with_name("none.jsonl")), "--as", "text"]) == 2


def test_what_cannot_be_held_out_is_shown_and_then_refused(tmp_path, capsys):
    rows = [{"prompt": "Why?", "chosen": f"So, {n}.", "rejected": "No."} for n in range(2)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["read", str(tmp_path / "rows.jsonl"), "--as", "preferences"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert "read 2, kept 2" in out and "chosen: So, 1." in out
    assert "all 2 pairs have the same prompt" in err
    assert main([*command, "--json"]) == 2 and not capsys.readouterr().out
