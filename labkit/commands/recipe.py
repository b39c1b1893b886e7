"""``labkit recipe``: every field that can be set, with its value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from labkit.commands.options import parse_options
from labkit.runs.arguments import Preset, default_preset


@dataclass(frozen=True)
class RecipeOptions:
    """Print a recipe: every field that `labkit run` can set, with its value."""

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]", help_behavior_hint="")] = None
    """The folder of a run whose recipe to print, instead of a preset's."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """The preset whose recipe to print."""


def command(arguments: list[str]) -> int:
    """`labkit recipe`: its exit code."""
    options = parse_options(RecipeOptions, "recipe", arguments)
    from labkit.runs.folder import Run
    from labkit.runs.plan import format_plan
    from labkit.runs.presets import make_recipe

    recipe = Run.open(options.run).recipe if options.run else make_recipe(options.preset)
    print("--plan", format_plan(recipe.plan))
    for name, part in recipe.parts.items():
        _print_fields(f"--{name}", part)
    return 0


def _print_fields(flag: str, value: Any) -> None:
    """One line a field, as the flag that sets it."""
    if not dataclasses.is_dataclass(value):
        print(flag.replace("_", "-"), *(value if isinstance(value, tuple) else (value,)))
        return
    from labkit.configs import union_field_choices

    for field in dataclasses.fields(value):
        name, inside = f"{flag}.{field.name}", getattr(value, field.name)
        if name == "--model.vocabulary":  # always that of the tokenizer
            continue
        if field.name in union_field_choices(type(value)):
            if inside is None:  # nothing that a flag could set
                continue
            print(name.replace("_", "-"), type(inside).__name__)
        _print_fields(name, inside)
