"""Configs to JSON and back."""

from dataclasses import dataclass

import pytest

from labkit.configs import from_dict, to_dict
from labkit.errors import LabError


@dataclass(frozen=True)
class Round:
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    side: float


@dataclass(frozen=True)
class Picture:
    shape: Round | Square
    colours: tuple[str, ...] = ("red",)
    title: str | None = None


def test_a_choice_comes_back_as_what_it_was():
    for picture in (Picture(Round(2.0)), Picture(Square(3.0), ("blue", "green"), "Two")):
        assert from_dict(Picture, to_dict(picture)) == picture


def test_missing_fields_take_their_defaults():
    assert from_dict(Picture, {"shape": {"kind": "Round"}}) == Picture(Round(1.0))


@pytest.mark.parametrize(
    "data,message",
    [
        ({}, "Picture needs shape"),
        ({"shape": {"kind": "Star"}}, "Picture.shape cannot be 'Star'; it can be Round, Square"),
        ({"shape": {"kind": "Square"}}, "Square needs side"),
        ({"shape": {"kind": "Round"}, "size": 3}, "Picture has no field size; it has shape, colours, title"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(data, message):
    with pytest.raises(LabError, match=message):
        from_dict(Picture, data)
