"""The methods of alignment that the Runs tab can add to a run: their names, what they are, their main settings, and
the command line that does the same.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.configs import default_draft
from labkit.errors import LabError
from labkit.runs.jobs import shorten_repr
from labkit.runs.plan import extend_plan, parse_plan
from labkit.runs.presets import PRESETS, make_recipe, plan_templates
from labkit.stages import STAGES, Stage
from labkit.ui import manage
from labkit.ui.lab import Lab

FEW = 3
"""Settings of a method, besides its reward and steps, that are written out for it."""


def method_choices() -> list[tuple[str, str]]:
    """(short title, kind) of every stage that learns from preferences, as a menu has them."""
    found = [(stage.short_title, kind) for kind, stage in STAGES.items() if stage.reads == "preferences"]
    return [(f"{title} ({kind})" if title.lower() != kind else title, kind) for title, kind in found]


def about_method(kind: Any) -> str:
    """A paragraph on a method; '' for none."""
    return STAGES[kind].about if isinstance(kind, str) and kind in STAGES else ""


def predecessor_choices(lab: Lab, preset_or_run: Any) -> list[str]:
    """The stages of the preset's plan, or of the run's, that leave a language model a method can begin with."""
    if not isinstance(preset_or_run, str):
        return []
    try:
        recipe = make_recipe(preset_or_run) if preset_or_run in PRESETS else lab.open(preset_or_run).recipe
    except LabError:
        return []
    return [one.name for one in recipe.plan if one.stage.leaves == "language model"]


def method_stage(kind: str, after: Any) -> str:
    """method_stage("dpo", "sft") -> "dpo@sft", as a plan has it."""
    return f"{kind}@{after}" if isinstance(after, str) and after else kind


def with_method(lab: Lab, preset_or_run: Any, stages: Sequence[str], kind: Any, after: Any) -> list[str]:
    """The stages to make where a method was chosen besides: of a preset also those that it needs before it. Raises
    LabError where it cannot stand there.
    """
    if not kind:
        return list(stages)
    if kind not in [known for _, known in method_choices()]:
        raise LabError(f"{shorten_repr(kind)} is not a method; choose one of the list.")
    method = method_stage(kind, after)
    if not isinstance(preset_or_run, str) or preset_or_run not in PRESETS:
        return [*stages, method]
    recipe = make_recipe(preset_or_run)
    plan = parse_plan(extend_plan(recipe.plan, [*stages, method]), plan_templates(recipe), default_draft)
    needed = dataclasses.replace(recipe, plan=plan).ancestors(kind)
    return list(dict.fromkeys([*needed, *stages, method]))


def main_settings(kind: Any) -> str:
    """The first settings of a method as flags with their values, to be changed: '--dpo.beta 0.1 …'; '' for none."""
    if not isinstance(kind, str) or kind not in STAGES:
        return ""
    stage: Stage = default_draft(STAGES[kind])
    plain = {field.name: getattr(stage, field.name, None) for field in dataclasses.fields(stage)}
    chosen = [(name, value) for name, value in plain.items() if type(value) in (int, float, str)][:FEW]
    reward = [("reward", type(plain["reward"]).__name__)] if dataclasses.is_dataclass(plain.get("reward")) else []
    return " ".join(f"--{kind}.{name.replace('_', '-')} {value}" for name, value in [*reward, *chosen])


def command_line(
    lab: Lab, name: Any, preset_or_run: Any, stages: Sequence[str], preset_seed: float, extra_flags: str
) -> str:
    """What the form would begin, as it is typed in a terminal. Raises LabError as `manage.start_run` does."""
    arguments = manage.run_arguments(lab, name or "NAME", preset_or_run, stages, preset_seed, extra_flags)
    here = Path.cwd()
    shown = [str(Path(one).relative_to(here)) if one.startswith(f"{here}/") else one for one in arguments]
    return shlex.join(["labkit", "run", *shown])
