"""Calibration of simulated classifiers whose error is known."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.explaining.confidence import BINS, calibration


def test_a_calibrated_network_is_within_chance_and_an_overconfident_one_is_not() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 20_000)
    calibrated = calibration(confidence, rng.random(20_000) < confidence)
    assert calibrated.expected_error <= calibrated.by_chance[1]
    assert abs(calibrated.overconfidence) < 0.01
    sure = calibration(confidence, rng.random(20_000) < confidence - 0.2)
    assert sure.expected_error == pytest.approx(0.2, abs=0.01)
    assert sure.overconfidence == pytest.approx(0.2, abs=0.01)
    assert sure.expected_error > sure.by_chance[1]


def test_the_error_is_the_weighted_distance_of_the_bins() -> None:
    confidence = np.array([0.62, 0.62, 0.62, 0.62, 0.99, 0.99], dtype=np.float32)
    is_right = np.array([True, False, False, False, True, True])
    found = calibration(confidence, is_right)
    assert [one.samples for one in found.bins] == [4, 2]
    assert found.bins[0].accuracy == 0.25
    assert found.bins[0].low < 0.25 < found.bins[0].high
    expected = (4 * (0.62 - 0.25) + 2 * (1 - 0.99)) / 6
    assert found.expected_error == pytest.approx(expected, abs=1e-6)


def test_the_ends_of_the_range_are_in_the_outer_bins() -> None:
    found = calibration(np.array([0.0, 1.0, 1.0]), np.array([False, True, True]))
    assert [one.confidence for one in found.bins] == [0.0, 1.0]
    assert found.expected_error == 0.0
    assert BINS == 15
