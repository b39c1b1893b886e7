"""The command line as one of several processes: its options, and what it says when it fails."""

from types import SimpleNamespace

import pytest

from labkit.commands import launched
from labkit.commands.main import main
from labkit.errors import LabError
from labkit.runs import pipeline
from labkit.training import processes
from tests.tiny_recipe import tiny_recipe


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the launcher and the options set, unset."""
    for name in ("LABKIT_PARALLEL", "LABKIT_ACTIVATION_CHECKPOINTING", "LABKIT_CPU_OFFLOAD", "ACCELERATE_USE_FSDP"):
        monkeypatch.setenv(name, "")
    processes.parallel_config.cache_clear()
    yield
    processes.parallel_config.cache_clear()


def test_options_stand_anywhere_and_reach_the_engine():
    given = ["run", "--parallel", "fsdp", "--preset", "smoke", "--activation-checkpointing"]
    assert launched.move_launch_options_to_environment(given) == ["run", "--preset", "smoke"]
    assert processes.parallel_config() == processes.ParallelConfig("fsdp", activation_checkpointing=True)


def test_without_options_the_launcher_says_how(monkeypatch):
    assert processes.parallel_config() == processes.ParallelConfig("ddp")
    for name, value in (("ACCELERATE_USE_FSDP", "true"), ("FSDP_OFFLOAD_PARAMS", "true")):
        monkeypatch.setenv(name, value)
    processes.parallel_config.cache_clear()
    assert processes.parallel_config() == processes.ParallelConfig("fsdp", cpu_offload=True)
    launched.move_launch_options_to_environment(["--parallel=ddp"])
    processes.parallel_config.cache_clear()
    assert processes.parallel_config().strategy == "ddp"


def test_a_strategy_that_there_is_not_is_refused(monkeypatch, capsys):
    assert main(["run", "--parallel", "zero"]) == 2
    assert "--parallel can be ddp or fsdp, not 'zero'." in capsys.readouterr().err
    monkeypatch.setenv("LABKIT_PARALLEL", "tensor")
    with pytest.raises(LabError, match="LABKIT_PARALLEL can be ddp or fsdp, not 'tensor'"):
        processes.parallel_config()


def test_the_older_fsdp_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    processes.accelerator.cache_clear()
    with pytest.raises(LabError, match="--use_fsdp --fsdp_version 2"):
        processes.accelerator()
    processes.accelerator.cache_clear()


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM"])
def test_a_launcher_of_another_engine_is_refused(monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    processes.accelerator.cache_clear()
    with pytest.raises(LabError, match=f"by DDP or FSDP2, not by {name}. Launch with accelerate launch --multi_gpu"):
        processes.accelerator()
    processes.accelerator.cache_clear()


def test_a_process_that_has_lost_another_says_so(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    assert (
        launched.report_process_failure(RuntimeError("[gloo/transport] Connection closed by peer [127.0.0.1]:4711"))
        == 1
    )
    assert (
        "labkit: process 3 ends because another process failed; that process, or the launcher, prints why ([gloo"
        in capsys.readouterr().err
    )
    for error in (ValueError("no such thing"), RuntimeError("NCCL error: Duplicate GPU detected")):
        assert launched.report_process_failure(error) == 1
        said = capsys.readouterr().err
        assert "labkit: process 3 failed:" in said and f"{type(error).__name__}: {error}" in said


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", ""), ("WORLD_SIZE", "auto"), ("LOCAL_RANK", "abc")])
def test_a_launchers_variable_that_is_no_number_is_named(monkeypatch, capsys, name, value):
    monkeypatch.setenv(name, value)
    assert main(["recipe", "--help"]) == 2
    assert f"labkit: {name} is '{value}', not a whole number from" in capsys.readouterr().err


def test_a_process_that_does_not_see_the_runs_folder_says_what_is_missing(monkeypatch, tmp_path):
    """As on a second machine without a disk that both have."""
    second = SimpleNamespace(is_main_process=False, process_index=1, wait_for_everyone=lambda: None)
    monkeypatch.setattr(pipeline, "accelerator", lambda: second)
    with pytest.raises(
        LabError, match=("Process 1 finds no run in .*: the folder of a run must be on a file system that all")
    ):
        next(pipeline.run(tiny_recipe(), tmp_path / "run"))
