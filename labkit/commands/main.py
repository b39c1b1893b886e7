"""The command line: ``labkit COMMAND …``.

Each command is a dataclass of options, which tyro turns into flags, and a function that does the work. torch is
imported inside the functions, so that ``--help`` answers at once. Where a command takes a recipe's own fields
(``labkit run --model.width 256``), tyro builds those flags from the recipe's dataclasses, once torch is there.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from tyro.conf import FlagCreatePairsOff, Positional, arg

from labkit.commands.chat import ChatOptions, GenerateOptions
from labkit.commands.console import any_console, plain_warnings
from labkit.commands.read import ReadOptions, read_command
from labkit.commands.world import WorldOptions
from labkit.configs import Count, Seed, check
from labkit.errors import LabError
from labkit.runs import flags
from labkit.runs.asked import INPUTS, Folder, Preset, Source, Switch, asked, default_preset
from labkit.runs.settings import FIELDS, override, parse_some

if TYPE_CHECKING:
    from labkit.runs.recipe import Recipe

T = TypeVar("T")
RunFolder = Annotated[Positional[Path], arg(metavar="RUN", help_behavior_hint="")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input (said in a line), 130 stopped by ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    any_console()
    try:
        with plain_warnings():
            code = _dispatch(given)
        sys.stdout.flush()
        return code
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a full disk behind the output, a file that may not be read
        print(f"labkit: {error}", file=sys.stderr)
        return 2


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if given[0] == "--version":
        from labkit import __version__

        print(f"labkit {__version__}")
        return 0
    if given[0] not in COMMANDS:
        raise LabError(f"there is no command {given[0]!r}; the commands are {', '.join(COMMANDS)}.")
    command, _ = COMMANDS[given[0]]
    return command(given[1:])


def usage() -> str:
    """What ``labkit --help`` prints."""
    lines = "\n".join(f"  {name:10} {line}" for name, (_, line) in COMMANDS.items())
    return f"""usage: labkit COMMAND …

The whole recipe behind a chat model, built, run, measured and looked at on one laptop.

{lines}

labkit COMMAND --help says more. To begin: labkit run --preset smoke"""


def _parse(options: type[T], command: str, arguments: list[str]) -> T:
    parsed = flags.parse(options, f"labkit {command}", arguments, config=(FlagCreatePairsOff,))
    check(parsed)
    return parsed


def _run(arguments: list[str]) -> int:
    options, recipe = asked(arguments)
    from labkit.reporting.terminal import watch
    from labkit.runs.pipeline import run

    out, build_on = options.folder, None if options.resume else options.build_on
    events = run(recipe, out, options.stages or None, options.resume, build_on)
    stages = ["--stages", *options.stages] if options.stages else []
    go_on = ["run", "--out", str(out), "--resume", *stages]
    return watch(events, out, lambda: go_on if _begun(out, recipe) else ["run", *arguments])


def _begun(path: Path, recipe: Recipe) -> bool:
    """Whether the folder holds a run of this recipe; not, where it was stopped before anything was written."""
    from labkit.runs.folder import Run

    return (path / "recipe.json").is_file() and Run.open(path).recipe == recipe


@dataclass(frozen=True)
class StageOptions:
    """Make this one stage of a run: begin it, go on with it, or make it again.

    Every field of the stage can be set too, as --train.steps 500; with a RUN, --help lists them.
    """

    run: RunFolder
    """The run's folder. A new one begins with the preset that LABKIT_PRESET names, lab if none."""
    again: Switch = False
    """Make this stage again, in place of what it and those that build on it have made. That is kept aside until the new
    one is finished."""
    undo: Switch = False
    """Take --again back, while it is not finished: what was there before is there again."""


def _stage(name: str, arguments: list[str]) -> int:
    folder, *after = arguments or ["--help"]
    if folder in ("-h", "--help"):
        _parse(StageOptions, name, ["--help"])
    if folder.startswith("-"):
        raise LabError(f"name the run's folder first: labkit {name} RUN …")
    from labkit.reporting.terminal import watch
    from labkit.runs.folder import Run
    from labkit.runs.pipeline import redo, run, settled, undo
    from labkit.runs.recipe import make_recipe

    path, command = Path(folder), f"labkit {name} {shlex.quote(folder)}"
    if "--undo" in after:
        undo(path, name)
        print(f"{path / name} is as it was before --again.")
        return 0
    fresh = not settled(path).exists() or Run.untouched(path)
    recipe = make_recipe(default_preset()) if fresh else Run.open(path).recipe
    if name not in recipe.stages:
        raise LabError(f"{path} has no stage {name}; it has {', '.join(recipe.stages)}.")
    rest = [argument for argument in after if argument != "--again"]
    before: Any = recipe.stages[name]
    fields = [field.name for field in dataclasses.fields(before)]
    config = override(before, fields, rest, f"{name} {folder}") if rest else before
    changes: dict[str, Any] = {name: config}
    asked = dataclasses.replace(recipe, **changes)

    def go_on() -> list[str]:
        """The same command, without what is done already."""
        left = _begun(path, asked) and not Run.open(path).stage(name).finished
        return [name, folder] if left else [name, *arguments]

    if fresh:
        return watch(run(asked, path, [name]), path, go_on)
    stage = Run.open(path).stage(name)
    if "--again" in after or (config != before and not stage.begun):
        return watch(redo(path, name, config), path, go_on)
    if stage.finished:
        raise LabError(f"{stage.path} is finished. To make it again and drop what came after it: {command} --again")
    if config != before:
        raise LabError(f"{stage.path} was begun with other settings. To begin it again with these, add --again.")
    return watch(run(recipe, path, [name], resume=True), path, go_on)


def _chat(arguments: list[str]) -> int:
    options = _parse(ChatOptions, "chat", arguments)
    from labkit.commands.chat import chat

    return chat(options)


def _decode_compare(arguments: list[str]) -> int:
    from labkit.evaluation import strategies as decode_compare

    return decode_compare.main(_parse(decode_compare.CompareOptions, "decode-compare", arguments))


def _generate(arguments: list[str]) -> int:
    options = _parse(GenerateOptions, "generate", arguments)
    from labkit.commands.chat import write

    return write(options)


@dataclass(frozen=True)
class ReportOptions:
    """Write a run's report.html again and print its measures."""

    run: RunFolder
    """The run's folder."""


def _report(arguments: list[str]) -> int:
    options = _parse(ReportOptions, "report", arguments)
    from labkit.reporting.page import write
    from labkit.reporting.terminal import summary

    written = write(options.run)
    print(f"{summary(options.run)}\n\nThe whole report: {written}")
    return 0


@dataclass(frozen=True)
class CompareOptions:
    """Two runs side by side: where their recipes differ, and every measure of either."""

    first: Annotated[Positional[Path], arg(metavar="RUN_A", help_behavior_hint="")]
    """The folder of one run."""
    second: Annotated[Positional[Path], arg(metavar="RUN_B", help_behavior_hint="")]
    """The folder of another; differences are counted from the first to it."""
    json: Switch = False
    """Print it as JSON."""


def _compare(arguments: list[str]) -> int:
    options = _parse(CompareOptions, "compare", arguments)
    import json

    from labkit.reporting.comparison import compare, table

    result = compare(options.first, options.second)
    print(json.dumps(result, indent=2) if options.json else table(result))
    return 0


@dataclass(frozen=True)
class RecipeOptions:
    """Print a recipe: every field that `labkit run` can set, with its value."""

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]")] = None
    """The recipe that this run was made with, instead of a preset's."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """Whose recipe."""


def _print_recipe(arguments: list[str]) -> int:
    options = _parse(RecipeOptions, "recipe", arguments)
    from labkit.runs.folder import Run
    from labkit.runs.recipe import make_recipe

    recipe = Run.open(options.run).recipe if options.run else make_recipe(options.preset)
    for name in FIELDS:
        _print_fields(f"--{name}", getattr(recipe, name))
    return 0


def _print_fields(flag: str, value: Any) -> None:
    """One line a field, as the flag that sets it."""
    if not dataclasses.is_dataclass(value):
        print(flag.replace("_", "-"), value)
        return
    from labkit.configs import choices

    for field in dataclasses.fields(value):
        name, inside = f"{flag}.{field.name}", getattr(value, field.name)
        if field.name in choices(type(value)):
            if inside is None:  # nothing that a flag could set
                continue
            print(name.replace("_", "-"), type(inside).__name__)
        _print_fields(name, inside)


@dataclass(frozen=True)
class DemoOptions:
    """Make data/demo again, the finished run that the app opens on: a run of the default recipe, made small.

    About ten minutes; the run itself stays where it was made.
    """

    run: Folder = Path("runs/demo")
    """The run to make it from; made, or gone on with, unless it is finished."""
    out: Folder = None
    """Where to write it, instead of data/demo."""


def _demo(arguments: list[str]) -> int:
    options = _parse(DemoOptions, "demo", arguments)
    from labkit.paths import demo_folder
    from labkit.reporting.terminal import watch
    from labkit.runs.pipeline import run
    from labkit.runs.recipe import make_recipe
    from labkit.runs.shipped import ship

    assert options.run is not None
    stopped = watch(run(make_recipe("lab"), options.run, resume=True), options.run, lambda: ["demo", *arguments])
    if stopped:
        return stopped
    made = ship(options.run, options.out or demo_folder())
    print(f"The run to look at is in {made.path}.")
    return 0


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
    text: Source = None
    """As for labkit run, for the later stages."""
    instructions: Source = None
    """As for labkit run."""
    preferences: Source = None
    """As for labkit run."""


def _import(arguments: list[str]) -> int:
    options, rest = parse_some(ImportOptions, "import", arguments)
    from labkit.hub.importing import import_checkpoint
    from labkit.runs.recipe import make_recipe

    inputs = {name: getattr(options, name) for name in INPUTS}
    recipe = make_recipe(options.preset, **inputs)
    recipe = override(recipe, FIELDS, rest, "import") if rest else recipe
    run = import_checkpoint(options.source, options.run, recipe, options.chat_template)
    print(f"{run.path} begins with {options.source}. To talk to it: labkit chat {run.path}")
    return 0


@dataclass(frozen=True)
class ExportOptions:
    """Take a run's model away, with its tokenizer and chat template: for transformers or for llama.cpp."""

    run: RunFolder
    """The run's folder."""
    out: Annotated[Positional[Path], arg(metavar="FOLDER", help_behavior_hint="")]
    """Where to write it; a new or empty folder."""
    stage: Annotated[str | None, arg(metavar="STAGE", help_behavior_hint="")] = None
    """The model after this stage; after the last one when not given."""
    format: Literal["transformers", "gguf"] = "transformers"
    """transformers: config.json and model.safetensors. gguf: one file."""
    kind: Literal["f32", "f16", "q8_0"] = "f16"
    """For gguf: how the matrices are kept."""


def _export(arguments: list[str]) -> int:
    options = _parse(ExportOptions, "export", arguments)
    from labkit.hub.export import export
    from labkit.runs.folder import Run

    made = export(Run.open(options.run), options.out, options.stage, options.format, options.kind)
    print(f"Written: {made}")
    return 0


def _read(arguments: list[str]) -> int:
    return read_command(_parse(ReadOptions, "read", arguments))


def _world(arguments: list[str]) -> int:
    options = _parse(WorldOptions, "world", arguments)
    from labkit.commands.world import show_world

    return show_world(options)


@dataclass(frozen=True)
class BenchOptions:
    """Measure one thing.

    train: our training step beside transformers', at its best. world: how fast the world writes. run: the whole run
    for several seeds, each in a process of its own with nothing compiled before, and the medians of its measures. app:
    how long the app lets its user wait. generate: writing beside transformers, and llama.cpp where it is installed.
    memory: what it takes to read, tokenize and train on a large text (Linux only).
    claims: whether every stage beats its baseline, over --seeds, --precisions and --threads; exit code 1 where one does
    not.
    """

    what: Annotated[
        Positional[Literal["train", "generate", "world", "run", "app", "claims", "memory"]],
        arg(metavar="{train,generate,world,run,app,claims,memory}"),
    ]
    """What to measure."""
    json: Switch = False
    """Print everything that was measured, as JSON."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """For run and claims: one run for each."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """For run and claims: how much."""
    precisions: tuple[Literal["bf16", "fp32"], ...] = ("bf16", "fp32")
    """For claims: one run for each that the processor has."""
    threads: tuple[Count, ...] = (1, 2)
    """For claims: one run for each number of threads."""
    out: Folder = None
    """For run, claims and memory: the folder of the runs, runs/bench, runs/claims or runs/memory when not given.
    Finished ones of run and claims found there are not made again."""
    model: Path | None = None
    """For generate: a GGUF file of a model to write with, in place of the default shapes."""
    megabytes: Count = 300
    """For memory: the size of each text."""


def _bench(arguments: list[str]) -> int:
    options = _parse(BenchOptions, "bench", arguments)
    import json

    from labkit.machine import describe

    result: dict[str, Any]
    code = 0
    if options.what == "train":
        from labkit.bench import train

        result = train.run(train.TrainBench(), lambda line: print(f"bench train: {line} ...", file=sys.stderr))
        text = train.table(result)
    elif options.what == "generate":
        from labkit.bench import generate

        config = generate.GenerateBench(new=48, file=options.model) if options.model else generate.GenerateBench()
        result = generate.run(config, lambda line: print(f"bench generate: {line} ...", file=sys.stderr))
        text = generate.table(result)
    elif options.what in ("world", "app"):
        from labkit.bench import app, world

        result = world.run(world.WorldBench()) if options.what == "world" else app.run()
        text = "\n".join(f"{name:26} {value}" for name, value in result.items())
    elif options.what == "memory":
        from labkit.bench import memory

        asked_memory = memory.MemoryBench(options.megabytes, options.out or memory.MemoryBench.out)
        result = memory.run(asked_memory, lambda line: print(f"bench memory: {line} ...", file=sys.stderr))
        text = memory.table(result)
    elif options.what == "claims":
        from labkit.bench import claims

        out = options.out or claims.ClaimsBench.out
        asked = claims.ClaimsBench(options.seeds, options.preset, options.precisions, options.threads, out)
        result = claims.run(asked, lambda line: print(f"bench claims: {line}", file=sys.stderr))
        text = claims.table(result)
        code = 1 if claims.failed(result) else 0
    else:
        from labkit.bench import run

        result = run.run(run.RunBench(options.seeds, options.preset, options.out or run.RunBench.out))
        text = run.table(result)
    machine: Any = result.get("machine") or describe()
    result = {**result, "machine": machine}
    text = f"{text}\n\nMeasured on {machine['processor']}, {machine['cores']} cores."
    print(json.dumps(result, indent=2) if options.json else text)
    return code


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "run": (_run, "make a whole run: tokenizer, every stage, report"),
    "pretrain": (partial(_stage, "pretrain"), "make one stage of a run: learn from documents"),
    "sft": (partial(_stage, "sft"), "make one stage of a run: learn to answer"),
    "reward": (partial(_stage, "reward"), "make one stage of a run: learn what is preferred"),
    "ppo": (partial(_stage, "ppo"), "make one stage of a run: write for reward"),
    "dpo": (partial(_stage, "dpo"), "make one stage of a run: learn from choices directly"),
    "chat": (_chat, "talk to the model of a run"),
    "generate": (_generate, "let the model of a run write"),
    "decode-compare": (_decode_compare, "let it write under several strategies, side by side"),
    "report": (_report, "write a run's report again and print its measures"),
    "compare": (_compare, "two runs side by side"),
    "recipe": (_print_recipe, "print a recipe: every field that can be set"),
    "read": (_read, "show what is understood of a file, before anything is trained"),
    "import": (_import, "begin a run with a published checkpoint"),
    "export": (_export, "take a run's model away: for transformers or llama.cpp"),
    "demo": (_demo, "make the run again that comes with labkit"),
    "world": (_world, "look into TinyWorld: stories, tasks, scored answers"),
    "bench": (_bench, "measure: the training step, the world, whole runs"),
}
