"""How many processes `torchrun` or `accelerate launch` has started, as their environment variables say.

Without torch, whose settings may depend on it, and which takes a second to import.
"""

from __future__ import annotations

import os

from labkit.errors import LabError


def check_launcher_variables() -> None:
    """Raises LabError where one of the environment variables that a launcher sets is no whole number from 0, or a count
    of processes is 0.
    """
    for name, lowest in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)):
        value = os.environ.get(name)
        if value is not None and not (value.isdecimal() and int(value) >= lowest):
            raise LabError(
                f"{name} is {value!r}, not a whole number from {lowest}. torchrun and accelerate launch set it; "
                "otherwise unset it."
            )


def launched_process_count() -> int:
    """How many processes the launcher has started, on all machines; 1 without one."""
    return _count("WORLD_SIZE", 1)


def local_process_count() -> int:
    """How many of them are on this machine; all where the launcher does not say it."""
    return _count("LOCAL_WORLD_SIZE", launched_process_count())


def _count(variable: str, otherwise: int) -> int:
    count = os.environ.get(variable, "")
    return int(count) if count.isdecimal() else otherwise
