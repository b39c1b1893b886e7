"""`labkit read` as a user meets it."""

import json

import pytest

from labkit.commands.main import main

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


def test_what_can_be_no_data_set_of_the_hub_is_not_looked_for_there(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("labkit.text.reading.rows.hub_rows", lambda name: pytest.fail(f"{name} is looked for"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nothing")
    (tmp_path / "corpus.txt").write_text("Tom is in the park.\n" * 9)
    words = {
        "loop": "loop is a symbolic link to itself or to nothing",
        "gone": "gone is a symbolic link to itself or to nothing",
        "loop/rows": "loop is a symbolic link to itself or to nothing",
        "-": "There is no file or folder -",
        "name-": "There is no file or folder name-",
        "语料": "There is no file or folder 语料",
        "": "The name of the source is empty",
        " ": "The name of the source is empty",
    }
    for source, said in words.items():
        assert main(["read", "--as", "text", "--", source] if source == "-" else ["read", source, "--as", "text"]) == 2
        out, err = capsys.readouterr()
        assert said in err and err.count("\n") == 1 and not out


@pytest.mark.parametrize("flag", ["text", "instructions", "preferences"])
def test_a_run_is_not_begun_on_an_empty_name(flag, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("Tom is in the park.\n" * 9)
    assert main(["run", "--out", "new", f"--{flag}", ""]) == 2
    assert f"Recipe: {flag} is empty" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_what_cannot_be_held_out_is_shown_and_then_refused(tmp_path, capsys):
    rows = [{"prompt": "Why?", "chosen": f"So, {n}.", "rejected": "No."} for n in range(2)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["read", str(tmp_path / "rows.jsonl"), "--as", "preferences"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert "read 2, kept 2" in out and "chosen: So, 1." in out
    assert "all 2 pairs have the same prompt" in err
    assert main([*command, "--json"]) == 2 and not capsys.readouterr().out
