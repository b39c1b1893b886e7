"""What students hand in: the right answer to an exercise, and that of each of its mistakes."""

from typing import Any

from labkit.course import Exercise, Function, Mistake


def right_answer(exercise: Exercise) -> Any:
    """The solution where a function is asked for, else what it returns."""
    if isinstance(exercise.checker, Function):
        return exercise.solution
    return exercise.solution(**exercise.checker.given)


def wrong_answer(exercise: Exercise, mistake: Mistake) -> Any:
    """The mistake's function where a function is asked for, else its value."""
    if isinstance(exercise.checker, Function):
        return mistake.answer
    return mistake.value(exercise.checker.given)
