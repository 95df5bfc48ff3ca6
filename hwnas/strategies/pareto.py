"""What no other point beats in every objective; all objectives are minimised."""

from __future__ import annotations

import numpy as np


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Indices of the points that none dominates, by the first objective; equal points all stay.

    Args:
        points: (n, objectives).
    """
    no_worse = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    better = (points[:, None, :] < points[None, :, :]).any(axis=2)
    kept = np.flatnonzero(~(no_worse & better).any(axis=0))
    return kept[np.lexsort(points[kept].T[::-1])]


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Area that the points dominate below a reference: Zitzler & Thiele, IEEE TEC 3(4), 1999.

    Args:
        points: (n, 2); those that do not dominate the reference count nothing.
        reference: (2,), worse than what counts.
    """
    inside = points[(points < reference).all(axis=1)]
    area, height = 0.0, float(reference[1])
    for first, second in inside[np.lexsort((inside[:, 1], inside[:, 0]))]:
        if second < height:
            area += (float(reference[0]) - first) * (height - second)
            height = second
    return float(area)


def covered_share(points: np.ndarray) -> float:
    """The hypervolume as a share of the rectangle between the points' best and worst figures, so
    that the axes' units do not matter; 1 where one point is best in both.

    Args:
        points: (n, 2), at least one.
    """
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    return hypervolume(scaled, np.ones(2))


def knee(points: np.ndarray) -> int:
    """Index of the front's point farthest below the line between its ends, both axes to scale.

    With fewer than three points on the front it is the first one.

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
