"""``labkit recipe``: every field that can be set, with its value."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from labkit.commands.options import parse_options
from labkit.runs.arguments import Plan, Preset, default_preset


@dataclass(frozen=True)
class RecipeOptions:
    """Print a recipe: every field with its value, a line each, as the flags of `labkit run` that set them."""

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]", help_behavior_hint="")] = None
    """The folder of a run whose recipe to print, instead of a preset's."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """The preset whose recipe to print."""
    plan: Plan = None
    """The stages of the recipe, as `labkit run --plan` takes them: --plan pretrain,sft,simpo. The recipe's own when not
    given."""


def command(arguments: list[str]) -> int:
    """`labkit recipe`: its exit code."""
    options = parse_options(RecipeOptions, "recipe", arguments)
    from labkit.runs.folder import Run
    from labkit.runs.plan import format_plan
    from labkit.runs.presets import make_recipe
    from labkit.runs.settings import override_recipe

    recipe = Run.open(options.run).recipe if options.run else make_recipe(options.preset)
    recipe = override_recipe(recipe, [], "recipe", options.plan)
    print("--plan", shlex.quote(format_plan(recipe.plan)))
    for name, part in recipe.parts.items():
        _print_fields(f"--{name}", part)
    return 0


def _print_fields(flag: str, value: Any) -> None:
    """One line a field, as the flag that sets it."""
    if not dataclasses.is_dataclass(value):
        print(_format_flag(flag.replace("_", "-"), value))
        return
    from labkit.configs import union_field_choices

    for field in dataclasses.fields(value):
        name, inside = f"{flag}.{field.name}", getattr(value, field.name)
        if name == "--model.vocabulary":  # always that of the tokenizer
            continue
        if field.name in union_field_choices(type(value)):
            print(name.replace("_", "-"), "None" if inside is None else type(inside).__name__)
        if inside is not None or field.name not in union_field_choices(type(value)):
            _print_fields(name, inside)


def _format_flag(flag: str, value: Any) -> str:
    """A flag with its value, as a shell reads it; a switch is on or off by its name alone."""
    if isinstance(value, bool):
        head, _, name = flag.rpartition(".")
        return flag if value else f"{head}.no-{name}"
    if isinstance(value, tuple):
        return shlex.join([flag, *map(str, value)])
    word = str(value)
    return shlex.quote(f"{flag}={word}") if word.startswith("-") else shlex.join([flag, word])
