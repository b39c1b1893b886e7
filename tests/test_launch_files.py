"""The files of data/launch start what they say: read by accelerate's own code, and beside what labkit itself says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from labkit.commands import launched
from labkit.runs.arguments import parse_run_arguments
from labkit.training import processes
from tests.commands.test_launched import environment

LAUNCH = Path(__file__).parents[1] / "data" / "launch"
assert environment  # a fixture of each test here


@pytest.mark.parametrize(
    ("file", "count", "strategy"),
    [("accelerate-1-gpu", 1, "ddp"), ("accelerate-8-gpus", 8, "fsdp"), ("accelerate-2-machines", 16, "fsdp")],
)
def test_accelerate_starts_so_many_processes_with_that_strategy(file, count, strategy, monkeypatch):
    given = ["--config_file", str(LAUNCH / f"{file}.yaml"), "--main_process_ip", "10.0.0.1", "-m", "labkit", "run"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    assert (args.num_processes, args.mixed_precision, args.module) == (count, "no", True)
    asked = prepare_simple_launcher_cmd_env(args)[1] if count == 1 else prepare_multi_gpu_env(args)
    for name in [name for name in asked if name.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.setenv(name, asked[name])
    processes.parallel_config.cache_clear()
    assert processes.parallel_config() == processes.ParallelConfig(strategy)
    assert strategy == "ddp" or asked["FSDP_VERSION"] == "2"


def test_the_commands_in_the_files_are_those_of_labkit():
    found = []
    for path in LAUNCH.iterdir():
        text = re.sub(r"\\\n#?", " ", path.read_text())
        for words in re.findall(r"labkit run([^\n]*)", text):
            found.append(path.name)
            parse_run_arguments(launched.move_launch_options_to_environment(shlex.split(words)))
    assert sorted(found) == sorted(path.name for path in LAUNCH.iterdir() if path.suffix != ".dockerignore")


def test_skypilot_installs_what_ci_last_passed_with():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    install = (LAUNCH / "Dockerfile").read_text().partition("RUN pip")[2].partition("\n")[0]
    wanted = "-c .ci/constraints.txt -e '.[hub]'"  # so that labkit import and export work there
    assert wanted in task["setup"] and wanted in install
    assert (LAUNCH.parents[1] / ".ci" / "constraints.txt").is_file()
