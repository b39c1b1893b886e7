"""What the machine can do: units, bounds, and each way that a machine can lack something."""

import mmap
import resource
import sysconfig

import pytest
import torch

from labkit import machine
from labkit.errors import LabError


@pytest.fixture(autouse=True)
def forget():
    """has_compiler remembers its answer; each test asks afresh."""
    machine.has_compiler.cache_clear()
    yield
    machine.has_compiler.cache_clear()


def test_matrix_peak_is_flops_a_second(monkeypatch):
    """A product of two 100 x 100 matrices is 2 * 100**3 = 2,000,000 FLOPs; in 0.001 s that is 2e9 FLOP/s.

    The clock below gives the first timed product 2 ms, the second 1 ms, and the best of the two counts.
    """
    clock = iter([0.0, 1.0, 1.002, 2.0, 2.001, 3.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    assert machine.peak_matmul_flops(torch.float32, seconds=2.0, size=100) == pytest.approx(2e9)


def test_matrix_peak_is_the_better_of_bf16_and_fp32(monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda: True)
    speeds = {torch.bfloat16: 3e11, torch.float32: 1e11}
    measure = machine.peak_matmul_flops
    monkeypatch.setattr(machine, "peak_matmul_flops", lambda dtype, **_: speeds[dtype])
    assert measure() == 3e11
    monkeypatch.setattr(machine, "has_bf16", lambda: False)
    assert measure() == 1e11


def test_matrix_peak_of_this_machine_is_plausible():
    assert 1e8 < machine.peak_matmul_flops(torch.float32, seconds=0.02, size=256) < 1e16


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx2": True, "avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False), ({}, False)],
)
def test_bf16_follows_what_the_processor_says(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert machine.has_bf16(torch.device("cpu")) is expected


def test_no_compiler_on_the_path_is_seen(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.has_compiler() is False


def test_the_compiler_that_cxx_names_is_the_one_that_counts(monkeypatch, tmp_path):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    compiler = tmp_path / "my++"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert machine.has_compiler() is True
    machine.has_compiler.cache_clear()
    monkeypatch.setenv("CXX", str(tmp_path / "missing++"))
    assert machine.has_compiler() is False


def test_without_pythons_headers_nothing_compiles(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert machine.has_compiler() is False


def test_peak_memory_sees_what_was_held_and_forgets_it_when_reset():
    held = mmap.mmap(-1, 64_000_000)  # which goes back to the system at once, as what malloc had does not
    for page in range(0, len(held), 4096):
        held[page] = 1
    with_block = machine.peak_memory_mb()
    assert with_block > 64
    held.close()
    if machine.reset_peak_memory_stats():
        assert machine.peak_memory_mb() < with_block - 32


def test_peak_memory_without_proc_reads_rusage(monkeypatch):
    monkeypatch.setattr(machine.Path, "is_file", lambda self: False)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    assert machine.peak_memory_mb() >= usage.ru_maxrss * 1024 / 1e6
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert machine.peak_memory_mb() >= usage.ru_maxrss / 1e6


def test_more_than_the_memory_is_refused_but_on_the_device_meta():
    with pytest.raises(LabError, match="A model takes 1,000,000,000 GB of memory; this machine has"):
        machine.check_memory_available(1e18, "A model")
    with torch.device("meta"):
        machine.check_memory_available(1e18, "A model")


def test_describe_can_be_written_as_json_and_measures_nothing():
    described = machine.describe_machine()
    assert {"processor", "cores", "threads", "memory_gb", "python", "torch", "bf16", "compiler"} <= described.keys()
    assert all(isinstance(value, str | int | float | bool) for value in described.values())


def test_the_processor_is_named_with_its_arithmetic(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "A name", "amx_bf16": True})
    assert machine.describe_machine()["processor"] == f"A name ({torch.backends.cpu.get_cpu_capability()}, bf16)"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "A name"})
    assert str(machine.describe_machine()["processor"]).endswith(", no bf16)")
