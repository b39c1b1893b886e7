"""A stage in one file, tests/toy_stage.py, is known everywhere once it is imported."""

import json
from dataclasses import replace
from typing import Any

import pytest

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.reporting.comparison import compare_runs, format_run_comparison
from labkit.reporting.page import render_run_report
from labkit.reporting.stage_section import stage_figures
from labkit.runs.folder import Run
from labkit.runs.plan import parse_plan
from labkit.stages import STAGES, Stage, register
from labkit.stages.registry import STAGE_DESCRIPTIONS
from labkit.ui import manage
from labkit.ui.lab import Lab
from tests.tiny import weights_hash
from tests.tiny_recipe import tiny_recipe


@pytest.fixture
def toy():
    """The stage is known while a test runs, and forgotten after it."""
    known = dict(STAGES), dict(STAGE_DESCRIPTIONS)
    from tests.toy_stage import Repeat

    STAGES["repeat"], STAGE_DESCRIPTIONS["repeat"] = Repeat, "learn the conversations once more"
    yield Repeat
    tables: list[Any] = [STAGES, STAGE_DESCRIPTIONS]
    for registered, before in zip(tables, known, strict=True):
        registered.clear()
        registered.update(before)


@pytest.fixture
def made(toy, tmp_path, monkeypatch):
    """A run with that stage, made by the command line."""
    recipe = replace(tiny_recipe(preset="smoke"), plan=parse_plan("pretrain,sft", tiny_recipe().plan))
    monkeypatch.setattr("labkit.runs.presets.make_recipe", lambda preset, **options: recipe)
    path = tmp_path / "runs" / "toy"
    given = ["run", "--out", str(path), "--plan", "pretrain,sft,repeat", "--repeat.weight", "0.5"]
    assert main([*given, "--repeat.train.steps", "3", "--repeat.train.max-length", "96"]) == 0
    return path


def test_the_command_line_and_the_recipe_know_it(made, capsys):
    assert main(["--help"]) == 0
    assert "  repeat         train one stage: learn the conversations once more" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["repeat", "--help"])
    assert "Learning once more. The conversations are learned a second time" in capsys.readouterr().out
    assert main(["recipe", str(made)]) == 0
    said = capsys.readouterr().out
    assert "--plan pretrain,sft,repeat" in said and "--repeat.weight 0.5" in said
    before = weights_hash(Run.open(made).model("repeat"))
    assert main(["repeat", str(made), "--again", "--weight", "0.25"]) == 0
    opened = Run.open(made)
    assert opened.recipe.stages["repeat"].weight == 0.25 and weights_hash(opened.model("repeat")) != before
    assert json.loads((made / "recipe.json").read_text())["recipe"]["plan"][2]["name"] == "repeat"


def test_the_report_its_curves_and_the_comparison_know_it(made, capsys):
    page = render_run_report(made)
    said = ("Learning once more", "The conversations are learned a second time", "surprise squared", "Weighed loss")
    assert [words for words in said if words not in page] == []
    stage = Run.open(made).stage("repeat")
    assert stage_figures("repeat", {}, stage.step_records)["weighed"][0] == "Weighed loss"
    assert main(["report", str(made)]) == 0
    assert "surprise squared (nats squared)" in capsys.readouterr().out
    compared = format_run_comparison(compare_runs(made, made))
    assert "repeat" in compared and "surprise squared" in compared


def test_the_apps_menus_know_it(made):
    lab = Lab(made.parent)
    assert lab.language_model_stages("toy") == ["pretrain", "sft", "repeat"]
    assert "repeat" in manage.available_stage_names()


def test_a_stages_name_is_its_own(toy):
    with pytest.raises(LabError, match="There is a stage repeat already, tests.toy_stage.Repeat"):

        @register("repeat", "something else")
        class Other(Stage):
            pass

    with pytest.raises(
        LabError,
        match=("'My stage' is not a valid name for a stage: use lower-case letters and digits, and none of preset"),
    ):
        register("My stage", "something else")(toy)
