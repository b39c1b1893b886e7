"""``labkit import SOURCE RUN``: start a run from a published checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from labkit.commands.options import RunFolder
from labkit.runs.arguments import DATA_FIELDS, DataSource, Preset, default_preset
from labkit.runs.settings import override_recipe, parse_known_args


@dataclass(frozen=True)
class ImportOptions:
    """Start a run from a published checkpoint, to fine-tune it, chat with it, or inspect it in the app."""

    source: Annotated[Positional[str], arg(metavar="SOURCE", help_behavior_hint="")]
    """A folder in transformers' format, a model's id on the Hugging Face hub, or a .gguf file."""
    run: RunFolder
    """The new run's folder."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """The preset whose settings the stages after the checkpoint get."""
    chat_template: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """plain: format turns as 'user: …' instead of with the checkpoint's own chat template. Or the name of a template,
    where the checkpoint has several and no default."""
    text: DataSource = None
    """Text, as for labkit run. The imported checkpoint is not pretrained on it, so give --instructions too."""
    instructions: DataSource = None
    """Conversations to fine-tune on, as for labkit run."""
    preferences: DataSource = None
    """Preference pairs for the reward model and the stages that learn from preferences, as for labkit run."""


def command(arguments: list[str]) -> int:
    """`labkit import`: its exit code."""
    options, rest = parse_known_args(ImportOptions, "import", arguments)
    from labkit.hub.importing import import_checkpoint
    from labkit.runs.presets import make_recipe

    inputs = {name: getattr(options, name) for name in DATA_FIELDS}
    recipe = override_recipe(make_recipe(options.preset, **inputs), rest, "import")
    run = import_checkpoint(options.source, options.run, recipe, options.chat_template)
    print(f"{run.path} starts from {options.source}. To talk to it: labkit chat {run.path}")
    return 0
