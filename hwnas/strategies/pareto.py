"""Pareto fronts and their figures of merit; all objectives are minimised."""

from __future__ import annotations

import numpy as np


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Indices of the points that no other point dominates, sorted by the first objective.

    Of equal points all are kept.

    Args:
        points: (n, objectives).
    """
    no_worse = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    better = (points[:, None, :] < points[None, :, :]).any(axis=2)
    kept = np.flatnonzero(~(no_worse & better).any(axis=0))
    return kept[np.lexsort(points[kept].T[::-1])]


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The area between the points and a reference that they dominate.

    Zitzler & Thiele, IEEE Transactions on Evolutionary Computation 3(4), 1999.

    Args:
        points: (n, 2); those that do not dominate the reference contribute nothing.
        reference: (2,).
    """
    inside = points[(points < reference).all(axis=1)]
    area, height = 0.0, float(reference[1])
    for first, second in inside[np.lexsort((inside[:, 1], inside[:, 0]))]:
        if second < height:
            area += (float(reference[0]) - first) * (height - second)
            height = second
    return float(area)


def covered_share(points: np.ndarray) -> float:
    """The hypervolume as a share of the rectangle spanned by the points.

    It does not depend on the units of the objectives, and is 1 if one point is best in both.

    Args:
        points: (n, 2), at least one.
    """
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    return hypervolume(scaled, np.ones(2))


def knee(points: np.ndarray) -> int:
    """Index of the knee: the point farthest below the line between the ends of the front.

    Both objectives are scaled to [0, 1] first. If the front has fewer than three points, its first
    point is returned.

    Args:
        points: (n, 2).
    """
    front = pareto_front(points)
    chosen = points[front]
    span = np.ptp(chosen, axis=0)
    if len(front) < 3 or (span == 0).any():
        return int(front[0])
    scaled = (chosen - chosen.min(axis=0)) / span
    return int(front[scaled.sum(axis=1).argmin()])
