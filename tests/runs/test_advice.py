"""What the doctor finds goes everywhere: to who runs a recipe, to the terminal, a notebook, the report and the app."""

import pytest

from labkit.files import read_json
from labkit.reporting.notebook import show_progress
from labkit.reporting.page import render_run_report
from labkit.reporting.terminal import run_with_progress
from labkit.runs import pipeline
from labkit.runs.jobs import Jobs
from labkit.stages import SFT
from labkit.stages.doctor import Case, check
from labkit.ui import shell
from labkit.ui.lab import Lab
from labkit.ui.runs import RunTabUpdates
from tests.tiny_run import RECIPE, STAGES, make, stub

REWARDED_ALIKE = (
    "All answers of the last 5 rollouts got the same reward, 1: nothing tells a good answer from a bad one. Change "
    "what judges them (--sft.reward) so that it tells answers of this policy apart, or raise --sft.temperature where "
    "they are all alike."
)
LINE = f"step 2, warning: {REWARDED_ALIKE}"


@check("loss", at_least=2)
def unwell(case: Case) -> str:
    return REWARDED_ALIKE


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    stub(monkeypatch)
    monkeypatch.setattr(SFT, "checks", (unwell,))


def test_it_is_an_event_and_kept_in_the_report(tmp_path):
    events = [event for event in pipeline.run(RECIPE, tmp_path / "run", STAGES) if event.stage == "sft"]
    assert [event.phase for event in events] == ["prepare", "train", "train", "advice", "evaluate", "finished"]
    found = {"step": 2, "check": "unwell", "message": REWARDED_ALIKE, "is_warning": True}
    assert (events[3].steps_done, events[3].result) == (2, found)
    pretrain, sft = read_json(tmp_path / "run" / "report.json")["stages"]
    assert sft["advice"] == [found] and "advice" not in pretrain
    assert f"<li>{LINE}</li>" in render_run_report(tmp_path / "run")


def test_it_is_said_in_the_terminal_and_in_a_notebook(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("labkit.reporting.page.write_report", lambda folder: folder)
    assert run_with_progress(pipeline.run(RECIPE, tmp_path / "run", STAGES), tmp_path / "run", lambda: []) == 0
    assert f"sft       {LINE}\n" in capsys.readouterr().err
    show_progress(pipeline.run(RECIPE, tmp_path / "other", STAGES))
    assert f"sft, {LINE}\n" in capsys.readouterr().out


def test_what_was_said_before_a_stop_is_kept(tmp_path):
    for event in pipeline.run(RECIPE, tmp_path / "run", STAGES):
        if event.phase == "advice":
            break
    resumed = pipeline.run(RECIPE, tmp_path / "run", STAGES, resume=True)
    assert "advice" not in [event.phase for event in resumed]
    assert len(read_json(tmp_path / "run" / "report.json")["stages"][1]["advice"]) == 1


def test_it_stands_above_the_curves_of_the_app_in_the_language_of_the_page(tmp_path, monkeypatch):
    make(RECIPE, tmp_path / "mine")
    look = RunTabUpdates(Lab(tmp_path), Jobs(tmp_path)).component_updates
    assert (
        look("mine", None, "sft", None)[0]["value"] == LINE and not look("mine", None, "pretrain", None)[0]["visible"]
    )
    monkeypatch.setattr(shell, "is_page_in_chinese", lambda: True)
    assert look("mine", None, "sft", None)[0]["value"].startswith("第 2 步，警告：最近 5 次采样的所有回答奖励都是 1：")
