"""What this machine can do, measured: its devices, matrix peak, memory, bf16, and whether torch can compile here."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psutil
import torch

from labkit.errors import LabError

P = ParamSpec("P")
R = TypeVar("R")


def default_device() -> torch.device:
    """Where models are held and computed: the device that LABKIT_DEVICE names (the option --device sets it), else a GPU
    (cuda, then mps) where there is one, else the CPU. Said once, unless it is the CPU.

    Of several processes each takes the GPU of its number on its machine, as accelerate does. Raises LabError for a
    device that is not there. fp32 on a GPU is fp32: TF32 stays off (torch's default), so that results can be compared
    with a CPU's; what is to be fast is computed in bf16 (see `autocast`). Sums are in a fixed order as far as torch's
    GPU kernels have one.
    """
    rank = os.environ.get("LOCAL_RANK")
    return _resolve_device(os.environ.get("LABKIT_DEVICE", "").strip(), None if rank is None else int(rank))


@cache
def _resolve_device(asked: str, rank: int | None) -> torch.device:
    """The device by what was asked for ("" for the best) and this process's number on its machine, if it has one."""
    there = available_devices()
    kind = asked.partition(":")[0] or ("cpu" if rank is not None and there[-1].type == "mps" else there[-1].type)
    alike = [device for device in there if device.type == kind]
    if rank is not None and (":" in asked or kind == "mps"):
        raise LabError(
            f"With several processes, each has a GPU of its own, so --device can be cuda or cpu, not {asked}."
        )
    found = [device for device in alike if ":" not in asked or str(device) == asked]
    if not found:
        names = " and ".join(dict.fromkeys(map(str, there)))
        built = "" if torch.version.cuda or kind != "cuda" else f"; torch {torch.__version__} is built without CUDA"
        raise LabError(f"There is no device {asked!r} on this machine: there is {names}{built}.")
    if kind == "cuda" and (rank or 0) >= len(found):
        raise LabError(
            f"Process {rank} of this machine has no GPU of its own: there {'is' if len(found) == 1 else 'are'} "
            f"{len(found)}. Start as many processes as there are GPUs (torchrun --nproc-per-node {len(found)}), or "
            f"--device cpu."
        )
    device = found[rank or 0] if kind == "cuda" else found[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)  # so that it is also meant where no number is named
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS adds up in any order
        for known in (".*deterministic", "TensorFloat32 tensor cores"):  # torch's words on the two choices above
            warnings.filterwarnings("ignore", known, UserWarning)
    if device.type != "cpu" and os.environ.get("RANK", "0") == "0":
        warn_once(f"Computing on {device_name(device)}{'' if has_bf16(device) else ', which has no bf16'}.")
    return device


def available_devices() -> list[torch.device]:
    """The devices of this machine that labkit can use, the CPU first."""
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [torch.device("cpu"), *gpus, *([torch.device("mps")] if torch.backends.mps.is_available() else [])]


def device_name(device: torch.device) -> str:
    """A device as people know it: "cuda:0 (NVIDIA H100 80GB HBM3)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_processor()})"


def float_for_sums(device: torch.device) -> torch.dtype:
    """What long sums are added up in: float64, and float32 on mps, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def peak_matmul_flops(
    dtype: torch.dtype | None = None,
    *,
    seconds: float = 0.25,
    size: int | None = None,
) -> float:
    """FLOP/s of the best of several products of two [size, size] matrices; 2 size**3 FLOPs each.

    ``dtype=None`` measures bf16 (where the hardware has it) and fp32 and returns the larger. On `default_device`, with
    larger matrices on a GPU, which it needs to be busy, and as many threads as torch is set to. Takes ``seconds`` for
    each type measured.
    """
    if dtype is None:
        types = [torch.bfloat16, torch.float32] if has_bf16() else [torch.float32]
        return max(peak_matmul_flops(each, seconds=seconds, size=size) for each in types)
    device = default_device()
    size = size or (1024 if device.type == "cpu" else 8192)
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(a)
    best, end = float("inf"), time.perf_counter() + seconds
    torch.mm(a, b, out=out)
    synchronize(device)
    while True:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed all that it was given, for who measures time."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What computes in bf16 where `precision` says so and the hardware can, else in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether `precision` is bf16, and the device can."""
    return precision == "bf16" and has_bf16(device)


def has_bf16(device: torch.device | None = None) -> bool:
    """True where bf16 matrix products are made by the hardware: a GPU's (not mps, where this is not measured), or the
    CPU's AVX512-BF16, AMX or SVE bf16. device: `default_device` when None.
    """
    kind = (device or default_device()).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


@cache
def has_compiler() -> bool:
    """True where torch.compile can build its kernels: a C++ compiler and Python's headers are installed."""
    named = os.environ.get("CXX")
    compilers = [named] if named else ["g++", "clang++", "c++", "cl"]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.is_file() and any(shutil.which(name) for name in compilers)


def compile_or_eager(function: Callable[P, R], purpose: str, **options: Any) -> Callable[P, R]:
    """`function` by torch.compile with these options; as it is, and that said once, where there is no compiler or it
    fails.

    purpose: what goes on slower then, as "training".
    """
    if not has_compiler():
        warn_once(
            f"No C++ compiler (or no Python headers) here: {purpose} continues without torch.compile, which is slower."
        )
        return function
    from torch._dynamo import config as dynamo  # these take a second, which only what compiles should pay
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InductorError

    # Every model and shape is a graph of its own; the default limit of 8 would end in silent eager execution.
    dynamo.recompile_limit = max(64, dynamo.recompile_limit)
    best: Callable[P, R] = torch.compile(function, dynamic=False, **options)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal best
        try:
            return best(*args, **kwargs)
        except (BackendCompilerFailed, InductorError) as error:
            warn_once(f"torch.compile failed, so {purpose} continues without it, which is slower: {str(error)[:300]}")
            best = function
            return function(*args, **kwargs)

    return call


def disable_compile(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which torch.compile leaves as it is. As torch.compiler.disable, but that the compiler, which takes
    longer to import than the rest of torch, is imported by the first call, and not by every process that imports the
    function.
    """
    from torch._compile import _disable_dynamo

    return _disable_dynamo(function)


@disable_compile
def all_reduce_sum(part: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes that train together; its gradient is that of this process's part. Each of
    them must come here.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return part
    total = part.detach().clone()
    torch.distributed.all_reduce(total)
    return part + (total - part.detach())


@cache
def warn_once(words: str) -> None:
    """Warn, the first time that these words are said."""
    warnings.warn(words, stacklevel=3)


def check_memory_available(num_bytes: float, what: str, device: torch.device | None = None) -> None:
    """Raises LabError where `what` takes so many bytes, more than the device has; None: the CPU. Under
    ``torch.device("meta")`` nothing takes any.
    """
    if device is not None and device.type == "cuda":
        there, where = torch.cuda.get_device_properties(device).total_memory, str(device)
    else:
        there, where = psutil.virtual_memory().total, "this machine"
    if num_bytes > there and torch.get_default_device().type != "meta":
        raise LabError(f"{what} takes {num_bytes / 1e9:,.0f} GB of memory; {where} has {there / 1e9:,.0f} GB.")


def free_memory_bytes(device: torch.device) -> int:
    """What can still be allocated: of a GPU's memory, else of this machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: Python's, the GPU's, or the processor's or mps's, which torch
    raises as a RuntimeError like any other.
    """
    said = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "can't allocate memory" in said or "MPS backend out of memory" in said
    )


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB of 10**6 bytes: of the GPU where `default_device` is cuda, else
    resident.

    Counts from the start of the process, or from the last ``reset_peak_memory_stats``.
    """
    device = default_device()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # which Windows does not have

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def reset_peak_memory_stats() -> bool:
    """Let ``peak_memory_mb`` count from now on; False where the system cannot (all but Linux, without a GPU)."""
    device = default_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def describe_machine() -> dict[str, str | int | float | bool]:
    """What a report says about the machine it was made on. Measures nothing; see ``peak_matmul_flops`` for that."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(default_device()),
        "bf16": has_bf16(),
        "compiler": has_compiler(),
    }


def _processor() -> str:
    """The processor's name, with the instruction set that torch uses, since the name alone often says little."""
    name = str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}, {'bf16' if _cpu_has_bf16() else 'no bf16'})"
