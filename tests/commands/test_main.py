"""The command line as a user meets it: what it prints, its exit codes, and what it leaves on disk."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labkit.commands import main as cli
from labkit.commands.main import main
from labkit.commands.stage_descriptions import stage_descriptions
from labkit.runs.folder import Run
from labkit.stages import STAGES
from labkit.studies.methods import NAMED_SETTINGS, RELABELLED, method_names, method_stage_name
from labkit.studies.options import NAMED_METHODS

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--preset smoke --tokenizer.documents 60 --model.width 32 --model.depth 1 "
    "--pretrain.train.steps 6 --pretrain.train.batch-size 2 --sft.train.steps 4 --sft.train.batch-size 2 "
    "--evaluation.documents 4 --evaluation.stories 2 --evaluation.tasks-per-kind 1 "
    "--evaluation.majority-baseline-tasks 4 "
    "--evaluation.novelty-documents 10 --evaluation.story-max-new-tokens 12 --evaluation.answer-max-new-tokens 4 "
    "--evaluation.policy-prompts 4 "
    "--annotation.prompts 12 --annotation.held-out 6 --annotation.max-new-tokens 6 --annotation.keep-ties "
    "--reward.train.steps 3 --ppo.train.steps 2 --ppo.train.batch-size 8 --ppo.max-new-tokens 6 --dpo.train.steps 3"
).split()

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""The environment of a console that knows ASCII alone."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A whole run, made by the command."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main(["run", "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The same run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def labkit(*arguments: str, **more) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "labkit", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def test_help_of_every_command_needs_no_torch():
    code = """
import sys
from labkit.commands.main import COMMANDS, main
assert main(["--help"]) == 0
for command in [*COMMANDS, "dpo", "dpo-strict"]:
    try:
        main([command, "--help"])
    except SystemExit as ended:
        assert ended.code == 0, command
heavy = {"torch", "plotly", "transformers", "datasets", "gradio"} & sys.modules.keys()
sys.exit(f"{heavy} was loaded" if heavy else 0)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert all(command in ended.stdout for command in cli.COMMANDS)
    assert ended.stdout.count("Direct preference optimisation. The fine-tuned model is trained") == 2


def test_what_help_reads_in_the_stages_files_is_what_they_say():
    for kind, said in stage_descriptions().items():
        stage = STAGES[kind]
        assert said[1:5] == (stage.title, stage.about, stage.batch_unit, stage.online)
        assert said.is_policy == (kind in method_names())
    kinds = list(stage_descriptions())
    assert kinds[:3] == ["pretrain", "sft", "distill"]
    assert kinds.index("reward") < kinds.index("ppo") < kinds.index("dpo")


def test_the_help_of_the_study_lists_every_method_with_those_that_sample_first(capsys):
    assert main(["study", "alignment", "--help"]) == 0
    said = capsys.readouterr().out
    listed = [line.split()[0] for line in said.splitlines() if re.match("  [a-z]", line)]
    assert sorted(listed) == sorted(method_names()) and listed.index("rlvr") < listed.index("dpo")
    assert {name: stage for name, (stage, _) in NAMED_METHODS.items()} == {
        name: method_stage_name(name).partition("-")[0] for name in [*NAMED_SETTINGS, *RELABELLED]
    }


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["run", "--plan", "pretrain,simpo"], ["--simpo.gamma FLOAT", "margin by which", "--annotation.prompts"]),
        (["run", "--plan", "grpo", "--grpo.kl", "KLInReward"], ["--grpo.kl.target", "KLInReward (or NoKL, KLInLoss)"]),
        (["run", "--plan=dpo,dpo-strict"], ["--dpo-strict.beta", "--dpo.train.batch-size counts pairs of answers."]),
        (
            ["study", "alignment", "--methods", "rlvr", "dpo-strict"],
            ["--grpo-rlvr.reward Verifier", "--dpo-strict.beta"],
        ),
        (["study", "rounds", "--method", "rloo"], ["--rloo.num-generations", "to each prompt."]),
    ],
)
def test_help_with_stages_lists_their_settings_which_the_command_takes(arguments, shown, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--help"]) == 0
    said = capsys.readouterr().out
    assert all(words in said for words in shown) and said.startswith(f"usage: labkit {arguments[0]} ")
    assert not list(tmp_path.iterdir())


def test_help_with_a_plan_refuses_a_stage_that_is_none(capsys):
    assert main(["run", "--plan", "sing", "--help"]) == 2
    assert "There is no stage 'sing'" in capsys.readouterr().err


def test_recipe_lists_the_settings_of_a_plan(capsys):
    assert main(["recipe", "--plan", "pretrain,sft,simpo@sft"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "--plan pretrain,sft,simpo@sft" and "--simpo.gamma 0.5" in lines


def test_no_command_prints_the_commands(capsys):
    assert main([]) == 0
    assert "labkit run --preset smoke" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "there is no command 'fly'; the commands are run, pretrain"),
        (["chat", "nowhere"], "nowhere contains no run"),
        (["report", "nowhere"], "nowhere contains no run"),
        (["compare", "nowhere", "here"], "nowhere contains no run"),
        (["generate", "nowhere"], "nowhere contains no run"),
        (["world", "--question-type", "magic"], "has no task 'magic'; it has where"),
        (["run", "--out", "new", "--stages", "grpo"], "no stage grpo; it has pretrain, sft"),
        (["run", "--out", "new", "--text", "missing.txt"], "missing.txt"),
        (["pretrain", "--again"], "name the run's folder first"),
        (["bench", "run", "--seeds"], "at least one seed"),
        (["bench", "run", "--seeds", "-1"], "--seeds must be values that are each at least 0"),
        (["run", "--out", "new", "--seed", "-1"], "--seed must be at least 0"),
        (["decode-compare", "nowhere", "--samples", "0"], "--samples must be at least 1"),
        (["decode-compare", "nowhere", "--tasks", "-1"], "--tasks must be at least 0"),
        (["generate", "nowhere", "--count", "0"], "--count must be at least 1"),
        (["generate", "nowhere", "--top-k", "-3"], "--top-k must be at least 0"),
        (["generate", "nowhere", "--max-tokens", "0"], "--max-tokens must be at least 1"),
        (["chat", "nowhere", "--temperature", "nan"], "--temperature must be at least 0, not nan"),
        (["world", "--count", "0"], "--count must be at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.splitlines()[-1].startswith("labkit: ") and "Traceback" not in said


def test_a_whole_run_leaves_models_and_a_report(finished):
    report = json.loads((finished / "report.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == ["pretrain", "sft", "reward", "ppo", "dpo"]
    assert {"seconds", "tokens", "flops", "mfu", "peak_memory_mb", "metrics"} <= report["stages"][0].keys()
    assert len(report["stages"][1]["samples"]) == 5
    assert (finished / "sft" / "model.safetensors").is_file()
    assert (finished / "report.html").read_text().startswith("<!doctype html>")


def test_a_folder_in_use_is_refused_and_resuming_it_keeps_what_is_there(finished, capsys):
    before = (finished / "sft" / "model.safetensors").stat().st_mtime_ns
    assert main(["run", "--out", str(finished), *SMALL]) == 2
    assert "already contains a run" in capsys.readouterr().err
    assert main(["run", "--out", str(finished), "--resume"]) == 0
    assert "already finished" in capsys.readouterr().err
    assert (finished / "sft" / "model.safetensors").stat().st_mtime_ns == before


def test_resuming_with_another_recipe_names_the_difference(finished, capsys):
    assert main(["run", "--out", str(finished), "--resume", "--seed", "7"]) == 2
    assert "seed: 0, not 7" in capsys.readouterr().err
    assert main(["run", "--out", str(finished), "--resume", "--model.depth", "2"]) == 2
    assert "model.depth: 1, not 2" in capsys.readouterr().err


def test_a_stage_built_on_another_run(finished, tmp_path, capsys):
    out = tmp_path / "other"
    ask = ["run", "--out", str(out), "--build-on", str(finished)]
    assert main(ask) == 2 and "needs the stages to train" in capsys.readouterr().err
    assert main([*ask, "--stages", "dpo", "--model.depth", "2"]) == 2
    assert "would be a different model with a different model.depth" in capsys.readouterr().err and not out.exists()
    assert main([*ask, "--stages", "dpo", "--dpo.beta", "0.5"]) == 0
    made = json.loads((out / "report.json").read_text())
    assert [stage["stage"] for stage in made["stages"]] == ["pretrain", "sft", "dpo"]
    assert made["recipe"]["plan"][-1]["stage"]["beta"] == 0.5 and made["recipe"]["model"]["width"] == 32
    assert main([*ask, "--stages", "dpo"]) == 2 and "already contains a run" in capsys.readouterr().err


def test_stages_can_be_made_one_by_one(tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert main(["run", "--out", folder, "--stages", "pretrain", *SMALL]) == 0
    assert main(["chat", folder, "--stage", "sft"]) == 2
    assert "not finished" in capsys.readouterr().err
    assert main(["sft", folder, "--train.steps", "3"]) == 0
    assert "sft       3 steps" in capsys.readouterr().err
    assert main(["sft", folder]) == 2
    assert f"labkit sft {folder} --again" in capsys.readouterr().err
    assert main(["pretrain", folder, "--again"]) == 0
    assert (tmp_path / "run" / "pretrain" / "result.json").is_file()
    assert not (tmp_path / "run" / "sft").exists()


def test_report_prints_measures_by_stage_and_by_question_type(finished, capsys):
    assert main(["report", str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["pretrain", "sft", "reward", "ppo", "dpo"]
    assert any(line.startswith("accuracy  ") for line in lines)
    assert any(line.startswith("accuracy by question type") and "without the story" in line for line in lines)


def test_generate_is_the_same_for_the_same_seed(finished, capsys):
    def written(*more: str) -> str:
        assert main(["generate", str(finished), "--max-tokens", "8", *more]) == 0
        return capsys.readouterr().out

    assert written("--seed", "1") == written("--seed", "1") != written("--seed", "2")
    assert written("--prompt", "Tom went").startswith("Tom went")
    assert len(written("--count", "3", "--top-k", "5", "--top-p", "0.9").strip("\n").split("\n\n")) <= 3
    assert written("--chat", "--prompt", "Where is Tom?", "--temperature", "0")


def test_chat_answers_what_comes_through_a_pipe(finished, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "stdin", io.StringIO("/help\n/hlep\n/story\nWhere is Tom?\n\n/new\nHello\\nthere\n/quit\nnever read\n")
    )
    assert main(["chat", str(finished), "--max-tokens", "5"]) == 0
    said, warned = capsys.readouterr()
    assert "There is no /hlep; /help lists the commands." in warned
    assert "/story" in said and "." in said
    assert "never read" not in said


def test_a_bad_sampling_setting_is_said_in_words(finished, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    assert main(["chat", str(finished), "--top-p", "2"]) == 2
    assert "--top-p must be above 0 and at most 1, not 2" in capsys.readouterr().err


def test_world_shows_a_document_and_scored_answers(capsys):
    assert main(["world", "--size", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "── a document" in said and "a right answer" in said and "thorough" in said
    assert main(["world", "--size", "tiny", "--question-type", "where", "--count", "2"]) == 0
    assert capsys.readouterr().out.count("── a task: where") == 2


def test_a_reader_who_has_seen_enough_is_no_error():
    process = labkit("world", "--count", "20")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("environment", "shell"),
    [
        (PLAIN, "echo 'Wo ist Tom? Größe 你好' | LABKIT chat RUN"),
        ({"PYTHONIOENCODING": "cp1252"}, "echo 你好 | LABKIT chat RUN"),
        (PLAIN, "LABKIT world --size tiny"),
        ({}, "LABKIT chat RUN <&-"),
        ({}, "LABKIT report RUN >&-"),
        ({}, "LABKIT report RUN <&- >&- 2>&-"),
    ],
)
def test_a_console_of_any_kind(environment, shell, copied):
    """Signs that it cannot show, no input, no output: no traceback, and nothing printed into a file of the run's."""
    line = shell.replace("LABKIT", f"{sys.executable} -m labkit").replace("RUN", f"{copied}")
    line = line.replace(" chat ", " chat --max-tokens 3 ")
    more = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    ended = subprocess.run(["bash", "-c", line], capture_output=True, env=more, timeout=120)
    assert ended.returncode == 0, ended.stderr.decode()
    assert b"Traceback" not in ended.stderr
    assert (copied / "report.html").read_text().startswith("<!doctype html>")


def test_an_output_on_a_full_disk_is_a_line():
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m labkit world --size tiny > /dev/full"],
        capture_output=True, cwd=ROOT, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 2 and ended.stderr == "labkit: [Errno 28] No space left on device\n"


@pytest.mark.slow
def test_a_run_in_use_is_refused_and_ctrl_c_leaves_one_that_goes_on(tmp_path, monkeypatch, capsys):
    """While one process makes a run another's commands are refused in words; what the first makes is whole, and after
    ctrl-C it says how to go on.
    """
    folder = tmp_path / "run"
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)  # which the advice would name
    steps = ["--pretrain.train.steps", "100000"]
    process = labkit("run", "--out", str(folder), *SMALL, *steps, "--stages", "pretrain")
    metrics = folder / "pretrain" / "metrics.jsonl"
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    for command in (["run", "--out", str(folder), *SMALL], ["run", "--out", str(folder), "--resume"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"in use: another process (PID {process.pid}" in said, said
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"To resume: labkit run --out {folder} --resume --stages pretrain\n" in said and "Traceback" not in said
    records = Run.open(folder).stage("pretrain").step_records
    assert [record["step"] for record in records] == [*range(1, len(records) + 1)] and not (folder / ".lock").exists()
    assert (folder / "pretrain" / "checkpoints" / f"step-{len(records):08d}").is_dir()


def test_resuming_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    """The first ctrl-C comes at step 3 and is only noted; the run stops between two steps, with a checkpoint."""
    from labkit.reporting import terminal

    folder = tmp_path / "run"
    bar = terminal.tqdm.update

    def update(self, n):
        bar(self, n)
        if self.n == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal.tqdm, "update", update)
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)  # which the advice would name
    assert main(["run", "--out", str(folder), "--stages", "pretrain", *SMALL]) == 130
    said = capsys.readouterr().err
    assert "Stopping after this step" in said
    assert f"To resume: labkit run --out {folder} --resume --stages pretrain\n" in said
    assert (folder / "pretrain" / "checkpoints" / "step-00000003").is_dir()
    monkeypatch.setattr(terminal.tqdm, "update", bar)
    assert main(["run", "--out", str(folder), "--resume"]) == 0
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("command", "again", "advice"),
    [
        (
            ["sft", "RUN", "--again", "--train.muon-lr", "0.002"],
            "prepare",
            ["sft", "RUN", "--again", "--train.muon-lr", "0.002"],
        ),
        (["sft", "RUN", "--again", "--train.muon-lr", "0.002"], "train", ["sft", "RUN"]),
        (["run", "--out", "RUN", "--resume"], "train", ["run", "--out", "RUN", "--resume"]),
        (["demo", "--run", "RUN", "--out", "a b"], "train", ["demo", "--run", "RUN", "--out", "a b"]),
    ],
)
def test_the_advice_of_ctrl_c_is_a_command_that_goes_on(command, again, advice, copied, monkeypatch, capsys):
    """Stopped in the preparation, nothing has changed: the same command. Stopped in a step: what is left of it."""
    from labkit.runs import pipeline

    def stopped(*given, **more):
        raise KeyboardInterrupt

    if command[0] != "sft":
        shutil.rmtree(copied / "dpo")
    if command[0] == "demo":
        monkeypatch.setattr("labkit.runs.presets.make_recipe", lambda name: Run.open(copied).recipe)
    monkeypatch.setattr(pipeline, {"prepare": "prepare_inputs", "train": "fit"}[again], stopped)
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)  # which the advice would name
    assert main([word.replace("RUN", str(copied)) for word in command]) == 130
    shown = shlex.join(word.replace("RUN", str(copied)) for word in advice)
    assert capsys.readouterr().err.endswith(f"Stopped. To resume: labkit {shown}\n")
    if command[0] == "sft" and again == "train":
        assert main(["sft", str(copied), "--undo"]) == 0
        assert Run.open(copied).stage("dpo").finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_outside_of_steps_or_twice_stop_at_once(number):
    from labkit.reporting.terminal import stop_on_interrupt

    before = signal.getsignal(number)
    with stop_on_interrupt() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        stop.stepping = True
        signal.raise_signal(number)
        assert stop.asked and stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_real_text_goes_through_the_same_stages(corpora, tmp_path, capsys):
    given = ["--text", str(corpora / "tinyshakespeare.txt"), "--instructions", str(corpora / "instructions.json")]
    rows = "--evaluation.characters 2000 --pretrain.train.max-length 64 --sft.train.max-length 128".split()
    assert main(["run", "--out", str(tmp_path / "real"), *given, *SMALL, *rows, "--tokenizer.vocabulary", "400"]) == 0
    said = capsys.readouterr().out
    assert "bits per byte" in said and "grammatical" not in said
    assert "What is not measured here" in (tmp_path / "real" / "report.html").read_text()
    assert main(["generate", str(tmp_path / "real"), "--prompt", "KING", "--max-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("KING")
