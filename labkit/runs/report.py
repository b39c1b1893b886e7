"""What a run has measured, as its report.json keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.files import read_object


def read_report(file: Path) -> dict[str, Any]:
    """A run's report.json: {"stages": a list of the stages' results, "machine", "recipe", "reading"}. Raises LabError
    for a file that is no report.
    """
    try:
        report = read_object(file, stages=list)
        for stage in report["stages"]:
            named = isinstance(stage, dict) and isinstance(stage.get("stage"), str)
            if not named or not isinstance(stage.get("metrics"), dict):
                raise LabError(f"{file} is damaged: one of its 'stages' is not the result of a stage.")
    except LabError as error:
        raise LabError(
            f"{file} is not a report of labkit. {error} Delete it; labkit run --out {file.parent} --resume writes it "
            "again."
        ) from error
    return report
