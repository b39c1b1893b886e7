"""Rows in files, and what is read of them."""

import csv
import json

from labkit.commands.read import read_rows

ROWS = [{"instruction": f"Add {n} and 1, {n}.", "output": f"It is {n + 1}."} for n in range(6)]
TALKS = [[("user", row["instruction"]), ("assistant", row["output"])] for row in ROWS]
TURNS = [{"role": "user", "content": "Hi {}?"}, {"role": "assistant", "content": "Yes {}."}]
SPOKEN = [("user", "Hi {}?"), ("assistant", "Yes {}.")]
"""A conversation in which {} is a number, as messages and as what is read of them."""


def talks(path):
    rows, reading = read_rows(str(path), "instructions")
    return [[(m["role"], m["content"]) for m in row["messages"]] for row in rows], reading


def pairs(path):
    rows, reading = read_rows(str(path), "preferences")
    return [
        ([(m["role"], m["content"]) for m in row["prompt"]], row["chosen"], row["rejected"]) for row in rows
    ], reading


def jsonl(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def as_csv(path, delimiter):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["instruction", "output"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
