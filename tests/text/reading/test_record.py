"""The record of a reading: counted, said in few lines, and said while a run begins."""

import pytest

from labkit.errors import LabError
from labkit.reporting.terminal import run_with_progress
from labkit.runs.pipeline import Progress
from labkit.text.reading import ReadReport
from labkit.text.reading.report import FileRead, abbreviate_names, format_locations, format_reading_lines


def a_reading():
    reading = ReadReport("rows", [FileRead("a.csv", "csv", "utf-8", 30), FileRead("b.parquet", "parquet", None, 1000)])
    reading.read, reading.removed_characters, reading.unused = 1030, 1234, ["column id"]
    for row in range(1, 8):
        reading.drop("empty answer", f"a.csv, row {row}")
    reading.drop("duplicate", count=3)
    return reading


def test_a_record_in_lines():
    assert format_reading_lines(a_reading().finish_and_check(1020).to_dict_with_source()) == [
        "rows (2 files, csv in utf-8, parquet): read 1,030, kept 1,020, dropped 7 empty answer, 3 duplicate, 1,234 "
        "characters removed by cleaning; not used: column id.",
        "  empty answer: a.csv, rows 1, 2, 3, 4, 5 and 2 more",
    ]


def test_what_is_named_and_what_is_only_counted():
    assert abbreviate_names("abc") == "a, b, c" and abbreviate_names("abcdefg") == "a, b, c, d, e and 2 more"
    assert format_locations(["a.csv, row 1", "b.csv, row 1", "a.csv, row 9"]) == "a.csv, rows 1, 9; b.csv, row 1"


def test_most_rows_gone_stops_but_not_for_copies():
    reading = ReadReport("rows")
    reading.read = 10
    reading.drop("duplicate", count=8)
    assert reading.finish_and_check(2).kept == 2
    reading.drop("near duplicate", count=6)
    with pytest.raises(LabError, match="rows: 6 of 10 rows cannot be used: 8 duplicate, 6 near duplicate"):
        reading.finish_and_check(1)


def test_a_run_says_what_it_read(tmp_path, capsys):
    events = (
        event for event in [Progress("text", "read", result=a_reading().finish_and_check(1020).to_dict_with_source())]
    )
    assert run_with_progress(events, tmp_path, lambda: ["again"]) == 0
    assert "text      rows (2 files, csv in utf-8, parquet): read 1,030, kept 1,020" in capsys.readouterr().err
