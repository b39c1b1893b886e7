"""The corpora that tests of real input read: the folder named by LABKIT_CORPORA, or files of the same
shape.
"""

import json
import os
from pathlib import Path

import pytest

LINES = ("Good morrow, friend.", "Where is the king?", "He sleeps, and none may wake him.", "Then let us go.")


@pytest.fixture(scope="session")
def corpora(tmp_path_factory) -> Path:
    if os.environ.get("LABKIT_CORPORA"):
        return Path(os.environ["LABKIT_CORPORA"])
    folder = tmp_path_factory.mktemp("corpora")
    play = "\n\n".join(
        f"{('ANNA', 'TOM', 'KING')[scene % 3]}:\n{LINES[scene % 4]}\nScene {scene}, verse {scene * 7 % 31}."
        for scene in range(3000)
    )
    (folder / "tinyshakespeare.txt").write_text(play)
    rows = [
        {
            "instruction": f"Write the number {number} in words that {number % 7} people know.",
            "input": f"the number {number}" if number % 2 else "",
            "output": f"The number is {number}, which is {number % 13} more than {number - number % 13}.",
        }
        for number in range(1100)
    ]
    (folder / "instructions.json").write_text(json.dumps(rows))
    pairs = [row | {"chosen": row["output"], "rejected": "No. " + row["output"]} for row in rows]
    (folder / "instruction-preferences.json").write_text(json.dumps(pairs))
    return folder
