"""The lexicon: what the full world has, and what each size cuts it to."""

import pytest

from labkit.errors import LabError
from labkit.world import World
from labkit.world.events import all_kinds, kinds_in_size
from labkit.world.lexicon import Lexicon, load_size, regular_plural, with_article
from labkit.world.plots import plots_in_size


def test_the_full_world_has_what_it_promises():
    values = Lexicon(load_size("full")).values
    least = {"person": 60, "animal": 25, "thing": 60, "place": 25, "food": 20, "feeling": 10, "weather": 6}
    assert {kind: len(values[kind]) >= number for kind, number in least.items()} == dict.fromkeys(least, True)
    assert sum(kind.is_happening for kind in kinds_in_size("full").values()) >= 40
    assert all(len(kind.forms) >= 3 for kind in all_kinds().values())


def test_the_default_world_is_not_too_small():
    world = World.load("lab")
    assert len(world.lexicon.values["person"]) >= 24
    assert sum(kind.is_happening for kind in world.kinds.values()) >= 12
    assert len(world.reading_kinds) >= 8


@pytest.mark.parametrize("smaller, larger", [("tiny", "lab"), ("lab", "full")])
def test_a_smaller_world_is_part_of_the_larger(smaller, larger):
    less, more = Lexicon(load_size(smaller)).values, Lexicon(load_size(larger)).values
    assert all(set(less[kind]) <= set(more[kind]) for kind in ("person", "thing", "place", "food", "animal"))
    assert set(kinds_in_size(smaller)) <= set(kinds_in_size(larger))
    assert {p.name for p in plots_in_size(smaller)} <= {p.name for p in plots_in_size(larger)}


def test_an_unknown_size_is_named():
    with pytest.raises(LabError, match="'huge'.*tiny, lab, full"):
        World.load("huge")


def test_articles_and_plurals():
    assert [with_article(w) for w in ("red ball", "apple")] == ["a red ball", "an apple"]
    assert [regular_plural(w) for w in ("cup", "box", "brush")] == ["cups", "boxes", "brushes"]


def test_every_value_of_a_choice_is_a_word_of_the_world():
    for size in ("tiny", "lab", "full"):
        lexicon = Lexicon(load_size(size))
        for (kind, _), choices in lexicon.choices.items():
            assert set(choices) <= set(lexicon.values[kind])
