"""`--import FILE`: rewards and stages of the user's own on the command line, and nowhere else."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.reporting import terminal
from labkit.runs.folder import Run
from labkit.runs.imports import IMPORTED, import_file, import_flags
from labkit.runs.jobs import Jobs
from labkit.stages import STAGES
from labkit.stages.registry import STAGE_DESCRIPTIONS
from labkit.stages.rewards import REWARD_FUNCTIONS, Custom
from tests.faults import tree
from tests.tiny_run import stub

REWARD = """
from labkit.stages.rewards import reward_function

@reward_function("short")
def short(prompt: str, response: str) -> float:
    return -float(len(response.split()))
"""
TABLES: list[dict[str, object]] = [STAGES, STAGE_DESCRIPTIONS, REWARD_FUNCTIONS, IMPORTED]  # type: ignore[list-item]


def forget(tables: list[dict[str, object]]) -> None:
    """What was imported since, as a new process has not."""
    for table, before in zip(TABLES, tables, strict=True):
        table.clear()
        table.update(before)
    for name in [name for name in sys.modules if name.startswith("imported_")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    """The tables as they were; what a test imports is forgotten after it."""
    known = [dict(table) for table in TABLES]
    monkeypatch.chdir(tmp_path)
    yield known
    forget(known)


def test_a_reward_is_trained_by_and_a_resumed_run_asks_for_its_file(before, tmp_path, monkeypatch, capsys):
    stub(monkeypatch)
    monkeypatch.setattr("labkit.stages.policy_gradient.PolicyGradientStage.evaluate", lambda *given: {})
    (tmp_path / "rewards.py").write_text(REWARD)
    flags = "--plan pretrain,sft,grpo --grpo.reward Custom --grpo.reward.function short --grpo.max-new-tokens 6"
    flags += " --grpo.train.steps 2 --grpo.train.batch-size 4 --grpo.train.max-length 250 --model.context 256"
    begun = ["run", "--preset", "smoke", "--out", "own", *flags.split(), "--stages", "pretrain"]
    assert main([*begun, "--import", "rewards.py"]) == 0
    file = str(tmp_path / "rewards.py")
    assert Run.open("own").imports == json.loads(Path("own/recipe.json").read_text())["imports"] == [file]
    assert terminal._command(["run", "--resume"]).endswith(f"--import {file}")

    forget(before)
    made, resumed = tree(tmp_path / "own"), ["run", "--preset", "smoke", "--out", "own", "--resume"]
    capsys.readouterr()
    assert main(resumed) == 2
    said = capsys.readouterr().err
    assert "There is no reward function 'short'" in said and f"own was made with --import {file}: add that.\n" in said
    assert tree(tmp_path / "own") == made, "a recipe runs no code"
    shutil.move("rewards.py", "moved.py")
    assert main([*resumed, "--import=moved.py"]) == 0
    records = Run.open("own").stage("grpo").step_records
    assert Run.open("own").recipe.stages["grpo"].reward == Custom("short")
    assert records and all(record["reward"] <= 0 for record in records)


def test_a_stage_is_a_command_and_a_run_without_its_file_names_it(before, tmp_path, monkeypatch, capsys):
    stub(monkeypatch)
    toy = (Path(__file__).parents[1] / "toy_stage.py").read_text().replace('"repeat"', '"mine"')
    (tmp_path / "mine.py").write_text(toy)
    assert main(["--import", "mine.py", "--help"]) == 0
    assert "  mine           train one stage: learn the conversations once more" in capsys.readouterr().out
    run = "run --preset smoke --out own --plan pretrain,sft,mine --mine.weight 0.5 --stages pretrain --import mine.py"
    assert main(run.split()) == 0
    assert Run.open("own").recipe.stages["mine"].weight == 0.5
    forget(before)
    capsys.readouterr()
    assert main(["recipe", "own"]) == 2
    file = tmp_path / "mine.py"
    assert re.search(f"There is no stage 'mine'.* own was made with --import {file}: add that", capsys.readouterr().err)
    assert main(["recipe", "own", "--import", "mine.py"]) == 0
    assert "--mine.weight 0.5" in capsys.readouterr().out


def test_a_run_without_imports_is_written_as_before(tmp_path, monkeypatch):
    stub(monkeypatch)
    assert main("run --preset smoke --out plain --stages pretrain".split()) == 0
    assert "imports" not in json.loads(Path("plain/recipe.json").read_text())


def test_a_file_is_run_once_under_a_name_of_no_other_module(tmp_path):
    (tmp_path / "json.py").write_text("import labkit\nlabkit.times_run = getattr(labkit, 'times_run', 0) + 1\n")
    import labkit

    import_file("json.py")
    import_file(tmp_path / "json.py")
    assert vars(labkit).pop("times_run") == 1 and sys.modules["json"] is json
    assert import_flags() == ["--import", str(tmp_path / "json.py")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no Python file own.py to import."),
        ("x = 1\n\nx.y\n", "own.py, line 3, cannot be imported: AttributeError: 'int' object has no attribute 'y'"),
        ("x = (\n", "own.py, line 1, cannot be imported: SyntaxError: '.' was never closed"),
        ("import sys\nsys.exit(0)\n", "own.py, line 2, cannot be imported: SystemExit: 0"),
        (
            "from labkit.stages import SFT, register\nregister('run', '')(SFT)\n",
            "own.py, line 2, .*'run' is not a valid",
        ),
    ],
)
def test_what_cannot_be_imported_is_refused_with_its_line(content, said, tmp_path, capsys):
    if content is not None:
        (tmp_path / "own.py").write_text(content)
    assert main(["world", "--import", "own.py"]) == 2
    assert re.match(f"labkit: {said}", capsys.readouterr().err) and not IMPORTED
    assert not any(name.startswith("imported_") for name in sys.modules)


def test_a_file_must_be_named_and_be_python(tmp_path, capsys):
    (tmp_path / "own.txt").write_text("x = 1")
    for arguments, said in {
        ("world", "--import"): "--import needs a Python file: --import rewards.py.",
        ("world", "--import="): "--import needs a Python file",
        ("world", "--import", "own.txt"): "There is no Python file own.txt",
        ("world", "--import", "."): "There is no Python file .",
    }.items():
        assert main(list(arguments)) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--import", "own.py"], ["--import=own.py"]])
def test_a_process_that_the_app_starts_imports_nothing(flags, tmp_path):
    with pytest.raises(LabError, match="only the command line takes it"):
        Jobs(tmp_path).start("own", ["run", "--out", "own", *flags])
    assert not any(tmp_path.iterdir())
