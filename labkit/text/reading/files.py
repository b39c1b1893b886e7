"""A source: a file, a folder, or the name of a data set on the hub -> what there is to read."""

from __future__ import annotations

import re
from pathlib import Path

from labkit.errors import LabError

ENDINGS = (".txt", ".jsonl", ".json", ".parquet")


def find_files(source: str | Path) -> list[Path | str]:
    """A source -> its files, or the name of a hub data set as it stands."""
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        if not files:
            raise LabError(f"The folder {path} holds no {', '.join(ENDINGS)} file.")
        return list(files)
    if path.is_file():
        if path.suffix.lower() not in ENDINGS:
            raise LabError(f"{path} has an unknown ending; known are {', '.join(ENDINGS)}.")
        return [path]
    is_name = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?", str(source))
    if not is_name or path.suffix.lower() in ENDINGS:
        raise LabError(f"There is no file or folder {path}.")
    return [str(source)]
