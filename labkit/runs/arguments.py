"""What `labkit run` is asked for: its options, and the recipe that they and the flags of a recipe's fields make."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from labkit.configs import Seed
from labkit.errors import LabError
from labkit.runs.settings import override_recipe, parse_known_args

if TYPE_CHECKING:
    from labkit.runs.recipe import Recipe

Preset = Literal["smoke", "lab", "full"]
Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]
DataSource = Annotated[str | None, arg(metavar="SOURCE", help_behavior_hint="")]
Plan = Annotated[str | None, arg(metavar="STAGE,STAGE", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], arg(metavar="STAGE …", help_behavior_hint="")]
Switch = Annotated[bool, arg(help_behavior_hint="")]

DATA_FIELDS = ("text", "instructions", "preferences")
"""The fields of a recipe that name what it reads; `labkit.runs.recipe` has them too, but needs torch."""


def default_preset() -> Preset:
    """The one that the environment variable LABKIT_PRESET names, lab if none. Raises LabError for another name."""
    name = os.environ.get("LABKIT_PRESET", "lab")
    presets: dict[str, Preset] = {"smoke": "smoke", "lab": "lab", "full": "full"}
    if name not in presets:
        raise LabError(f"LABKIT_PRESET is {name!r}; the presets are {', '.join(presets)}.")
    return presets[name]


@dataclass(frozen=True)
class RunOptions:
    """Run the whole recipe: clean the text, train a tokenizer, train and evaluate every stage, and write a report.

    Every field of the recipe can be set too, as --model.width 256 or --pretrain.train.steps 500; `labkit recipe`
    lists them with their values. With --plan, --help lists the settings of the plan's stages and what they mean, as in
    labkit run --plan simpo --help; `labkit --help` names all stages.
    """

    preset: Preset = dataclasses.field(default_factory=default_preset)
    """Sizes and settings to begin with: smoke (about 2 minutes on two CPU cores), lab (8 to 18 minutes), full (hours,
    or a GPU). The environment variable LABKIT_PRESET changes the default."""
    out: Folder = None
    """The run's folder; runs/PRESET when not given."""
    seed: Seed = 0
    """The random seed of the whole run."""
    plan: Plan = None
    """The stages in their order, as --plan pretrain,sft,dpo,dpo-strict; the preset's plan when not given. A stage's
    name is its type, with a suffix where there are two of a type (dpo-strict); each has flags of its own
    (--dpo-strict.beta 0.5). STAGE@OTHER initialises STAGE from OTHER's checkpoint, which may be another run's: ppo@dpo,
    sft@runs/big/pretrain."""
    stages: Names = ()
    """Train only these stages of the plan, now, as --stages pretrain sft; all when not given."""
    resume: Switch = False
    """Resume the run in the folder, with the recipe that it was started with."""
    build_on: Folder = None
    """Start from another run: copy its recipe and the finished stages before those named by --stages, and train those
    again."""
    text: DataSource = None
    """Pretrain on this text instead of TinyWorld: a file (.txt, .md, .json, .jsonl, .csv, .tsv, .parquet, each also
    with .gz), a folder of them, or the name of a data set on the Hugging Face hub. `labkit read --as text` shows how it
    is read."""
    instructions: DataSource = None
    """Fine-tune on these conversations: the same kinds of source; `labkit read --as instructions` shows how they are
    read."""
    preferences: DataSource = None
    """Train the reward model, and the methods that learn from preferences, on these: the same kinds of source. Pairs
    have the columns prompt (or instruction), chosen, rejected; also read are ranked lists (UltraFeedback, Nectar),
    single answers with a label or a rating (KTO, HelpSteer), and the columns of HelpSteer2 and 3, PKU-SafeRLHF and SHP.
    `labkit read --as preferences` shows how they are read."""

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.out or Path("runs") / self.preset


def parse_run_arguments(arguments: list[str]) -> tuple[RunOptions, Recipe]:
    """The options of `labkit run ARGUMENTS`, and the recipe that it would make; nothing is written.

    Raises LabError for a flag or a value that is none, a recipe that cannot be, and a run to build on or to resume that
    cannot be read.
    """
    options, rest = parse_known_args(RunOptions, "run", arguments)
    from labkit.runs.folder import Run
    from labkit.runs.pipeline import recover_run_folder

    out = options.folder
    before = (
        options.build_on if not options.resume else out if (recover_run_folder(out) / "recipe.json").is_file() else None
    )
    saved = Run.open(before).recipe if before else None
    if saved is not None:  # what is not asked for stays as it was
        known: dict[str, Any] = {name: getattr(saved, name) for name in ("preset", "seed", *DATA_FIELDS)}
        known["resume"] = False  # a switch that is on already would not be known as a flag
        options, rest = parse_known_args(RunOptions, "run", arguments, dataclasses.replace(options, **known))
    recipe = override_recipe(_recipe(options, saved), rest, "run", options.plan)
    if options.build_on and not options.resume and not options.stages:
        names = ", ".join(recipe.stages)
        raise LabError(
            f"--build-on {options.build_on} needs the stages to train: --stages, and one or more of {names}."
        )
    return options, recipe


def planned_parts(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The stages that `labkit run ARGUMENTS` names with --plan, with the preset's settings, and behind them its
    "annotation" where one of them learns from preferences; and the arguments that are flags of a recipe. Nothing
    without --plan. Whether the stages can follow one another is not checked.

    Raises LabError for an option or a stage that is none.
    """
    options, rest = parse_known_args(RunOptions, "run", arguments)
    if options.plan is None:
        return {}, rest
    from labkit.configs import default_draft
    from labkit.runs.plan import parse_plan
    from labkit.runs.presets import plan_templates

    recipe = _recipe(options, None)
    planned = parse_plan(options.plan, plan_templates(recipe), default_draft)
    parts: dict[str, Any] = {one.name: one.stage for one in planned}
    if any(one.stage.reads == "preferences" for one in planned):
        parts["annotation"] = recipe.annotation
    return parts, rest


def _recipe(options: RunOptions, saved: Recipe | None) -> Recipe:
    """The saved recipe with the options' seed and inputs, while it is of their preset; else the preset's."""
    from labkit.runs.presets import make_recipe

    inputs = {name: getattr(options, name) for name in DATA_FIELDS}
    if saved is not None and saved.preset == options.preset:
        return dataclasses.replace(saved, seed=options.seed, **inputs)
    return make_recipe(options.preset, seed=options.seed, **inputs)
