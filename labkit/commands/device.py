"""The option --device, which every command takes: the device of whatever model the command holds.

It is an environment variable too, LABKIT_DEVICE, for notebooks and for what a command starts.
"""

from __future__ import annotations

import os

from labkit.errors import LabError

HELP = """Option of every command that loads a model:
  --device cpu|cuda|cuda:1|mps  the device to run on; the default is a GPU, if there is one"""


def take_device_option(arguments: list[str]) -> list[str]:
    """The arguments without --device, which is set as an environment variable. Raises LabError for a device that is not
    there.
    """
    rest, given = [], iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name == "--device":
            use_device(value if equals else next(given, ""))
        else:
            rest.append(argument)
    return rest


def use_device(name: str) -> None:
    """Let all models be on this device. Raises LabError for one that is not there."""
    if not name:
        raise LabError("--device needs a value: cpu, cuda, cuda:1 or mps.")
    if name.isdigit():
        raise LabError(
            f"--device {name} is not a device: cpu, cuda, cuda:1 or mps. The number of devices is set by labkit plan "
            f"--devices {name}."
        )
    from labkit.machine import default_device

    before = os.environ.get("LABKIT_DEVICE")
    os.environ["LABKIT_DEVICE"] = name
    try:
        default_device()
    except LabError:
        if before is None:
            del os.environ["LABKIT_DEVICE"]
        else:
            os.environ["LABKIT_DEVICE"] = before
        raise
