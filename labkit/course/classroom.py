"""Progress in words, of one student; and that of a class, as a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from labkit.course.checkers import Function
from labkit.course.compare import printable, show
from labkit.course.exercises import Exercise
from labkit.course.progress import FILE, ExerciseRecord, read_progress
from labkit.course.registry import all_exercises, exercises, find_exercise, notebook_title, notebooks
from labkit.errors import LabError, count_with_noun
from labkit.files import explain_read_errors, write_text

HEAD = ("student", "right", "tried", "exercises", "last answer")
"""The first columns of the table; one of each exercise follows."""
NAME_CHARACTERS, PATH_CHARACTERS = 60, 4096
"""The most of a name, and of a path or a cell, that is printed or written."""


@dataclass(frozen=True)
class Marks:
    """The signs that stand for an exercise's state where progress is printed."""

    right: str = "✓"
    wrong: str = "✗"
    not_answered: str = "·"

    def of(self, answered: ExerciseRecord | None) -> str:
        """The sign for what was answered; None for nothing."""
        return self.not_answered if answered is None else self.right if answered.right else self.wrong


UNICODE, ASCII = Marks(), Marks("v", "x", ".")
"""The second is for a terminal whose encoding lacks the signs of the first."""


def format_progress(progress: Mapping[str, ExerciseRecord], marks: Marks = UNICODE) -> str:
    """What the marks mean; a line a notebook, with a mark for each exercise; a line for each that is not right yet."""
    lines, right = [f"{marks.right} right   {marks.wrong} not right yet   {marks.not_answered} not answered"], 0
    for notebook in notebooks():
        found = [marks.of(progress.get(exercise.id)) for exercise in exercises(notebook)]
        right += found.count(marks.right)
        title = notebook_title(notebook)
        lines.append(f"{notebook}  {title:23} {' '.join(found):12} {found.count(marks.right)} of {len(found)} right")
        for exercise in exercises(notebook):
            answered = progress.get(exercise.id)
            if answered and not answered.right:
                lines.append(f"    {exercise.id}  {count_with_noun(answered.attempts, 'attempt')}. {exercise.question}")
    return "\n".join([*lines, f"{right} of {count_with_noun(len(all_exercises()), 'exercise')} right."])


def format_solutions(which: str) -> str:
    """The reference solutions of a notebook ("07" or "7"), or of one exercise ("07.3"). Raises LabError for another."""
    if which[1:2] in ("", "."):
        which = f"0{which}"
    chosen = [find_exercise(which)] if "." in which else exercises(which)
    return "\n\n\n".join(map(_solution, chosen))


def _solution(exercise: Exercise) -> str:
    """The question, the solution's code, and the answer where that is a value that no notebook measures first."""
    lines = f"# {exercise.id}  {exercise.question}\n\n{exercise.solution_code}"
    if isinstance(exercise.checker, Function) or exercise.checker.given:
        return lines
    return f"{lines}\n\n# The answer: {show(exercise.solution())}"


@dataclass(frozen=True)
class Student:
    """A student and what was answered, by the exercises' ids."""

    name: str
    progress: Mapping[str, ExerciseRecord]


def read_students(places: Sequence[Path]) -> tuple[list[Student], list[str]]:
    """The students whose progress lies in these places, and in words which places hold none.

    A place is a student's copy of labkit (its runs/course.json), a runs folder, or a course.json by any name. A student
    is called as the folder, or as the file, also where that is a link; where two would be called the same, by the path
    that was given. A file that is named twice counts once; a link to another's file is a student too, and is said.
    """
    found: list[tuple[Path, Mapping[str, ExerciseRecord]]] = []
    problems = []
    named: set[str] = set()
    files: set[Path] = set()
    for place in places:
        try:
            file = _file_of(place)
            if (path := os.path.abspath(file)) in named:
                problems.append(f"{place} is the same file as one before it; it is counted once.")
                continue
            found.append((place, read_progress(file)))
            if file.resolve() in files:
                problems.append(f"{place} leads to the same file as one before it; both are counted.")
            named.add(path)
            files.add(file.resolve())
        except LabError as error:
            problems.append(str(error))
    names = Counter(_name(place) for place, _ in found)
    return [
        Student(_name(place) if names[_name(place)] == 1 else printable(str(place), PATH_CHARACTERS), progress)
        for place, progress in found
    ], [printable(problem, 2 * PATH_CHARACTERS) for problem in problems]


def write_class(file: Path, students: Sequence[Student]) -> None:
    """Write the table of a class: a row a student, a column an exercise: 1 right, 0 tried, empty not tried.

    With a byte order mark, without which Excel takes UTF-8 for another encoding. Raises LabError where `file` is there
    and is no such table: it may be a student's; and where it cannot be read.
    """
    if not _is_replaceable(file):
        raise LabError(f"{file} is there and is not a table of a class; it is left as it is. Give another name first.")
    known = all_exercises()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*HEAD, *(exercise.id for exercise in known)])
    for student in students:
        table.writerow(map(_cell, _row(student, known)))
    write_text(file, "\ufeff" + text.getvalue())


def format_class(students: Sequence[Student]) -> str:
    """A line for each exercise that somebody has tried: how many have it right, attempts, the commonest mistakes."""
    lines = []
    for exercise in all_exercises():
        answers = [student.progress[exercise.id] for student in students if exercise.id in student.progress]
        if not answers:
            continue
        right = sum(answered.right for answered in answers)
        mean = sum(answered.attempts for answered in answers) / len(answers)
        mistakes: Counter[str] = Counter()
        for answered in answers:
            mistakes.update(answered.mistakes.keys())
        said = ", ".join(f"{printable(name, NAME_CHARACTERS)} ({count})" for name, count in mistakes.most_common(3))
        lines.append(f"{exercise.id}  {right} of {len(answers)} right, {mean:.1f} attempts  {said}".rstrip())
    return "\n".join(lines)


def unknown_exercises(students: Sequence[Student]) -> list[str]:
    """The ids that students have answered and this labkit does not have; they are not in the table."""
    known = {exercise.id for exercise in all_exercises()}
    return sorted(
        {printable(id, NAME_CHARACTERS) for student in students for id in student.progress if id not in known}
    )


def _row(student: Student, known: Sequence[Exercise]) -> list[object]:
    answers = [student.progress.get(exercise.id) for exercise in known]
    tried = [answered for answered in answers if answered is not None]
    marks = ["" if answered is None else int(answered.right) for answered in answers]
    last = max((answered.last for answered in tried if _is_time(answered.last)), default="")
    return [student.name, sum(answered.right for answered in tried), len(tried), len(known), last, *marks]


def _cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula, nor for two cells: what begins as a formula does gets a ' before
    it, and ; becomes a comma (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    text = printable(str(value), PATH_CHARACTERS).replace(";", ",")
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _is_time(text: str) -> bool:
    """Whether this is a time as labkit writes it, and no other text."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_replaceable(file: Path) -> bool:
    """Whether there is no file, or one that is a table of a class."""
    with explain_read_errors(file):
        return not file.exists() or (file.is_file() and _is_table(file))


def _is_table(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        return opened.readline(1000).startswith(",".join(HEAD))


def _file_of(place: Path) -> Path:
    with explain_read_errors(place):
        if not place.exists():
            raise LabError(f"{place} is not there.")
        candidates = [place] if place.is_file() else [place / FILE, place / "runs" / FILE]
        for file in candidates:
            if file.is_file():
                return file
    raise LabError(f"{place} holds no progress: neither {FILE} nor runs/{FILE}.")


def _name(place: Path) -> str:
    place = place.absolute()
    if place.is_file() and place.name != FILE:
        return printable(place.stem, NAME_CHARACTERS)
    folder = place.parent if place.is_file() else place
    return printable((folder.parent if folder.name == "runs" else folder).name, NAME_CHARACTERS)
