"""The command line: ``labkit COMMAND …``.

Each command is a file here: a dataclass of options, which tyro turns into flags, and `command`, which does the work. It
is imported when it is asked for, and torch inside its functions, so that ``--help`` answers at once. Where a command
takes a recipe's own fields (``labkit run --model.width 256``), see `labkit.runs.settings`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from labkit.commands import device, imported, launched
from labkit.commands.console import configure_standard_streams, one_line_warnings
from labkit.commands.stage_descriptions import stage_descriptions
from labkit.errors import LabError
from labkit.launcher import check_launcher_variables, launched_process_count

COMMANDS = {
    "run": "run the whole recipe: tokenizer, every stage, report",
    "chat": "talk to a run's model",
    "generate": "generate text with a run's model",
    "decode-compare": "generate with several decoding strategies, side by side",
    "report": "write a run's report again and print its metrics",
    "compare": "compare two runs, metric by metric",
    "recipe": "print a recipe: every field that can be set",
    "plan": "estimate memory and time of each stage, before training",
    "read": "show how a data source is read, before anything is trained",
    "import": "start a run from a published checkpoint",
    "export": "export a run's model for transformers or llama.cpp",
    "demo": "rebuild data/demo, the finished run that comes with labkit",
    "world": "show TinyWorld: documents, tasks, scored answers",
    "course": "the notebooks' exercises: progress, solutions, a class as a table",
    "bench": "benchmarks: training step, generation, memory, whole runs",
    "study": "experiments over several seeds: alignment, over-optimisation, feedback, multi-turn, distillation",
}
"""What each command does, in a line."""
MODULES = {"import": "import_checkpoint", "export": "export_model", "decode-compare": "decode_compare"}
"""The files of commands whose names are no names of modules."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input (said in a line), 130 stopped by ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    configure_standard_streams()
    launched.silence_ddp_warnings()
    return launched.exit_at_once_on_failure(_run(given))


def _run(given: list[str]) -> int:
    try:
        check_launcher_variables()
        with one_line_warnings():
            rest = device.take_device_option(launched.move_launch_options_to_environment(given))
            code = _dispatch(imported.take_import_options(rest))
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
    except Exception as error:
        if launched_process_count() == 1:
            raise
        return launched.report_process_failure(error)


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if given[0] == "--version":
        from labkit import __version__

        print(f"labkit {__version__}")
        return 0
    name, rest = given[0], given[1:]
    if name not in COMMANDS and name.partition("-")[0] in stage_descriptions():
        from labkit.commands import stage

        return stage.command(name, rest)
    if name not in COMMANDS:
        raise LabError(f"there is no command {name!r}; the commands are {', '.join(_lines())}.")
    return import_module(f"labkit.commands.{MODULES.get(name, name)}").command(rest)


def _lines() -> dict[str, str]:
    """The commands and what they do, those of the stages behind the first."""
    (first, line), *others = COMMANDS.items()
    stages = {kind: f"train one stage: {said.command_help}" for kind, said in stage_descriptions().items()}
    return {first: line, **stages, **dict(others)}


def usage() -> str:
    """What ``labkit --help`` prints."""
    lines = "\n".join(f"  {name:14} {line}" for name, line in _lines().items())
    return f"""usage: labkit COMMAND …

The whole recipe behind a chat model, from text to DPO, on one laptop.

{lines}

{launched.HELP}

{device.HELP}

{imported.HELP}

labkit COMMAND --help says more. To start: labkit run --preset smoke"""
