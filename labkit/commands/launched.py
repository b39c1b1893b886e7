"""The command line as one of several processes, which `accelerate launch` or `torchrun` has started.

How they train together is no part of a recipe, but of where it runs: options that every command takes, and environment
variables for whatever a command starts.
"""

from __future__ import annotations

import os
import sys
import traceback

from labkit.errors import LabError
from labkit.launcher import launched_process_count

CHOICES = {"--parallel": ("LABKIT_PARALLEL", ("ddp", "fsdp"))}
SWITCHES = {
    "--activation-checkpointing": "LABKIT_ACTIVATION_CHECKPOINTING",
    "--cpu-offload": "LABKIT_CPU_OFFLOAD",
}
HELP = """Options of every command that trains, in one process or several:
  --parallel ddp|fsdp           each process holds the whole model (ddp), or a shard of it (fsdp)
  --activation-checkpointing    recompute activations in the backward pass: less memory, more time
  --cpu-offload                 with fsdp: keep the shards in CPU memory"""
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited or there was a network error",  # NCCL's
)
"""What torch says, among much else, in a process whose partner has gone."""


def move_launch_options_to_environment(arguments: list[str]) -> list[str]:
    """The arguments without the options of this file, which are set as environment variables. Raises LabError for a
    value that an option has not.
    """
    rest, given = [], iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name in SWITCHES and not equals:
            os.environ[SWITCHES[name]] = "1"
        elif name in CHOICES:
            variable, choices = CHOICES[name]
            value = value if equals else next(given, "")
            if value not in choices:
                raise LabError(f"{name} can be {' or '.join(choices)}, not {value!r}.")
            os.environ[variable] = value
        else:
            rest.append(argument)
    return rest


def silence_ddp_warnings() -> None:
    """Before torch is imported: DDP warns, in every process, of each first step in which all parameters were used."""
    if launched_process_count() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def report_process_failure(error: Exception) -> int:
    """Say why this process ends, one of several; the exit code. The others' connections end with it."""
    rank = os.environ.get("RANK", "0")
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST):
        said = str(error).strip().splitlines()[-1]
        print(
            f"labkit: process {rank} ends because another process failed; that process, or the launcher, prints why "
            f"({said})",
            file=sys.stderr,
        )
    else:
        print(f"labkit: process {rank} failed:", file=sys.stderr)
        traceback.print_exception(error)
    return 1


def exit_at_once_on_failure(exit_code: int) -> int:
    """The exit code. Of several processes one that failed leaves at once, as what Python does at its end would wait for
    the others, and they for it; those that have ended well wait for each other.
    """
    if launched_process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        if exit_code:
            os._exit(exit_code)
        if "labkit.training.processes" in sys.modules:
            sys.modules["labkit.training.processes"].accelerator().end_training()
    return exit_code
