"""The lab in a browser: python app.py, then open the address that it prints."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from labkit.commands.device import use_device
from labkit.errors import LabError
from labkit.paths import demo_folder
from labkit.preferences.store import PreferenceStore
from labkit.runs.jobs import Jobs
from labkit.ui import attention, decoding, preferences, runs
from labkit.ui.lab import Lab
from labkit.ui.served import serve
from labkit.ui.shell import build_page


def main() -> int:
    """Serve the app until ctrl-C; returns the exit code: 2 for what hinders it, said in a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the runs (default: runs)")
    parser.add_argument(
        "--votes", help="a file or database URL to keep the votes in (default: votes.db in the folder of the runs)"
    )
    parser.add_argument(
        "--port", type=port, default=None, help="the port to serve on (default: the first free one from 7860 on)"
    )
    parser.add_argument(
        "--any-file",
        action="store_true",
        help="allow training on any file of this machine, not only on those in the folder that the app is started in",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: a GPU where there is one)")
    options = parser.parse_args()
    try:
        if options.device is not None:
            use_device(options.device)
        lab = Lab(options.runs, demo_folder(), None if options.any_file else Path())
        jobs = Jobs(options.runs)
        store = PreferenceStore(options.votes or options.runs / "votes.db")
        tabs: dict[str, Callable[[Lab], None]] = {
            "attention": attention.build,
            "decoding": decoding.build,
            "preferences": partial(preferences.build, store=store),
            "runs": partial(runs.build, jobs=jobs, store=store),
        }
        blocked = [str(options.runs.absolute()), str(demo_folder())]
        serve(build_page(lab, tabs), lab, server_port=options.port, blocked_paths=blocked)
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return 2
    return 0


def port(text: str) -> int:
    """A port's number, for argparse."""
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to {2**16 - 1}, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
