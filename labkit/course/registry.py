"""Finds the exercises. Those of notebook 07 are the EXERCISES of labkit/course/notebook_07.py, in their
order, beside its TITLE.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType

import labkit.course
from labkit.course.exercises import Exercise
from labkit.errors import LabError

PREFIX = "notebook_"


def notebooks() -> list[str]:
    """The numbers of the notebooks that have exercises, in order: ["00", "03", …]."""
    names = (found.name for found in pkgutil.iter_modules(labkit.course.__path__))
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


def notebook_title(notebook_number: str) -> str:
    """What the notebook with this number is called: "07" -> "PPO". Raises LabError for one without exercises."""
    title: str = _module(notebook_number).TITLE
    return title


@cache
def exercises(notebook_number: str) -> tuple[Exercise, ...]:
    """The exercises of the notebook with this number, as "07". Raises LabError for a notebook that has none."""
    found: tuple[Exercise, ...] = _module(notebook_number).EXERCISES
    expected = [f"{notebook_number}.{number}" for number in range(1, len(found) + 1)]
    if [exercise.id for exercise in found] != expected:
        raise ValueError(
            f"The exercises of notebook {notebook_number} are numbered {', '.join(expected)}, in this order."
        )
    return found


def find_exercise(id: str) -> Exercise:
    """The exercise with this id. Raises LabError, which lists those of its notebook, when there is none, and for an id
    that is a number.
    """
    if not isinstance(id, str):
        raise LabError(f'The id of an exercise is text, in quotes: check("{str(id).zfill(4)}", …).')
    of_notebook = exercises(id.partition(".")[0])
    for exercise in of_notebook:
        if exercise.id == id:
            return exercise
    raise LabError(f"There is no exercise {id!r}; there are {', '.join(one.id for one in of_notebook)}.")


def all_exercises() -> list[Exercise]:
    """The exercises of every notebook, in order."""
    return [exercise for notebook in notebooks() for exercise in exercises(notebook)]


def _module(notebook_number: str) -> ModuleType:
    if notebook_number not in notebooks():
        raise LabError(f"There is no notebook {notebook_number!r} with exercises; there are {', '.join(notebooks())}.")
    return import_module(f"labkit.course.{PREFIX}{notebook_number}")
