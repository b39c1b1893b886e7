"""Best-of-n and where gold peaks, by numbers a reader can check."""

import itertools
import math

import numpy as np
import pytest

from labkit.errors import LabError
from labkit.studies.best_of_n import best_of_n_kl, expected_of_best
from labkit.studies.curves import Curve, CurvePoint, paired_difference, summarize_curves, text_of_curves


def test_the_kl_of_best_of_n():
    """n = 1 changes nothing; n = 2: log 2 - 1/2."""
    assert best_of_n_kl(1) == 0 and best_of_n_kl(2) == pytest.approx(math.log(2) - 0.5)


def test_the_expected_best_by_hand():
    """Answers liked in the order of their gold 0, 1, 5. Pairs: best are 1, 5, 5, of mean 11 / 3."""
    liked, gold = np.array([[3.0, 1.0, 2.0]]), np.array([[5.0, 0.0, 1.0]])
    assert expected_of_best(liked, gold, 1) == pytest.approx(2)
    assert expected_of_best(liked, gold, 2) == pytest.approx(11 / 3)
    assert expected_of_best(liked, gold, 3) == pytest.approx(5)
    with pytest.raises(LabError, match="best of 4 cannot be told from 3 answers"):
        expected_of_best(liked, gold, 4)


def test_it_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    liked, gold = rng.random((2, 6)), rng.random((2, 6))
    for row, n in itertools.product(range(2), range(1, 7)):
        subsets = [max(one, key=lambda at: liked[row, at]) for one in itertools.combinations(range(6), n)]
        assert expected_of_best(liked, gold, n)[row] == pytest.approx(gold[row, subsets].mean())


def test_paired_differences():
    """0.1 and 0.3: mean 0.2; deviation 0.1414, over √2: 0.1."""
    found = paired_difference(np.array([0.5, 0.7]), np.array([0.4, 0.4]))
    assert found == (pytest.approx(0.2), pytest.approx(0.1))
    assert not found.rises and not found.falls


def points(*golds: float, rewards: tuple[float, ...] = (0, 1, 2)) -> list[CurvePoint]:
    noise = np.array([-0.01, 0.01] * 50)
    made = zip(golds, rewards, strict=True)
    return [CurvePoint(str(at), float(at**2), reward + noise[::-1] * at, gold + noise * at) for at, (gold, reward) in
            enumerate(made)]  # fmt: skip


def test_gold_that_falls_while_reward_rises_is_overoptimised():
    curve = Curve(0, "best of n", "one", points(0.5, 0.7, 0.6)[::-1])
    assert curve.peak.name == "1" and curve.overoptimised
    assert curve.gold_after_peak.mean == pytest.approx(-0.1) and curve.reward_after_peak.mean == pytest.approx(1)
    made = curve.to_dict()
    assert [point["sqrt_kl"] for point in made["points"]] == [0, 1, 2]
    assert made["points"][1]["gold_gain"] == pytest.approx(0.2)


@pytest.mark.parametrize("golds, rewards", [((0.5, 0.6, 0.7), (0, 1, 2)), ((0.5, 0.7, 0.6), (0, 2, 1))])
def test_a_peak_at_the_end_or_a_reward_that_falls_is_not(golds, rewards):
    assert not Curve(0, "best of n", "one", points(*golds, rewards=rewards)).overoptimised


def test_the_table_counts_seeds_and_says_where_ensembles_peak():
    curves = [
        Curve(0, "best of n", "one", points(0.5, 0.7, 0.6)),
        Curve(1, "best of n", "one", points(0.7, 0.6, 0.5)),
        Curve(0, "best of n", "mean2", points(0.5, 0.6, 0.7)),
        Curve(1, "best of n", "mean2", points(0.5, 0.6, 0.7)),
    ]
    one, ensemble = summarize_curves(curves)
    assert (one["overoptimised"], one["seeds"], one["peak_sqrt_kl"]) == (2, 2, 0.5)
    assert (ensemble["overoptimised"], ensemble["peak_sqrt_kl"]) == (0, 2)
    assert one["points"][1]["gold_gain"] == pytest.approx(0.05)  # of +0.2 and -0.1
    text = text_of_curves([one, ensemble])
    assert "2 of 2" in text and "√KL at gold's peak, best of n:" in text
    later = "mean of 2 - one reward model: +1.500 (-4.853 to +7.853), inside the spread of seeds; about 4 seeds"
    assert later in text  # differences 1 and 2, so 1.5 ± 12.706 · 0.7071 / √2; of 4: 4.16² · 0.222 = 3.84
