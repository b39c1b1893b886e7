"""Each filter on distributions small enough to check by eye."""

import pytest
import torch

from labkit.decoding import Temperature, TopK, TopP
from labkit.errors import LabError

LOGITS = torch.tensor([[0.1, 0.2, 0.4, 0.3]]).log()


def probabilities(logits: torch.Tensor) -> list[float]:
    return logits.softmax(-1)[0].tolist()


def test_temperature_divides():
    assert probabilities(Temperature(1.0)(LOGITS)) == pytest.approx([0.1, 0.2, 0.4, 0.3])
    # At 1/2 each probability is squared: 0.01 0.04 0.16 0.09, of 0.30 in all.
    assert probabilities(Temperature(0.5)(LOGITS)) == pytest.approx([1 / 30, 4 / 30, 16 / 30, 9 / 30])


def test_temperature_zero_is_greedy_and_takes_the_first_of_equals():
    assert probabilities(Temperature(0)(LOGITS)) == [0, 0, 1, 0]
    assert probabilities(Temperature(0)(torch.tensor([[1.0, 2.0, 2.0]]))) == [0, 1, 0]


def test_top_k_keeps_k_even_of_equals():
    assert probabilities(TopK(2)(LOGITS)) == pytest.approx([0, 0, 4 / 7, 3 / 7])
    assert torch.isfinite(TopK(2)(torch.zeros(1, 5))).sum() == 2
    assert TopK(9)(LOGITS) is LOGITS


@pytest.mark.parametrize(
    "p,kept",
    [
        (0.3, [0, 0, 1, 0]),
        (0.5, [0, 0, 4 / 7, 3 / 7]),  # 0.4 is not enough, 0.4 + 0.3 is
        (0.8, [0, 2 / 9, 4 / 9, 3 / 9]),
        (1.0, [0.1, 0.2, 0.4, 0.3]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, kept):
    assert probabilities(TopP(p)(LOGITS)) == pytest.approx(kept)


def test_filters_see_each_row_by_itself():
    both = torch.cat([LOGITS, LOGITS.flip(-1)])
    for filter_ in (Temperature(0), TopK(2), TopP(0.5)):
        torch.testing.assert_close(filter_(both)[1], filter_(LOGITS.flip(-1))[0])


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Temperature(-1.0), "Temperature: value must be at least 0.* not -1"),
        (lambda: Temperature(1e-9), "must be 0 .greedy. or at least 1e-06, not 1e-09"),
        (lambda: TopK(0), "TopK: k must be at least 1.* not 0"),
        (lambda: TopP(0.0), "TopP: p must be above 0 and at most 1, not 0"),
        (lambda: TopP(1.5), "not 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(LabError, match=message):
        make()
