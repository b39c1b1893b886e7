"""What `check` says of answers of every type, and of functions that fail."""

import math
import re
import sys
from array import array
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from labkit.course import Choice, Exercise, Function, Mistake, Value, check, checking
from labkit.course.compare import difference, recognise, show, to_plain
from labkit.course.progress import progress_file, read_progress


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def of_no_use(*given, **named):
    return "never"


NEVER = tuple(Mistake(f"mistake {number}", of_no_use, "a hint") for number in range(3))


def reciprocal(x):
    return 1 / x


def matrix():
    return torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def numbers():
    return {"log 2": math.log(2), "tokens": 4}


def mask():
    return torch.ones(3, 3).tril().bool()


def side():
    return "left"


def exercise(solution, checker):
    return Exercise("07.1", "What is it?", solution, checker, NEVER)


@pytest.fixture
def asked(monkeypatch):
    def ask(one):
        monkeypatch.setattr(checking, "find_exercise", lambda id: one)

    return ask


@pytest.mark.parametrize(
    "answer", [[[1, 2], [3, 4]], ((1, 2), (3, 4)), np.array([[1, 2], [3, 4]]), torch.tensor([[1.0, 2], [3, 4.001]])]
)
def test_a_list_an_array_and_a_tensor_are_the_same(asked, answer):
    asked(exercise(matrix, Value()))
    assert check("07.1", answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([[1, 2]], r"shape \[1, 2\]; \[2, 2\] is asked for"),
        ([[1, 3], [2, 4]], "transposed"),
        ([[3, 4], [1, 2]], "reversed"),
        ([[-1, -2], [-3, -4]], "sign"),
        ([[1, 2], [3, 5]], r"element \[1\]\[1\] is 5, which is too large"),
        ([[1, 2], [3, float("nan")]], "is nan"),
        ("1", "is text; a list is asked for"),
        (object(), "of the type object is no answer"),
        (1j, "of the type complex is no answer"),
        (reciprocal, "its result is asked for"),
        (float("inf"), "is a number; a list is asked for"),
    ],
)
def test_a_wrong_value_is_told_what_is_wrong(asked, answer, said):
    asked(exercise(matrix, Value()))
    found = check("07.1", answer)
    assert found.state == "wrong" and not found and re.search(said, found.text, re.IGNORECASE), found.text


def test_dictionaries_and_rounding(asked):
    asked(exercise(numbers, Value()))
    assert check("07.1", {"log 2": 0.69, "tokens": np.int64(4)})
    assert check("07.1", {"LOG  2": Fraction(693, 1000), "tokens": 4.0})
    assert "'log 2' is missing" in check("07.1", {"tokens": 4}).text
    assert check("07.1", {" log  2": 0.69, "tokens": 4}) and not check("07.1", {"log2": 0.69, "tokens": 4})
    assert "Element ['tokens'] is 5" in check("07.1", {"log 2": 0.69, "tokens": 5}).text


def test_an_inverted_mask_is_recognised(asked):
    asked(exercise(mask, Value()))
    assert check("07.1", ~mask()).mistake == "mask inverted"
    assert check("07.1", mask().T).mistake == "transposed"
    assert check("07.1", (~mask()).float()).mistake == "mask inverted"
    assert check("07.1", mask().float()) and check("07.1", mask().int())
    assert "True or False is asked for" in check("07.1", mask().float() / 2).text
    assert check("07.1", [[[], 0, 0], [1, 1, 0], [1, 1, 1]]).state == "wrong"


def test_an_option_that_there_is_not(asked):
    asked(exercise(side, Choice(("left", "right"))))
    assert check("07.1", " LEFT ")
    assert 'none of "left", "right"' in check("07.1", "up").text
    assert check("07.1", 3).state == check("07.1", "right").state == "wrong"


def test_what_a_function_raises_becomes_words(asked):
    asked(exercise(reciprocal, Function(lambda: [(2.0,), (0.5,)])))
    assert check("07.1", lambda x: 1 / x)
    assert check("07.1", lambda x: None).state == check("07.1", lambda x: ...).state == "unanswered"

    def halves(x):
        if x < 1:
            raise KeyError("too small\x1b[31m")
        return 0.5

    said = check("07.1", halves)
    assert said.mistake == "an exception" and "\x1b" not in said.text
    assert "halves(0.5) raised KeyError" in said.text and "in its line 3" in said.text
    assert "TypeError" in check("07.1", lambda: 1).text
    assert "raised SystemExit" in check("07.1", lambda x: sys.exit()).text
    assert "gives None; expected 2" in check("07.1", lambda x: 0.5 if x > 1 else None).text
    assert "RecursionError" in check("07.1", _endless).text
    assert "cannot be compared" in check("07.1", lambda x: object()).text
    assert "without brackets" in check("07.1", 0.5).text
    assert "gives -0.5; expected 0.5" in check("07.1", lambda x: -1 / x).text


def _endless(x):
    return _endless(x)


def test_a_function_may_spoil_its_arguments(asked):
    def first(values):
        return values[0]

    asked(exercise(first, Function(lambda: [([1.0, 2.0],), ([3.0],)])))
    assert check("07.1", lambda values: values.pop(0))


class Hostile:
    """An object whose every method fails."""

    def tolist(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")


def test_an_answer_whose_methods_fail_is_no_traceback(asked):
    asked(exercise(matrix, Value()))
    assert "could not be read: RuntimeError" in check("07.1", Hostile()).text


def test_numbers_of_the_notebook_are_asked_for_by_name(asked):
    def doubled(loss):
        return 2 * loss

    asked(exercise(doubled, Value(given={"loss": 1.0})))
    assert check("07.1", 6.0, loss=3.0)
    assert check("07.1", 6.0).state == check("07.1", 6.0, los=3.0).state == "unknown"
    assert 'check("07.1", 1.5, loss=loss)' in check("07.1", loss=3.0).text
    assert "07.1 needs loss=… beside the answer." in check("07.1", 6.0).text
    assert "07.1 takes no los." in check("07.1", 6.0, loss=3.0, los=1).text


def test_what_the_solution_cannot_compute_with_is_no_wrong_answer(asked):
    def share(part, whole):
        return part / whole

    asked(exercise(share, Value(given={"part": 1.0, "whole": 4.0})))
    for given in ({"part": 1.0, "whole": 0.0}, {"part": None, "whole": 1.0}, {"part": object(), "whole": 2}):
        said = check("07.1", 0.25, **given)
        assert said.state == "unknown" and "cannot be checked with part=" in said.text and not said.mistake
    assert "whole=0: ZeroDivisionError" in check("07.1", 0.25, part=1.0, whole=0.0).text
    assert not progress_file().exists()
    assert check("07.1", part=1.0, whole=0.0).state == "unanswered"
    assert check("07.1", 0.5, part=1, whole=2)


def test_a_mistake_that_cannot_be_computed_is_skipped(asked):
    def total(count):
        return count + 1

    mistakes = (
        Mistake("divided", lambda count: 1 / count, "never"),
        Mistake("unreadable", lambda count: object(), "never"),
        Mistake("doubled", lambda count: 2 * count - 5, "Do not double it."),
    )
    asked(Exercise("07.1", "What is it?", total, Value(given={"count": 3}), mistakes))
    assert check("07.1", -5, count=0).mistake == "doubled"
    assert check("07.1", 7, count=0).state == "wrong"


def test_only_an_empty_body_is_unanswered(asked):
    asked(exercise(reciprocal, Function(lambda: [(2.0,), (0.5,)])))

    def dots(x): ...

    def documented(x):
        """What it does."""
        pass

    def forgotten(x):
        x = 1 / x

    def printed(x):
        print(1 / x)

    for unwritten in (dots, documented):
        assert check("07.1", unwritten).state == "unanswered"
    assert not progress_file().exists()
    functions: tuple[Callable[..., object], ...] = (forgotten, printed, [].append)
    for function in functions:
        said = check("07.1", function)
        assert said.state == "wrong" and said.mistake == "return missing", said.text
        assert "(2.0) gives None: is a return missing?" in said.text
    assert read_progress(progress_file())["07.1"].mistakes == {"return missing": 3}


def test_the_feedback_is_text_alone(asked):
    asked(exercise(side, Value()))
    said = check("07.1", "<b>up</b>\x1b[31m")
    assert repr(said) == said.text and "\x1b" not in said.text and not hasattr(said, "_repr_html_")


@pytest.mark.parametrize(
    ("answer", "truth", "kind"),
    [
        (3, 4, "off by one"),
        ([2, 3, 4], [1, 2, 3], "off by one"),
        ([1, 2], [1, 2, 3], "off by one"),
        (25.0, 0.25, "percent for a fraction"),
        (1.0, math.log(2), "log2 for the natural logarithm"),
        (math.log(5) / math.log(10), math.log(5), "log10 for the natural logarithm"),
        (math.exp(3.0), 3.0, "exp left in"),
        (4.0, 0.25, "reciprocal"),
        (0.3, 0.9, ""),
        (1.0, 0.0, ""),
        ([1.0, 1.0], [0.0, 1.0], ""),
        ("a", "b", ""),
    ],
)
def test_kinds_of_mistakes(answer, truth, kind):
    assert recognise(answer, truth, 1e-3) == kind


def test_comparing_and_showing():
    assert difference(10**400, 1.0, 0.01) and difference(0.0, 1e-9, 0.01) == ""
    assert to_plain({1: (torch.tensor(2), {3})}) == {1: [2, frozenset({3})]}
    assert difference([[1, 2], [3, 4]], to_plain({(3, 4), (1, 2)}), 0) == ""
    assert to_plain(array("d", [0.5])) == [0.5]
    assert difference({}, {}, 0) == difference([], [], 0) == ""
    assert show([0.123456, "a\n"]) == "[0.1235, 'a\\n']"
    assert show({(3, 1)}) == "{(3, 1)}" and show(set()) == "set()" and show({}) == "{}"
    assert len(show(list(range(10_000)))) <= 160 and show(object()) == "something of the type object"
