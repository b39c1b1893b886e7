"""Whether a reward model is as sure as it may be."""

import math

import pytest
import torch

from labkit.evaluation.preference_accuracy import CalibrationBin, calibration_bins, expected_calibration_error


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_bins_by_hand():
    """Four unsure pairs at 60 %, three of them as the model says; four sure ones at 90 %, two of them as it says."""
    margins = torch.tensor([1.0, 1.0, 1.0, -1.0]) * logit(0.6)
    surer = torch.tensor([1.0, -1.0, 1.0, -1.0]) * logit(0.9)
    bins = calibration_bins(torch.cat((surer, margins)), num_bins=2)
    assert [one.claimed for one in bins] == pytest.approx([0.6, 0.9])
    assert [(one.observed, one.pairs) for one in bins] == [(0.75, 4), (0.5, 4)]
    assert expected_calibration_error(bins) == pytest.approx((0.15 + 0.4) / 2)


def test_the_error_weighs_bins_by_their_pairs():
    bins = [CalibrationBin(0.6, 0.5, 3), CalibrationBin(0.9, 0.9, 1)]
    assert expected_calibration_error(bins) == pytest.approx(0.075)


def test_choices_drawn_from_the_models_own_probabilities_are_calibrated():
    """And by twice as large scores claimed too surely, by halves not surely enough; no ranking differs."""
    drawn = torch.Generator().manual_seed(0)
    margins = 2 * torch.randn(20_000, generator=drawn)
    margins = torch.where(torch.rand(20_000, generator=drawn) < torch.sigmoid(margins), margins, -margins)
    errors = {scale: expected_calibration_error(calibration_bins(scale * margins)) for scale in (0.5, 1.0, 2.0)}
    assert errors[1.0] < 0.01 and min(errors[0.5], errors[2.0]) > 0.05


def test_known_probabilities_stand_in_for_what_happened():
    margins = torch.tensor([logit(0.8), logit(0.9)])
    bins = calibration_bins(margins, agreement=torch.tensor([0.8, 0.9]), num_bins=2)
    assert expected_calibration_error(bins) == pytest.approx(0.0, abs=1e-6)


def test_no_margin_is_half_and_few_pairs_make_few_bins():
    assert calibration_bins(torch.zeros(3), num_bins=5) == [CalibrationBin(0.5, 0.5, 1)] * 3
