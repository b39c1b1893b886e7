"""``labkit course``: progress in the notebooks' exercises, their solutions, and the progress of a class."""

from __future__ import annotations

import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from labkit.commands.options import parse_options
from labkit.errors import LabError, count_with_noun

if TYPE_CHECKING:
    from labkit.course.classroom import Marks


@dataclass(frozen=True)
class CourseOptions:
    """Show progress in the notebooks' exercises: your own (runs/course.json), or that of the folders given."""

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="[FOLDER ...]", help_behavior_hint="")] = ()
    """Students' copies of labkit, their runs folders, or their course.json by any name."""
    solutions: Annotated[str | None, arg(metavar="NOTEBOOK", help_behavior_hint="")] = None
    """Print the reference solutions of this notebook, as 07 or 7, or of one exercise, as 07.3."""
    export: Annotated[Path | None, arg(metavar="FILE.csv", help_behavior_hint="")] = None
    """Write a table of the folders' progress, a row a student and a column an exercise: 1 right, 0 tried."""


def command(arguments: list[str]) -> int:
    """`labkit course`: its exit code, 1 where some folders hold no progress that can be read."""
    options = parse_options(CourseOptions, "course", arguments)
    if options.solutions is not None:
        if options.folders or options.export:
            raise LabError("--solutions stands alone: it is not of any folder.")
        from labkit.course.classroom import format_solutions

        print(format_solutions(options.solutions))
        return 0
    if options.export is not None:
        return _export(options.export, options.folders)
    return _show(options.folders)


def _show(folders: tuple[Path, ...]) -> int:
    from labkit.course.classroom import format_progress, read_students
    from labkit.course.progress import progress_file, read_progress

    if not folders:
        print(format_progress(read_progress(progress_file()), _marks()))
        return 0
    students, problems = read_students(folders)
    for student in students:
        print(f"{student.name}\n{format_progress(student.progress, _marks())}\n")
    return _name_problems(problems)


def _marks() -> Marks:
    """Those that the terminal's encoding has: what it lacks would all be printed as question marks."""
    from labkit.course.classroom import ASCII, UNICODE

    try:
        "".join(astuple(UNICODE)).encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def _export(file: Path, folders: tuple[Path, ...]) -> int:
    from labkit.course.classroom import format_class, read_students, unknown_exercises, write_class

    if not folders:
        raise LabError("--export needs the students' folders: labkit course --export class.csv students/*")
    students, problems = read_students(folders)
    if not students:
        raise LabError(f"No folder holds progress, and {file} is not written. {' '.join(problems)}")
    write_class(file, students)
    if told := format_class(students):
        print(told)
    if unknown := unknown_exercises(students):
        print(f"Not in the table, as this labkit does not have them: {', '.join(unknown)}.", file=sys.stderr)
    print(f"{count_with_noun(len(students), 'student')} in {file}.")
    return _name_problems(problems)


def _name_problems(problems: list[str]) -> int:
    for problem in problems:
        print(f"labkit: {problem}", file=sys.stderr)
    return int(bool(problems))
