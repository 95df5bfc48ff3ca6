"""Pareto fronts against their definition, and the hypervolume against counting cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwnas.strategies.pareto import covered_share, hypervolume, knee, pareto_front

POINTS = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(0, 9))


@settings(max_examples=100, deadline=None)
@given(points=POINTS)
def test_the_front_has_exactly_the_points_that_are_not_dominated(points: np.ndarray) -> None:
    front = list(pareto_front(points))
    for index, point in enumerate(points):
        dominated = any((p <= point).all() and (p < point).any() for p in points)
        assert (index in front) != dominated
    assert list(points[front, 0]) == sorted(points[front, 0])


@settings(max_examples=100, deadline=None)
@given(points=POINTS)
def test_hypervolume_counts_the_dominated_cells(points: np.ndarray) -> None:
    cells = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2)
    dominated = (points[:, None, :] <= cells[None, :, :]).all(axis=2).any(axis=0)
    assert hypervolume(points, np.array([10.0, 10.0])) == dominated.sum()


@settings(max_examples=100, deadline=None)
@given(points=POINTS)
def test_the_covered_share_does_not_depend_on_units(points: np.ndarray) -> None:
    share = covered_share(points)
    assert 0 <= share <= 1
    assert np.isclose(covered_share(points * np.array([3.0, 0.01]) + 5.0), share)
    assert covered_share(np.vstack([points, points.min(axis=0)])) == 1


def test_the_knee_is_where_both_are_low() -> None:
    points = np.array([[0.0, 10.0], [1.0, 2.0], [5.0, 1.0], [10.0, 0.0], [9.0, 9.0]])
    assert knee(points) == 1
    # Another unit of one axis changes nothing.
    assert knee(points * np.array([1.0, 1000.0])) == 1
    assert knee(points[:1]) == 0
