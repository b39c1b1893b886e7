"""An annotator's choices, rankings and ratings: how often values, position, length and chance decide."""

import math
import random

import pytest

from labkit.configs import from_dict
from labkit.errors import LabError
from labkit.preferences.annotate import AnnotationConfig
from labkit.preferences.choosing import Chooser, ShownAnswer
from labkit.world.profiles import Annotator

MANY = 4000
GOOD, BAD = ShownAnswer("Anna is in the park.", 0.9), ShownAnswer("Um", 0.1)


def chooser(flip_probability: float = 0.0, **settings) -> Chooser:
    return Chooser(Annotator("warm", 0.2, 0.7, 0.1, 20, flip_probability), random.Random(0), **settings)


def first_chosen(one: Chooser, first: ShownAnswer, second: ShownAnswer) -> float:
    return sum(one.chooses_first(first, second) for _ in range(MANY)) / MANY


def is_near(rate: float, expected: float) -> bool:
    """Within four standard errors."""
    return abs(rate - expected) <= 4 * math.sqrt(expected * (1 - expected) / MANY)


def test_at_the_defaults_a_choice_is_the_profiles_draw_for_draw():
    one, rng = chooser(0.1), random.Random(0)
    for first, second in [(GOOD, BAD), (BAD, GOOD), (GOOD, GOOD)] * 50:
        assert one.chooses_first(first, second) == one.profile.chooses_first(first.gold, second.gold, rng)


@pytest.mark.parametrize("bias", [0.0, 0.2, 0.6, 1.0])
def test_position_bias_is_the_share_that_falls_on_the_first_shown(bias):
    """p + (1 - p)(1 - ε) where the first is better, p + (1 - p) ε where the second is."""
    one = chooser(0.1, position_bias=bias)
    assert is_near(first_chosen(one, GOOD, BAD), bias + (1 - bias) * 0.9)
    assert is_near(first_chosen(one, BAD, GOOD), bias + (1 - bias) * 0.1)


@pytest.mark.parametrize(
    ("lazy_choice", "unread"), [("coin", 0.5), ("longer", 1.0), ("shorter", 0.0)], ids=["coin", "longer", "shorter"]
)
def test_laziness_is_the_share_that_is_not_read(lazy_choice, unread):
    """Of the two the good one is the longer one."""
    one = chooser(0.1, laziness=0.4, lazy_choice=lazy_choice)
    assert is_near(first_chosen(one, GOOD, BAD), 0.4 * unread + 0.6 * 0.9)
    assert is_near(first_chosen(one, BAD, GOOD), 0.4 * (1 - unread) + 0.6 * 0.1)


def test_equal_lengths_are_a_coins():
    one = chooser(laziness=1.0, lazy_choice="longer")
    assert is_near(first_chosen(one, ShownAnswer("Yes", 0.9), ShownAnswer("No!", 0.1)), 0.5)


def shown(*golds: float) -> list[ShownAnswer]:
    return [ShownAnswer(str(gold), gold) for gold in golds]


def test_choices_two_by_two():
    answers = shown(0.1, 0.9, 0.5, 0.5, 0.7)
    assert list(chooser().choose_two_by_two(answers, keep_ties=False)) == [(1, 0)]
    with_tie = list(chooser().choose_two_by_two(answers, keep_ties=True))
    assert with_tie[0] == (1, 0) and sorted(with_tie[1]) == [2, 3] and len(with_tie) == 2


def test_the_best_and_the_worst_of_all_are_one_pair():
    assert list(chooser().choose_best_and_worst(shown(0.5, 0.1, 0.9, 0.1, 0.7), keep_ties=False)) == [(2, 1)]
    assert list(chooser().choose_best_and_worst(shown(0.5, 0.5), keep_ties=False)) == []
    ((best, worst),) = chooser().choose_best_and_worst(shown(0.5, 0.5), keep_ties=True)
    assert {best, worst} == {0, 1}


def test_a_ranking_without_mistakes_is_golds():
    golds = [0.3, 0.9, 0.1, 0.5, 0.7]
    assert [golds[place] for place in chooser().rank(shown(*golds), keep_ties=False)] == sorted(golds, reverse=True)


def test_of_equals_the_first_alone_is_ranked():
    golds = [0.3, 0.9, 0.3, 0.9, 0.5]
    assert chooser().rank(shown(*golds), keep_ties=False) == [1, 4, 0]
    assert sorted(chooser().rank(shown(*golds), keep_ties=True)) == [0, 1, 2, 3, 4]


def test_a_ranking_has_about_the_mistakes_of_its_choices():
    """One choice in ten is wrong, and of the pairs of a list of six about as many, with half as many choices."""
    one, rng, wrong, choices = chooser(0.1), random.Random(1), 0, 0
    plain = one.profile.chooses_first

    def counted(*given):
        nonlocal choices
        choices += 1
        return plain(*given)

    one.profile = type("Counted", (), {"chooses_first": staticmethod(counted)})()
    for _ in range(500):
        golds = [rng.random() for _ in range(6)]
        ranked = [golds[place] for place in one.rank(shown(*golds), keep_ties=False)]
        wrong += sum(ranked[i] < ranked[j] for i in range(6) for j in range(i + 1, 6))
    assert 0.09 < wrong / (500 * 15) < 0.135 and choices / 500 < 10.5


def test_a_biased_ranking_is_the_order_shown():
    assert chooser(position_bias=1.0).rank(shown(0.1, 0.9, 0.5), keep_ties=False) == [0, 1, 2]


def test_a_rating_is_gold_on_a_scale_of_five():
    golds = (0.0, 0.1, 0.2, 0.5, 0.9, 1.0)
    assert [chooser().rate(ShownAnswer("Yes.", gold)) for gold in golds] == [1, 1, 2, 3, 5, 5]


def test_the_noise_of_ratings_and_those_that_are_not_read():
    """Of gold 0.5, which is 3, with noise 0.5: 3 where the noise is within ±0.5, one deviation, and never beyond 5."""
    noisy, lazy = chooser(rating_noise=0.5), chooser(laziness=0.5)
    ratings = [noisy.rate(ShownAnswer("Yes.", 0.5)) for _ in range(MANY)]
    assert is_near(ratings.count(3) / MANY, math.erf(1 / math.sqrt(2)))
    assert {chooser(rating_noise=9.0).rate(GOOD) for _ in range(3)} <= set(range(1, 6))
    unread = [lazy.rate(GOOD) for _ in range(MANY)]
    assert is_near(unread.count(5) / MANY, 0.5 + 0.5 / 5) and is_near(unread.count(2) / MANY, 0.5 / 5)


def test_a_pairing_is_of_pairs_that_an_annotator_chooses():
    with pytest.raises(LabError, match="pairing says which answers are compared, and the format is rankings"):
        AnnotationConfig(pairing="best_with_worst", format="rankings")


def test_what_ratings_cannot_have_is_refused():
    for settings in ({"position_bias": 0.1}, {"lazy_choice": "longer"}):
        with pytest.raises(LabError, match="position_bias and lazy_choice are of choices between answers"):
            from_dict(AnnotationConfig, {"format": "ratings", **settings})
    with pytest.raises(LabError, match="AnnotationConfig: rating_noise must be"):
        AnnotationConfig(rating_noise=-1.0)
