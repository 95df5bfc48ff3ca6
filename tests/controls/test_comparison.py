"""Differences between networks and the best of several, against direct computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hwnas.controls.comparison import best_of, paired_difference


def test_the_paired_interval_is_that_of_mcnemar_counts() -> None:
    first = np.array([1] * 70 + [1] * 12 + [0] * 5 + [0] * 13, dtype=bool)
    second = np.array([1] * 70 + [0] * 12 + [1] * 5 + [0] * 13, dtype=bool)
    found = paired_difference(first, second)
    # Of 100 samples 12 and 5 are right for one network only.
    error = math.sqrt(12 + 5 - (12 - 5) ** 2 / 100) / 100
    assert found.value == pytest.approx(0.07)
    assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-6)
    assert found.value - found.low == pytest.approx(1.959964 * error, rel=1e-6)


def test_equal_networks_do_not_differ() -> None:
    right = np.array([True, False, True])
    assert paired_difference(right, right).value == 0
    assert paired_difference(right, right).high == 0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_the_best_of_some_is_the_mean_over_all_subsets(count: int) -> None:
    rng = np.random.default_rng(0)
    right = [rng.random(200) < p for p in (0.5, 0.9, 0.6, 0.7, 0.85)]
    halves = np.array([[network[0::2].mean(), network[1::2].mean()] for network in right])
    subsets = list(itertools.combinations(range(5), min(count, 5)))
    expected = np.mean(
        [
            halves[max(subset, key=lambda i: halves[i, picks]), 1 - picks]
            for subset in subsets
            for picks in (0, 1)
        ]
    )
    assert best_of(right, count) == pytest.approx(float(expected))


def test_picking_among_equally_good_networks_gains_nothing() -> None:
    rng = np.random.default_rng(1)
    found = [best_of([rng.random(50) < 0.8 for _ in range(8)], 8) for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.012)
