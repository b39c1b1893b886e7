"""The lab in a browser: python app.py, then open the address that it prints."""

import argparse
from functools import partial
from pathlib import Path

from labkit.jobs import Jobs
from labkit.paths import demo_folder
from labkit.preferences.store import Store
from labkit.ui import attention, decoding, preferences, runs
from labkit.ui.lab import Lab
from labkit.ui.shell import page, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the runs (runs)")
    parser.add_argument("--votes", help="a file or database URL for the votes (votes.db in the folder of the runs)")
    parser.add_argument("--port", type=int, default=None, help="the first free one from 7860 on when not given")
    options = parser.parse_args()
    lab, jobs = Lab(options.runs, demo_folder()), Jobs(options.runs)
    store = Store(options.votes or options.runs / "votes.db")
    tabs = {
        "attention": attention.build,
        "decoding": decoding.build,
        "preferences": partial(preferences.build, store=store),
        "runs": partial(runs.build, jobs=jobs, store=store),
    }
    serve(page(lab, tabs), server_port=options.port, blocked_paths=[str(options.runs), str(demo_folder())])


if __name__ == "__main__":
    main()
