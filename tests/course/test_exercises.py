"""Every exercise: its reference solution is right, and each of its mistakes is refused with its own hint."""

import re

import numpy as np
import pytest

from labkit.course import Choice, Exercise, Function, Mistake, Value, check
from labkit.course.compare import ERROR_PATTERNS, recognise, to_plain
from labkit.course.registry import all_exercises, exercises, find_exercise, notebooks
from labkit.errors import LabError
from tests.course_answers import right_answer, wrong_answer

EXERCISES = all_exercises()
HINTS = {
    "sign": "sign|minus",
    "off by one": r"\bone\b|Near",
    "mask inverted": "inverted",
    "transposed": "exchanged",
    "reversed": "order|exchanged|from the left",
    "percent for a fraction": "percent",
    "log2 for the natural logarithm": r"\bbits?\b",
    "log10 for the natural logarithm": "log10",
    "exp left in": r"exp\(|odds",
    "reciprocal": "upside down|factor| per ",
}
"""What a hint says, by the pattern that the mistake follows."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Progress is kept in runs/ of the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_the_reference_solution_is_right(exercise):
    said = check(exercise.id, right_answer(exercise), **exercise.checker.given)
    assert said and said.text == f"✓ {exercise.id} is right."


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_each_mistake_is_refused_with_its_hint(exercise):
    assert len(exercise.mistakes) >= 3
    for mistake in exercise.mistakes:
        said = check(exercise.id, wrong_answer(exercise, mistake), **exercise.checker.given)
        assert said.state == "wrong", mistake.name
        assert said.mistake == mistake.name and mistake.hint in said.text


def pattern_of(exercise: Exercise, mistake: Mistake) -> str:
    """The pattern that leads from the right answer to the mistake's; of functions, on all inputs."""
    checker = exercise.checker
    assert isinstance(checker, Value | Function)
    wrong, right = wrong_answer(exercise, mistake), right_answer(exercise)
    pairs = [(wrong, right)]
    if isinstance(checker, Function):
        try:
            pairs = [(wrong(*one), right(*two)) for one, two in zip(checker.inputs(), checker.inputs(), strict=True)]
        except Exception:  # one of the two raises
            return ""
    found = {recognise(to_plain(one), to_plain(other), checker.tolerance) for one, other in pairs}
    return found.pop() if len(found) == 1 else ""


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_a_wrong_sign_gets_no_hint_for_another_mistake(exercise):
    """A mistake's hint comes first; so where its answer is also the negative, the reciprocal, or another of
    ERROR_PATTERNS, the hint has to fit that.
    """
    assert set(HINTS) == set(ERROR_PATTERNS)
    for mistake in () if isinstance(exercise.checker, Choice) else exercise.mistakes:
        if pattern := pattern_of(exercise, mistake):
            assert re.search(HINTS[pattern], mistake.hint, re.IGNORECASE), (mistake.name, pattern)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_without_an_answer_it_says_how_to_answer(exercise):
    for nothing in (None, ...):
        said = check(exercise.id, nothing, **exercise.checker.given)
        assert said.state == "unanswered" and f'check("{exercise.id}", ' in said.text
    assert "def " in exercise.solution_code and exercise.question.endswith((".", "?"))


@pytest.mark.parametrize("notebook", notebooks())
def test_a_notebook_has_three_to_six(notebook):
    assert 3 <= len(exercises(notebook)) <= 6


def test_what_there_is_not_is_named():
    with pytest.raises(LabError, match=r"no exercise '00.99'; there are 00.1, 00.2"):
        find_exercise("00.99")
    assert check("00.99", 1).state == check("77.1", 1).state == check("", 1).state == "unknown"
    assert "00" in check("77.1", 1).text


@pytest.mark.parametrize(("number", "text"), [(12.3, "12.3"), (7.3, "07.3")])
def test_an_id_that_is_a_number_is_asked_for_in_quotes(number, text):
    said = check(number, 1)
    assert said.state == "unknown" and f'text, in quotes: check("{text}", …)' in said.text


def numpy_scalars(value):
    """The same with NumPy's numbers and texts in place of Python's."""
    if isinstance(value, list | tuple):
        return type(value)(map(numpy_scalars, value))
    kinds = ((bool, np.bool_), (int, np.int64), (float, np.float64), (str, np.str_))
    return next((of(value) for kind, of in kinds if isinstance(value, kind)), value)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_an_answer_worked_out_with_numpy_is_right(exercise):
    solution = right_answer(exercise)
    answer = (lambda *given: numpy_scalars(solution(*given))) if callable(solution) else numpy_scalars(solution)
    assert check(exercise.id, answer, **exercise.checker.given).state == "right"


def test_what_looks_right_on_easy_inputs_is_refused():
    """Each was taken for right where the inputs let it be."""

    def joined(tokens, pair):
        return " ".join(tokens).replace(" ".join(pair), "".join(pair)).split()

    def nothing_at_the_end(probabilities, u):
        ends = np.cumsum(probabilities)
        return int(np.searchsorted(ends, u, side="right")) if u < ends[-1] else None

    assert check("02.2", joined).mistake == "joined as text"
    assert check("09.3", nothing_at_the_end).mistake == "nothing at the end"
    assert check("09.3", lambda p, u: int(np.searchsorted(np.cumsum(p), u))).mistake == "edge on the left"


@pytest.mark.parametrize("id", ["02.6", "03.2"])
def test_a_mask_may_be_of_zeros_and_ones(id):
    exercise = find_exercise(id)

    def with_numbers(*given):
        return np.array(exercise.solution(*given), dtype=float)

    assert check(id, with_numbers)
    assert check(id, lambda *given: 1 - with_numbers(*given)).mistake == "mask inverted"


def test_a_tensor_of_many_numbers_is_not_read():
    assert "of the shape [3000, 3000] is no answer here" in check("03.1", np.zeros((3000, 3000))).text
