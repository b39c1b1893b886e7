"""``labkit import SOURCE RUN``: begin a run with a published checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from labkit.commands.options import RunFolder
from labkit.runs.arguments import INPUTS, DataSource, Preset, default_preset
from labkit.runs.settings import override_recipe, parse_known_args

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ImportOptions:
    """Begin a run with a published checkpoint: its later stages, labkit chat and the app then work on it."""

    source: Annotated[Positional[str], arg(metavar="SOURCE", help_behavior_hint="")]
    """A folder in transformers' form, a model's id on the Hugging Face hub, or a .gguf file."""
    run: RunFolder
    """The new run's folder."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """Whose settings the later stages have."""
    chat_template: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """plain: turns as 'user: …' in place of the checkpoint's own chat template. Or the name of one, where it has
    several and none is the default."""
    text: DataSource = None
    """As for labkit run, for the later stages."""
    instructions: DataSource = None
    """As for labkit run."""
    preferences: DataSource = None
    """As for labkit run."""


def command(arguments: list[str]) -> int:
    """`labkit import`: its exit code."""
    options, rest = parse_known_args(ImportOptions, "import", arguments)
    from labkit.hub.importing import import_checkpoint
    from labkit.runs.presets import make_recipe

    inputs = {name: getattr(options, name) for name in INPUTS}
    recipe = override_recipe(make_recipe(options.preset, **inputs), rest, "import")
    run = import_checkpoint(options.source, options.run, recipe, options.chat_template)
    print(f"{run.path} begins with {options.source}. To talk to it: labkit chat {run.path}")
    return 0
