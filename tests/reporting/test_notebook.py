"""What a notebook shows of a run, event by event."""

from labkit.reporting.notebook import show_progress
from labkit.runs.pipeline import Progress
from labkit.text.reading import ReadReport


def test_what_was_read_and_what_was_made_is_said(capsys):
    reading = ReadReport("rows")
    reading.read = 12
    result = {"stage": "dpo", "seconds": 3.0, "metrics": {"win_rate": 0.75}}
    record = reading.finish_and_check(12).to_dict_with_source()
    show_progress([Progress("preferences", "read", result=record), Progress("dpo", "finished", 5, 5, result=result)])
    said = capsys.readouterr().out
    assert "preferences: " in said and "read 12, kept 12" in said
    assert "dpo: win rate against the initial model 75.0 %, 3 s" in said
