"""How answers are checked: a value against the reference's, one of several options, a function on several inputs."""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.course.compare import (
    ERROR_PATTERNS,
    SHOWN_CHARACTERS,
    UnreadableAnswer,
    difference,
    equal,
    in_words,
    printable,
    recognise,
    show,
    to_plain,
)
from labkit.course.exercises import Exercise, Mistake, Verdict

UNANSWERED = (None, ...)
EMPTY_BODY_OPCODES = ("RESUME", "NOP", "RETURN_VALUE")
CONSTANT_OPCODES = ("LOAD_CONST", "RETURN_CONST")
"""The instructions of a function whose body is `...`; the last is that of Python 3.12 and 3.13."""


class _ValueAnswers:
    """What `Value` and `Choice` share: the solution returns the answer."""

    given: Mapping[str, Any]

    def truth(self, exercise: Exercise, given: Mapping[str, Any]) -> Any:
        return _fold(to_plain(exercise.solution(**given)))


@dataclass(frozen=True)
class Value(_ValueAnswers):
    """A number, text, list, tensor, set or dictionary is asked for.

    tolerance: of floats, relative; a student rounds. given: what the solution takes, by name, with values for the
    tests; the notebook hands over its own, as it measured them: check("04.2", answer, loss=loss). In texts, case and
    spaces do not matter.
    """

    tolerance: float = 0.01
    given: Mapping[str, Any] = field(default_factory=dict)

    def how_to_answer(self, exercise: Exercise) -> str:
        answer = to_plain(exercise.solution(**self.given))
        return f'Give {in_words(answer)}: check("{exercise.id}", {_example(answer)}{_named(self.given)})'

    def judge(self, exercise: Exercise, answer: Any, given: Mapping[str, Any], truth: Any) -> Verdict:
        if inspect.isroutine(answer):
            return Verdict(False, "This is a function; its result is asked for. Call it, or compute the answer.")
        mine = _fold(to_plain(answer))
        if not (said := difference(mine, truth, self.tolerance)):
            return Verdict(True)
        if mistake := _find_mistake(exercise, given, lambda wrong: equal(mine, wrong, self.tolerance)):
            return Verdict(False, mistake.hint, mistake.name)
        if pattern := recognise(mine, truth, self.tolerance):
            return Verdict(False, ERROR_PATTERNS[pattern], pattern)
        return Verdict(False, _sentence(said))


@dataclass(frozen=True)
class Choice(_ValueAnswers):
    """One of several options is asked for; the solution returns it. given: as of `Value`."""

    options: tuple[str, ...]
    given: Mapping[str, Any] = field(default_factory=dict)

    def how_to_answer(self, exercise: Exercise) -> str:
        return f'Give one of {self._listed}: check("{exercise.id}", "{self.options[0]}"{_named(self.given)})'

    def judge(self, exercise: Exercise, answer: Any, given: Mapping[str, Any], truth: Any) -> Verdict:
        mine = _fold(to_plain(answer))
        if mine not in [_fold(option) for option in self.options]:
            return Verdict(False, f"{show(answer)} is none of {self._listed}.")
        if mine == truth:
            return Verdict(True)
        if mistake := _find_mistake(exercise, given, lambda wrong: bool(wrong == mine)):
            return Verdict(False, mistake.hint, mistake.name)
        return Verdict(False, f"It is not {show(answer)}.")

    @property
    def _listed(self) -> str:
        return ", ".join(f'"{option}"' for option in self.options)


@dataclass(frozen=True)
class Function:
    """A function is asked for: it gives what the reference solution gives on each of the inputs.

    inputs: called for each check; returns the arguments of every call, the edge cases among them, so that a function
    that changes its arguments spoils nothing: lambda: [([1.0, 2.0], 0.9), ([], 0.9)]. tolerance: of floats, relative.
    """

    inputs: Callable[[], Sequence[tuple[Any, ...]]]
    tolerance: float = 1e-3
    given: Mapping[str, Any] = field(default_factory=dict, init=False)

    def how_to_answer(self, exercise: Exercise) -> str:
        name = exercise.solution.__name__
        parameters = ", ".join(inspect.signature(exercise.solution).parameters)
        return f'Write the function {name}({parameters}), then give it itself, uncalled: check("{exercise.id}", {name})'

    def truth(self, exercise: Exercise, given: Mapping[str, Any]) -> list[_Outcome]:
        return self._outcomes(exercise.solution)

    def judge(self, exercise: Exercise, answer: Any, given: Mapping[str, Any], truth: list[_Outcome]) -> Verdict | None:
        """The student's function on each input, against the solution's outcomes; None where it is not written yet."""
        if not callable(answer):
            name = exercise.solution.__name__
            return Verdict(False, f"A function is asked for, not its result: give {name} without brackets behind it.")
        if _is_unwritten(answer):
            return None
        mine = self._outcomes(answer)
        wrong = [
            (at, one.problem or difference(one.value, right.value, self.tolerance))
            for at, (one, right) in enumerate(zip(mine, truth, strict=True))
        ]
        wrong = [(at, said) for at, said in wrong if said]
        if not wrong:
            return Verdict(True)
        for mistake in exercise.mistakes:
            if self._same(mine, self._outcomes(mistake.answer)):
                return Verdict(False, mistake.hint, mistake.name)
        first, said = wrong[0]
        call = f"{getattr(answer, '__name__', 'function')}{_arguments(self.inputs()[first])}"
        if mine[first].problem:
            return Verdict(False, f"{call} {mine[first].problem}.", "an exception")
        if all(one.value is None and not one.problem for one in mine):
            return Verdict(False, f"{call} gives None: is a return missing?", "return missing")
        shown, expected = show(mine[first].value), show(truth[first].value)
        told = f"{call} gives {shown}; expected {expected}."
        found = {recognise(mine[at].value, truth[at].value, self.tolerance) for at, _ in wrong if not mine[at].problem}
        if len(found) == 1 and (pattern := found.pop()):
            return Verdict(False, f"{ERROR_PATTERNS[pattern]} {told}", pattern)
        return Verdict(False, told if len(told) < 300 and shown != expected else f"{told} There, {said}.")

    def _outcomes(self, function: Callable[..., Any]) -> list[_Outcome]:
        return [_call(function, arguments) for arguments in self.inputs()]

    def _same(self, mine: list[_Outcome], other: list[_Outcome]) -> bool:
        """Whether two functions did the same on every input: returned the same, or raised the same."""
        return all(
            bool(one.problem) == bool(two.problem)
            and (one.error == two.error if one.problem else equal(one.value, two.value, self.tolerance))
            for one, two in zip(mine, other, strict=True)
        )


@dataclass(frozen=True)
class _Outcome:
    """What a call gave: a plain value, None where it gave nothing, or in words why there is none, and the type of the
    exception.
    """

    value: Any = None
    problem: str = ""
    error: str = ""


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> _Outcome:
    try:
        value = function(*arguments)
        return _Outcome(None if value is ... else to_plain(value))
    except UnreadableAnswer as error:
        return _Outcome(problem=f"gives what cannot be compared: {str(error).rstrip('.')}", error="UnreadableAnswer")
    except (Exception, SystemExit) as error:  # whatever a student's function does becomes words
        return _Outcome(problem=f"raised {error_in_words(error)}{_line(error, function)}", error=type(error).__name__)


def _is_unwritten(function: Callable[..., Any]) -> bool:
    """Whether a function's body is nothing but `...` or `pass`: it does nothing but return None."""
    code = getattr(function, "__code__", None)
    return code is not None and all(
        done.opname in EMPTY_BODY_OPCODES or (done.opname in CONSTANT_OPCODES and done.argval in UNANSWERED)
        for done in dis.get_instructions(code)
    )


def _find_mistake(exercise: Exercise, given: Mapping[str, Any], is_answer: Callable[[Any], bool]) -> Mistake | None:
    """The first of an exercise's mistakes whose wrong value is the answer; one that cannot be computed from what the
    notebook gives is none.
    """
    for mistake in exercise.mistakes:
        try:
            wrong = _fold(to_plain(mistake.value(given)))
        except Exception:
            continue
        if is_answer(wrong):
            return mistake
    return None


def error_in_words(error: BaseException) -> str:
    """ZeroDivisionError (division by zero), in one printable line."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return f"{type(error).__name__} ({printable(text, 200)})" if text else type(error).__name__


def _line(error: BaseException, function: Callable[..., Any]) -> str:
    """In which line of the function an exception was raised, counted from its def; "" where that is not known."""
    code, traceback, line = getattr(function, "__code__", None), error.__traceback__, 0
    while traceback is not None and code is not None:
        if traceback.tb_frame.f_code is code:
            line = traceback.tb_lineno - code.co_firstlineno + 1
        traceback = traceback.tb_next
    return f" in its line {line}" if line else ""


def _arguments(arguments: tuple[Any, ...]) -> str:
    return f"({', '.join(printable(repr(argument), SHOWN_CHARACTERS) for argument in arguments)})"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _fold(value: Any) -> Any:
    """Texts in small letters, one space between words and none beside a sign, also inside lists and dictionaries."""
    if isinstance(value, str):
        return re.sub(r" ?([^\w ]) ?", r"\1", " ".join(value.split())).casefold()
    if isinstance(value, list):
        return [_fold(held) for held in value]
    if isinstance(value, dict):
        return {_fold(key): _fold(held) for key, held in value.items()}
    return frozenset(map(_fold, value)) if isinstance(value, frozenset) else value


def _named(given: Mapping[str, Any]) -> str:
    return "".join(f", {name}={name}" for name in given)


def _example(answer: Any) -> str:
    """What an answer of this kind looks like in Python."""
    if isinstance(answer, list | frozenset) and answer:
        two = ", ".join([_example(next(iter(answer)))] * 2)
        return f"[{two}]" if isinstance(answer, list) else f"{{{two}}}"
    return {"a number": "1.5", "text": '"..."', "True or False": "True"}.get(in_words(answer), "...")
