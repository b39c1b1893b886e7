"""Intervals over seeds and how many seeds decide, by numbers a reader can check."""

import math

import pytest

from labkit.studies.seeds import compare_over_seeds, seeds_needed, summarize_seeds, t_probability, t_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "table"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 4, 2.776), (0.8, 3, 0.978), (0.8, 4, 0.941), (0.975, 30, 2.042)],
)
def test_the_quantiles_are_those_of_the_tables(probability, freedom, table):
    """Student's t as in every statistics book's appendix, to three places."""
    assert t_quantile(probability, freedom) == pytest.approx(table, abs=5e-4)
    assert t_probability(t_quantile(probability, freedom), freedom) == pytest.approx(probability)


def test_many_degrees_of_freedom_are_normal():
    assert t_quantile(0.975, 299) == pytest.approx(t_quantile(0.975, 300), abs=0.01)
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-12) and t_probability(-1.0, 5) < 0.5


def test_the_interval_of_three_seeds():
    """Mean 0.25, deviation 0.05: 4.303 · 0.05 / √3 = 0.124."""
    found = summarize_seeds([0.2, 0.25, 0.3])
    assert found.mean == pytest.approx(0.25) and found.spread == pytest.approx(0.05)
    assert (found.low, found.high) == (pytest.approx(0.126, abs=5e-4), pytest.approx(0.374, abs=5e-4))
    assert summarize_seeds([0.2])[1:] == (None, None, None)


def test_the_power_formula_by_hand():
    """A difference of twice its spread, s / d = 0.5. Of 4: (3.182 + 0.978)² · 0.25 = 4.33 > 4; of 5: (2.776 + 0.941)²
    · 0.25 = 3.45 <= 5. And of many seeds t is normal: (1.960 + 0.842)² · 9 = 70.6, with t a little more.
    """
    assert seeds_needed(0.04, 0.02) == seeds_needed(-0.04, 0.02) == 5
    many = seeds_needed(0.01, 0.03)
    assert many is not None and (1.960 + 0.842) ** 2 * 9 < many <= 73
    assert seeds_needed(0.0, 0.1) is None and seeds_needed(0.001, 0.1) is None  # more than a thousand


def test_better_is_withheld_inside_the_spread_of_seeds():
    """Differences 0.04, 0.05, 0.06: 0.05 ± 4.303 · 0.01 / √3 = 0.025. And 0.01, 0.05, 0.09: ± 0.099."""
    sure = compare_over_seeds("ppo", [0.24, 0.25, 0.26], "dpo", [0.2, 0.2, 0.2])
    assert sure.better == "ppo" and sure.seeds_needed is None
    assert str(sure) == "ppo - dpo: +0.050 (+0.025 to +0.075), ppo is better"
    assert compare_over_seeds("dpo", [0.2, 0.2, 0.2], "ppo", [0.24, 0.25, 0.26]).better == "ppo"
    unsure = compare_over_seeds("ppo", [0.21, 0.25, 0.29], "dpo", [0.2, 0.2, 0.2])
    assert unsure.better is None
    assert unsure.seeds_needed == 8  # (2.365 + 0.896)² · 0.64 = 6.8 <= 8, and of 7 (2.447 + 0.906)² · 0.64 = 7.2
    said = "ppo - dpo: +0.050 (-0.049 to +0.149), inside the spread of seeds; about 8 seeds would decide"
    assert str(unsure) == said


def test_one_seed_and_equal_ones_decide_nothing():
    alone = compare_over_seeds("ppo", [0.3], "dpo", [0.1])
    assert alone.better is None and alone.seeds_needed is None
    assert str(alone) == "ppo - dpo: +0.200; one seed has no spread, so neither is better"
    equal = compare_over_seeds("ppo", [0.3, 0.2], "dpo", [0.2, 0.3])
    assert equal.better is None and "more than 1000 seeds would decide" in str(equal)
    assert not math.isnan(equal.difference)
