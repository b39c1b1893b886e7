"""`check`: what a notebook calls with an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.course.checkers import UNANSWERED, error_in_words
from labkit.course.compare import UnreadableAnswer, show
from labkit.course.exercises import Exercise, Verdict
from labkit.course.progress import record_answer
from labkit.course.registry import find_exercise
from labkit.errors import LabError


@dataclass(frozen=True, repr=False)
class Feedback:
    """What is said of an answer; a notebook shows its text. It is true where the answer is right.

    state: "right", "wrong", "unanswered", or "unknown" where there is no such exercise, or the solution cannot compute
    with what the notebook gave. mistake: the name of the mistake that was recognised.
    """

    state: str
    text: str
    mistake: str = ""

    def __repr__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        return self.state == "right"


def check(id: str, answer: Any = None, **given: Any) -> Feedback:
    """Whether an answer to an exercise is right, and if not, what is wrong with it.

    id: as "07.3". answer: None or ... where there is none yet; then the feedback says how to answer. given: what the
    exercise needs of the notebook's own numbers. Answers, right and wrong, are kept in the progress file. Never raises
    for what a student does.
    """
    try:
        exercise = find_exercise(id)
    except LabError as error:
        return Feedback("unknown", str(error))
    if missing := [name for name in exercise.checker.given if name not in given]:
        return Feedback("unknown", f"{id} needs {', '.join(f'{name}=…' for name in missing)} beside the answer.")
    if unknown := [name for name in given if name not in exercise.checker.given]:
        return Feedback("unknown", f"{id} takes no {', '.join(unknown)}.")
    if _is_unanswered(answer):
        return Feedback("unanswered", f"… {id} is not answered yet. {exercise.checker.how_to_answer(exercise)}")
    try:
        truth = exercise.checker.truth(exercise, given)
    except Exception as error:  # what the notebook gives is the student's too: nothing is recorded against them
        named = ", ".join(f"{name}={show(value)}" for name, value in given.items())
        return Feedback(
            "unknown", f"{id} cannot be checked with {named}: {error_in_words(error)}. Nothing is recorded."
        )
    verdict = _judge(exercise, answer, given, truth)
    if verdict is None:
        return Feedback("unanswered", f"… {id} is not answered yet. {exercise.checker.how_to_answer(exercise)}")
    text = f"✓ {id} is right." if verdict.right else f"✗ {id} is not right yet. {verdict.text}"
    try:
        note = record_answer(id, verdict.right, text, verdict.mistake)
    except (LabError, OSError) as error:  # OSError: the folder that the notebook works in is gone
        note = f"The progress could not be kept: {error}"
    return Feedback("right" if verdict.right else "wrong", f"{text}\n{note}" if note else text, verdict.mistake)


def _is_unanswered(answer: Any) -> bool:
    return any(answer is nothing for nothing in UNANSWERED)


def _judge(exercise: Exercise, answer: Any, given: dict[str, Any], truth: Any) -> Verdict | None:
    try:
        return exercise.checker.judge(exercise, answer, given, truth)
    except UnreadableAnswer as error:
        return Verdict(False, f"{str(error)[:1].upper()}{str(error)[1:]}")
    except (Exception, SystemExit) as error:  # an answer whose own methods fail
        return Verdict(False, f"The answer could not be read: {error_in_words(error)}.")
