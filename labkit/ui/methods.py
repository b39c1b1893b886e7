"""The methods of alignment that the Runs tab can add to a run: their names, what they are, their main settings, and
the command line that does the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.configs import default_draft
from labkit.errors import LabError
from labkit.runs.jobs import shorten_repr
from labkit.runs.plan import PlannedStage, extend_plan, parse_plan
from labkit.runs.presets import PRESETS, make_recipe, plan_templates
from labkit.runs.recipe import Recipe
from labkit.stages import STAGES
from labkit.ui import manage
from labkit.ui.lab import Lab

FEW = 3
"""Settings of a method, besides its reward and steps, that are written out for it."""


def method_choices() -> list[tuple[str, str]]:
    """(short title, kind) of every stage that learns from preferences, as a menu has them."""
    found = [(stage.short_title, kind) for kind, stage in STAGES.items() if stage.reads == "preferences"]
    return [(f"{title} ({kind})" if title.lower() != kind else title, kind) for title, kind in found]


def about_method(kind: Any) -> list[str]:
    """What a method is, a paragraph, and what a batch of it counts, a sentence; [] for no method."""
    if not isinstance(kind, str) or kind not in STAGES:
        return []
    return [STAGES[kind].about, f"train.batch_size counts {STAGES[kind].batch_unit}."]


def _recipe(lab: Lab, preset_or_run: Any) -> Recipe:
    """Raises LabError for neither a preset nor a run that can be read."""
    if not isinstance(preset_or_run, str):
        raise LabError(f"There is no preset {shorten_repr(preset_or_run)}; the presets are {', '.join(PRESETS)}.")
    return make_recipe(preset_or_run) if preset_or_run in PRESETS else lab.open(preset_or_run).recipe


def predecessor_choices(lab: Lab, preset_or_run: Any) -> list[str]:
    """The stages of the preset's plan, or of the run's, that leave a language model which a method can begin with."""
    try:
        plan = _recipe(lab, preset_or_run).plan
    except LabError:
        return []
    return [one.name for one in plan if one.stage.leaves == "language model" and one.stage.policy]


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
    needed = dataclasses.replace(recipe, plan=_extended(recipe, [*stages, method])).ancestors(kind)
    return list(dict.fromkeys([*needed, *stages, method]))


def _extended(recipe: Recipe, stages: Sequence[str]) -> tuple[PlannedStage, ...]:
    """The recipe's plan with the stages that it has not, as `labkit run --plan` makes them."""
    return parse_plan(extend_plan(recipe.plan, stages), plan_templates(recipe), default_draft)


def main_settings(lab: Lab, preset_or_run: Any, kind: Any) -> str:
    """The first settings of a method as flags, with the values that it is trained with where nobody changes them:
    '--dpo.train.steps 150 --dpo.beta 0.1 …'; '' for none.
    """
    if not isinstance(kind, str) or kind not in STAGES:
        return ""
    try:
        plan = _extended(_recipe(lab, preset_or_run), [kind])
    except LabError:
        return ""
    stage: Any = next(one.stage for one in plan if one.name == kind)
    plain = {field.name: getattr(stage, field.name, None) for field in dataclasses.fields(stage)}
    chosen = [(name, value) for name, value in plain.items() if type(value) in (int, float, str)][:FEW]
    reward = [("reward", type(plain["reward"]).__name__)] if dataclasses.is_dataclass(plain.get("reward")) else []
    settings = [*reward, ("train.steps", stage.train.steps), *chosen]
    return " ".join(f"--{kind}.{name.replace('_', '-')} {value}" for name, value in settings)


def settings_to_fill_in(typed: str | None, filled: str, new: str) -> str:
    """What the box of settings is to hold when another method is chosen: its settings (`new`), unless somebody typed
    something else than what was filled in before.
    """
    return new if (typed or "").strip() in ("", filled) else typed or ""


def command_line(
    lab: Lab, name: Any, preset_or_run: Any, stages: Sequence[str], preset_seed: float, extra_flags: str
) -> str:
    """What the form would begin, as it is typed in a terminal: of a run's folder outside of the working folder the last
    two parts, since a page need not know where it lies. Raises LabError as `manage.start_run` does.
    """
    arguments = manage.run_arguments(lab, name or "NAME", preset_or_run, stages, preset_seed, extra_flags)
    shown = [
        _without_its_place(value) if flag in ("--out", "--build-on") else value
        for flag, value in itertools.pairwise(["", *arguments])
    ]
    return shlex.join(["labkit", "run", *shown])


def _without_its_place(folder: str) -> str:
    path, here = Path(folder).absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else Path(*path.parts[-2:]))
