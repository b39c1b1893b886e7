"""What --help says of stages: their settings, what a batch of each counts, and the methods of the studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.commands.stage_descriptions import stage_descriptions
from labkit.runs.settings import print_settings
from labkit.studies.options import NAMED_METHODS


def print_stage_settings(parts: Mapping[str, Any], rest: list[str], usage: str) -> None:
    """The flags of these stages, and of "annotation" where it is among them, with their values; and what
    train.batch_size counts in each stage. rest, usage: see `labkit.runs.settings.print_settings`.
    """
    print_settings(parts, rest, usage)
    for name in [name for name in parts if name != "annotation"]:
        print(f"--{name}.train.batch-size counts {stage_descriptions()[name.partition('-')[0]].batch_unit}.")


def method_lines() -> str:
    """The methods of `labkit study alignment`, a line each: those that sample from the model in training, the others.

    From the stages' own lines; of the methods that are a stage with other settings, from `NAMED_METHODS`.
    """
    said = {kind: stage for kind, stage in stage_descriptions().items() if stage.is_policy}
    lines = {kind: (stage.online, stage.command_help) for kind, stage in said.items()}
    lines |= {name: (said[kind].online, line) for name, (kind, line) in NAMED_METHODS.items()}
    heads = {
        True: "Methods that sample answers from the model while it trains; a step takes several times as long, and the "
        "presets give them\nfewer steps:",
        False: "Methods that learn from the annotated answers alone:",
    }
    parts: list[str] = []
    for online, head in heads.items():
        parts += [head, *(f"  {name:25} {line}" for name, (samples, line) in lines.items() if samples == online), ""]
    return "\n".join(parts)
