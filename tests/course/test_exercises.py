"""Every exercise: its reference solution is right, and each of its mistakes is refused with its own hint."""

import pytest

from labkit.course import check
from labkit.course.registry import all_exercises, exercises, find_exercise, notebooks
from labkit.errors import LabError

EXERCISES = all_exercises()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Progress is kept in runs/ of the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_the_reference_solution_is_right(exercise):
    said = check(exercise.id, exercise.checker.right_answer(exercise), **exercise.checker.given)
    assert said and said.text == f"✓ {exercise.id} is right."


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_each_mistake_is_refused_with_its_hint(exercise):
    assert len(exercise.mistakes) >= 3
    for mistake in exercise.mistakes:
        said = check(exercise.id, exercise.checker.wrong_answer(mistake), **exercise.checker.given)
        assert said.state == "wrong", mistake.name
        assert said.mistake == mistake.name and mistake.hint in said.text


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
