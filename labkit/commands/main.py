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

from labkit.commands.console import any_console, plain_warnings
from labkit.errors import LabError

COMMANDS = {
    "run": "make a whole run: tokenizer, every stage, report",
    "pretrain": "make one stage of a run: learn from documents",
    "sft": "make one stage of a run: learn to answer",
    "reward": "make one stage of a run: learn what is preferred",
    "ppo": "make one stage of a run: write for reward",
    "dpo": "make one stage of a run: learn from choices directly",
    "chat": "talk to the model of a run",
    "generate": "let the model of a run write",
    "decode-compare": "let it write under several strategies, side by side",
    "report": "write a run's report again and print its measures",
    "compare": "two runs side by side",
    "recipe": "print a recipe: every field that can be set",
    "read": "show what is understood of a file, before anything is trained",
    "import": "begin a run with a published checkpoint",
    "export": "take a run's model away: for transformers or llama.cpp",
    "demo": "make the run again that comes with labkit",
    "world": "look into TinyWorld: stories, tasks, scored answers",
    "bench": "measure: the training step, the world, whole runs",
}
"""What each command does, in a line."""
STAGES = ("pretrain", "sft", "reward", "ppo", "dpo")
"""The commands that make one stage each."""
MODULES = {"import": "import_checkpoint", "export": "export_model", "decode-compare": "decode_compare"}
"""The files of commands whose names are no names of modules."""


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
    name, rest = given[0], given[1:]
    if name in STAGES:
        from labkit.commands import stage

        return stage.command(name, rest)
    return import_module(f"labkit.commands.{MODULES.get(name, name)}").command(rest)


def usage() -> str:
    """What ``labkit --help`` prints."""
    lines = "\n".join(f"  {name:10} {line}" for name, line in COMMANDS.items())
    return f"""usage: labkit COMMAND …

The whole recipe behind a chat model, built, run, measured and looked at on one laptop.

{lines}

labkit COMMAND --help says more. To begin: labkit run --preset smoke"""
