"""The progress file: kept whole, by several at once, set aside when damaged; and a class's as a table."""

import csv
import errno
import io
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import pytest

from labkit.commands.main import main
from labkit.course import check
from labkit.course.progress import progress_file, read_progress, record_answer
from labkit.course.registry import all_exercises
from tests.course_answers import right_answer
from tests.faults import tree, without_root_rights


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def right(id: str):
    one = next(exercise for exercise in all_exercises() if exercise.id == id)
    return check(id, right_answer(one), **one.checker.given)


def test_answers_are_counted_until_right():
    check("00.2")
    assert not progress_file().exists()
    for answer in (0.72, 0.72, 0.8, 0.74, 0.5):
        check("00.2", answer)
    kept = read_progress(Path("runs/course.json"))["00.2"]
    assert kept.right and kept.attempts == 3 and kept.feedback.startswith("✓") and kept.last.endswith("+00:00")
    assert kept.mistakes == {"both wrong forgotten": 1, "mistakes of the annotator forgotten": 1}


def test_a_notebook_keeps_it_beside_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    right("00.2")
    assert read_progress(tmp_path / "runs" / "course.json")["00.2"].right


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"exercises": {"00.2": 3}}', '{"exercises": {"00.2": {"right": 1}}}', "\udcff"]
)
def test_a_damaged_file_is_set_aside_and_said(damage):
    file = Path("runs/course.json")
    file.parent.mkdir()
    file.write_bytes(damage.encode("utf-8", "surrogateescape"))
    said = right("00.2")
    assert said and "It is kept as course.damaged-1.json; progress begins anew." in said.text
    assert read_progress(file)["00.2"].right
    assert Path("runs/course.damaged-1.json").read_bytes() == damage.encode("utf-8", "surrogateescape")


def test_a_file_that_may_not_be_read_is_left_as_it_is(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.chdir(folder)
        right("00.2")
        file, runs = Path("runs/course.json"), Path("runs")
        Path(folder).chmod(0o777)
        runs.chmod(0o777)
        (runs / ".course.json.lock").chmod(0o666)
        before = tree(runs)
        file.chmod(0)
        with without_root_rights():
            said = check("00.1", 0.5, vocabulary=512)
        file.chmod(0o644)
        assert "The progress could not be kept: runs/course.json cannot be read: permission denied." in said.text
        assert "chmod u+rX runs/course.json" in said.text and tree(runs) == before
        runs.chmod(0)
        with without_root_rights():
            said = check("00.1", 0.5, vocabulary=512)
        runs.chmod(0o777)
        assert "The progress could not be kept: " in said.text and tree(runs) == before
        monkeypatch.chdir("/")


def test_a_pipe_in_its_place_is_refused_at_once():
    Path("runs").mkdir()
    os.mkfifo("runs/course.json")
    assert "The progress could not be kept: runs/course.json is a pipe" in right("00.2").text
    assert Path("runs/course.json").is_fifo()


def test_a_link_is_written_through(tmp_path):
    """To a disk that is shared, say; then the lock and what is set aside are there, too."""
    shared = tmp_path / "shared"
    shared.mkdir()
    Path("runs").mkdir()
    Path("runs/course.json").symlink_to(shared / "mine.json")
    for id in ("00.2", "00.3"):
        right(id)
    assert Path("runs/course.json").is_symlink() and list(read_progress(shared / "mine.json")) == ["00.2", "00.3"]
    (shared / "mine.json").write_text("{")
    assert "mine.damaged-1.json" in right("00.2").text
    assert Path("runs/course.json").is_symlink() and (shared / "mine.damaged-1.json").read_text() == "{"
    assert list(read_progress(progress_file())) == ["00.2"] and list(Path("runs").iterdir()) == [progress_file()]


def test_what_another_labkit_has_written_is_kept():
    check("00.2", 0.72)
    held = json.loads(progress_file().read_text())
    held["exercises"]["00.2"]["minutes"] = 3
    held["exercises"]["99.1"] = dict(held["exercises"]["00.2"], hints=["one"])
    progress_file().write_text(json.dumps(held | {"format": 2, "course": {"year": 2027}}))
    right("00.2")
    kept = json.loads(progress_file().read_text())
    assert kept["format"] == 2 and kept["course"] == {"year": 2027}
    assert kept["exercises"]["00.2"]["minutes"] == 3 and kept["exercises"]["00.2"]["right"] is True
    assert kept["exercises"]["99.1"] == held["exercises"]["99.1"]


def test_where_nothing_can_be_written_the_answer_is_still_checked():
    Path("runs").write_text("a file")
    said = right("00.2")
    assert said and "The progress could not be kept" in said.text


def _record(folder: str, first: int) -> None:
    import os

    os.chdir(folder)
    for number in range(first, first + 10):
        record_answer(f"00.{number}", True, "right")


def test_several_notebooks_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_record, args=(str(tmp_path), first)) for first in (10, 20, 30)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(read_progress(progress_file())) == 30


def test_progress_and_solutions_are_printed(capsys):
    right("00.2")
    check("00.1", 0.5, vocabulary=512)
    assert main(["course"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("✓ right   ✗ not right yet   · not answered\n")
    assert "00  The whole recipe        ✗ ✓ · · ·    1 of 5 right" in said
    assert "00.1  1 attempt. Before training" in said
    for which in ("00", "0"):
        assert main(["course", "--solutions", which]) == 0
        assert capsys.readouterr().out.count("def ") == 5
    for which in ("00.2", "0.2"):
        assert main(["course", "--solutions", which]) == 0
        assert capsys.readouterr().out.startswith("# 00.2")
    assert main(["course", "--solutions", "12.1"]) == 0
    assert "# The answer: 'from that word on'" in capsys.readouterr().out
    for which in ("77", "00.9", "00.", "", "7.", "007"):
        assert main(["course", "--solutions", which]) == 2
    assert "there are 00" in capsys.readouterr().err


def test_marks_are_told_apart_where_the_terminal_has_ascii_alone(monkeypatch):
    right("00.2")
    check("00.1", 0.5, vocabulary=512)
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    monkeypatch.setattr(sys, "stdout", printed)
    assert main(["course"]) == 0
    printed.seek(0)
    said = printed.read()
    assert said.startswith("v right   x not right yet   . not answered") and "x v . . ." in said


def _student(name: str, *ids: str) -> str:
    for id in ids:
        right(id)
    target = Path(name) / "runs"
    target.mkdir(parents=True)
    progress_file().rename(target / "course.json")
    return name


def test_a_class_becomes_a_table(capsys):
    check("00.2", 0.8)
    anna, formula = _student("anna", "00.1"), _student("=HYPERLINK(1)", "00.1", "00.2")
    (Path(anna) / "runs" / "course.json").rename("maria.json")
    Path("empty").mkdir()
    Path("old.json").write_text(json.dumps({"exercises": {}}))
    places = ["maria.json", formula, "empty", "gone", "old.json"]
    assert main(["course", "--export", "class.csv", *places]) == 1
    captured = capsys.readouterr()
    assert "empty holds no progress" in captured.err and "gone is not there" in captured.err
    assert "00.2  1 of 2 right" in captured.out and "mistakes of the annotator forgotten (1)" in captured.out
    rows = list(csv.DictReader(Path("class.csv").open(encoding="utf-8-sig")))
    assert [row["student"] for row in rows] == ["maria", "'=HYPERLINK(1)", "old"]
    assert [row["right"] for row in rows] == ["1", "2", "0"] and [row["tried"] for row in rows] == ["2", "2", "0"]
    assert [rows[0][f"00.{number}"] for number in (1, 2, 3)] == ["1", "0", ""]
    assert main(["course", "--export", "class.csv", "maria.json"]) == 0  # the table is replaced


def test_one_folder_that_may_not_be_read_stops_no_class(capsys, monkeypatch):
    good, closed = _student("李明", "00.2"), Path("closed")
    is_file = Path.is_file

    def refused(path):
        if closed in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    closed.mkdir()
    monkeypatch.setattr(Path, "is_file", refused)
    assert main(["course", "--export", "class.csv", "closed", good]) == 1
    assert "labkit: closed cannot be read: permission denied." in capsys.readouterr().err
    held = Path("class.csv").read_bytes()
    assert held.startswith("\ufeffstudent,right".encode()) and "李明,1,".encode() in held


def test_a_table_is_replaced_with_its_byte_order_mark_or_without(capsys, monkeypatch):
    student, table = _student("anna", "00.2"), Path("class.csv")
    for text in ("student,right,tried,exercises,last answer\n", "\ufeffstudent,right,tried,exercises,last answer\n"):
        table.write_text(text, encoding="utf-8")
        assert main(["course", "--export", "class.csv", student]) == 0
        assert table.read_bytes().count(b"\xef\xbb\xbf") == 1

    def refused(path, *given, **more):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("labkit.course.classroom._is_table", refused)
    assert main(["course", "--export", "class.csv", student]) == 2
    assert "labkit: class.csv cannot be read: permission denied." in capsys.readouterr().err


def test_students_of_the_same_name_are_told_apart():
    places = [_student("a/lab", "00.2"), _student("b/lab", "00.2")]
    assert main(["course", "--export", "class.csv", *places]) == 0
    assert "a/lab,1," in Path("class.csv").read_text() and "b/lab,1," in Path("class.csv").read_text()


def test_a_link_to_a_students_folder_is_called_as_the_link(tmp_path, capsys):
    anna = _student("u1/labkit", "00.2")
    (tmp_path / "students").mkdir()
    for name in ("anna", "bob"):
        (tmp_path / "students" / name).symlink_to(tmp_path / anna)
    assert main(["course", "--export", "class.csv", "students/anna", "students/bob"]) == 1
    rows = Path("class.csv").read_text(encoding="utf-8-sig").splitlines()
    assert [row.split(",")[0] for row in rows] == ["student", "anna", "bob"]
    assert "students/bob leads to the same file" in capsys.readouterr().err


def test_what_a_student_writes_into_the_file_reaches_no_sheet_and_no_terminal(tmp_path, capsys):
    fine = '{"exercises": {"00.2": {"right": true, "attempts": 1, "mistakes": {}, "feedback": "", "last": "%s"}}}'
    for name, last in (("a;=cmd|1", ";=cmd|1"), ("b\x1b[31m\nc", "2026-01-02T03:04:05+00:00")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "course.json").write_text(fine % last)
    assert main(["course", "--export", "class.csv", "a;=cmd|1", "b\x1b[31m\nc"]) == 0
    rows = list(csv.DictReader(Path("class.csv").open(encoding="utf-8-sig")))
    assert [row["student"] for row in rows] == ["a,=cmd|1", "b?[31m?c"]
    assert [row["last answer"] for row in rows] == ["", "2026-01-02T03:04:05+00:00"]
    assert main(["course", "b\x1b[31m\nc", "gone\x1b"]) == 1
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


def test_where_the_working_folder_is_gone_the_answer_is_still_checked(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = right("00.2")
    monkeypatch.chdir(tmp_path)
    assert said and "The progress could not be kept" in said.text


def test_a_table_replaces_nothing_else(capsys):
    student = _student("anna", "00.2")
    Path("notes.csv").write_text("mine")
    for arguments in (["notes.csv", student], [student, student], ["new.csv"], ["new.csv", "gone"]):
        assert main(["course", "--export", *arguments]) == 2
    assert Path("notes.csv").read_text() == "mine" and not Path("new.csv").exists()
    assert "needs the students' folders" in capsys.readouterr().err


def test_odd_files_and_names_are_said_and_the_others_are_in_the_table(tmp_path, monkeypatch, capsysbinary):
    def student(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / "course.json").write_text(text)
        return str(tmp_path / name)

    fine = '{"exercises": {"03.1": {"right": true, "attempts": 1, "mistakes": {}, "feedback": "", "last": "%s"}}}'
    deep, long = "[" * 100_000, fine.replace('"attempts": 1', f'"attempts": {10**400}') % ""
    places = [student("anna", fine % ""), student("deep", deep), student("long", long)]
    places.append(student("half", fine % "\\ud800"))
    places += [student("caf\udce9", fine % ""), str(tmp_path / "anna"), str(tmp_path / ("n" * 300))]
    assert main(["course", "--export", str(tmp_path / "class.csv"), *places]) == 1
    said = capsysbinary.readouterr().err.decode()
    for words in ("nested too deeply", "have no numbers", "counted once", "nnn"):
        assert words in said
    rows = (tmp_path / "class.csv").read_text(encoding="utf-8-sig").splitlines()
    assert [row.split(",")[0] for row in rows] == ["student", "anna", "half", "caf?"]


def test_a_file_nested_too_deeply_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "course.json").write_text("[" * 100_000)
    assert "course.damaged-1.json" in check("03.1", 8).text
