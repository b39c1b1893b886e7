"""What an exercise is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that says what was misunderstood.

    name: of its kind, in a few words, as "mean for sum". answer: the wrong answer: a value, a function of what the
    notebook gives (see `Value`), or, where a function is asked for, the wrong function. hint: what the student is told;
    it leads to the solution without giving it away.
    """

    name: str
    answer: Any
    hint: str

    def value(self, given: Mapping[str, Any]) -> Any:
        """The wrong answer where a value is asked for, from what the notebook gives."""
        return self.answer(**given) if callable(self.answer) else self.answer


@dataclass(frozen=True)
class Verdict:
    """What a checker says of an answer. text: what is wrong. mistake: the name of the mistake that was recognised."""

    right: bool
    text: str = ""
    mistake: str = ""


class Checker(Protocol):
    """How the answers to an exercise are compared with its reference solution: `labkit.course.checkers`."""

    @property
    def given(self) -> Mapping[str, Any]:
        """What the notebook hands to `check` beside the answer, by name, with example values for the tests."""
        ...

    def how_to_answer(self, exercise: Exercise) -> str:
        """How to answer, in a sentence."""
        ...

    def truth(self, exercise: Exercise, given: Mapping[str, Any]) -> Any:
        """What the reference solution gives, as `judge` compares it. Raises what the solution raises where it cannot
        compute with what the notebook gives.
        """
        ...

    def judge(self, exercise: Exercise, answer: Any, given: Mapping[str, Any], truth: Any) -> Verdict | None:
        """Whether the answer is right, held against `truth`; None where it turns out that there is none yet."""
        ...


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook.

    id: "07.3" is the third of notebook 07. question: in a sentence or two; the notebook's text says it too. solution:
    the reference solution. Where a value is asked for, a function that returns it, so that its code shows the way to
    it; where a function is asked for, that function. mistakes: at least three.
    """

    id: str
    question: str
    solution: Callable[..., Any]
    checker: Checker
    mistakes: tuple[Mistake, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d\d\.\d+", self.id):
            raise ValueError(f"An exercise's id is like 07.3, not {self.id!r}.")
        if not inspect.isfunction(self.solution) or self.solution.__name__ == "<lambda>":
            raise ValueError(f"{self.id}: the solution is a function made with def, whose code can be printed.")
        if len({mistake.name for mistake in self.mistakes}) < max(3, len(self.mistakes)):
            raise ValueError(f"{self.id}: there are at least three mistakes, each with a name of its own.")

    @property
    def notebook_number(self) -> str:
        """The number of its notebook: "07"."""
        return self.id.partition(".")[0]

    @property
    def solution_code(self) -> str:
        """The code of the reference solution."""
        return inspect.getsource(self.solution).rstrip()
