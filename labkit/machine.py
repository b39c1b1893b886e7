"""What this machine can do, measured: its matrix peak, memory, bf16, and whether torch can compile here."""

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
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import psutil

if TYPE_CHECKING:
    import torch
import torch

from labkit.errors import LabError

P = ParamSpec("P")
R = TypeVar("R")


def peak_matmul_flops(dtype: torch.dtype | None = None, *, seconds: float = 0.25, size: int | None = None) -> float:
    """FLOP/s of the best of several products of two [size, size] matrices; 2 size**3 FLOPs each.

    ``dtype=None`` measures bf16 (where the processor has it) and fp32 and returns the larger. Uses the GPU when there
    is one (with larger matrices, which it needs to be busy) and as many threads as torch is set to. Takes ``seconds``
    for each type measured.
    """
    if dtype is None:
        types = [torch.bfloat16, torch.float32] if has_bf16() else [torch.float32]
        return max(peak_matmul_flops(each, seconds=seconds, size=size) for each in types)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = size or (8192 if device == "cuda" else 1024)
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(a)
    best, end = float("inf"), time.perf_counter() + seconds
    torch.mm(a, b, out=out)
    while True:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return 2 * size**3 / best


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What computes in bf16 where `precision` says so and the processor can, else in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision))


def uses_bf16(precision: str) -> bool:
    """Whether `precision` is bf16, and the processor can."""
    return precision == "bf16" and has_bf16()


@cache
def has_bf16() -> bool:
    """True where bf16 matrix products are made by the hardware: AVX512-BF16, AMX or SVE bf16, or a GPU with them."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _cpu_has_bf16()


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


def compile_or_eager(run: Callable[P, R], doing: str, **options: Any) -> Callable[P, R]:
    """`run` by torch.compile with these options; as it is, and that said once, where there is no compiler or it fails.

    doing: what goes on slower then, as "training".
    """
    if not has_compiler():
        warn_once(
            f"No C++ compiler (or no Python headers) here: {doing} continues without torch.compile, which is slower."
        )
        return run
    from torch._dynamo import config as dynamo  # these take a second, which only what compiles should pay
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InductorError

    # Every model and shape is a graph of its own; the default limit of 8 would end in silent eager execution.
    dynamo.recompile_limit = max(64, dynamo.recompile_limit)
    best: Callable[P, R] = torch.compile(run, dynamic=False, **options)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal best
        try:
            return best(*args, **kwargs)
        except (BackendCompilerFailed, InductorError) as error:
            warn_once(f"torch.compile failed, so {doing} continues without it, which is slower: {str(error)[:300]}")
            best = run
            return run(*args, **kwargs)

    return call


def disable_compile(run: Callable[P, R]) -> Callable[P, R]:
    """`run`, which torch.compile leaves as it is. As torch.compiler.disable, but that the compiler, which is longer to
    import than the rest of torch, is imported by the first call, and not by every process that imports the function.
    """
    from torch._compile import _disable_dynamo

    return _disable_dynamo(run)


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


def check_memory_available(size: float, what: str) -> None:
    """Raises LabError where `what` takes so many bytes, more than this machine has; on the device meta nothing does."""
    there = psutil.virtual_memory().total
    if size > there and torch.get_default_device().type != "meta":
        raise LabError(f"{what} takes {size / 1e9:,.0f} GB of memory; this machine has {there / 1e9:,.0f}.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: Python's, the GPU's, or the processor's, which torch raises as
    a RuntimeError like any other.
    """
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB of 10**6 bytes: on the GPU if it was used, else resident.

    Counts from the start of the process, or from the last ``reset_peak_memory_stats``.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
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
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def describe_machine() -> dict[str, str | int | float | bool]:
    """What a report says about the machine it was made on. Measures nothing; see ``peak_matmul_flops`` for that."""
    described: dict[str, str | int | float | bool] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "bf16": has_bf16(),
        "compiler": has_compiler(),
    }
    if torch.cuda.is_available():
        described["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return described


def _processor() -> str:
    """The processor's name, with the instruction set that torch uses, since the name alone often says little."""
    name = str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}, {'bf16' if _cpu_has_bf16() else 'no bf16'})"
