"""The command line as one of several processes: its options, and what it says when it fails."""

import pytest

from labkit.commands import launched
from labkit.commands.main import main
from labkit.errors import LabError
from labkit.training import processes


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
    assert "labkit: process 3 ends, as another process did, which says why ([gloo" in capsys.readouterr().err
    for error in (ValueError("no such thing"), RuntimeError("NCCL error: Duplicate GPU detected")):
        assert launched.report_process_failure(error) == 1
        said = capsys.readouterr().err
        assert "labkit: process 3 failed:" in said and f"{type(error).__name__}: {error}" in said
