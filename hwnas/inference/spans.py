"""From scores of positions to answers: the best span of a text, and the best of some positions."""

from __future__ import annotations

import numpy as np

LONGEST = 30
"""Words of an answer, at most, as in the baselines of SQuAD."""


def best_spans(scores: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """The span with the highest sum of scores of its first and its last position.

    Args:
        scores: (N, 2, L), of each position to be the first and the last.
        longest: positions of a span, at most.

    Returns:
        First and last position, (N, 2) int64.
    """
    length = scores.shape[2]
    places = np.arange(length)
    distance = places - places[:, None]
    allowed = (distance >= 0) & (distance < longest)
    found = []
    # One sample at a time, since the sums of all would need L times their memory.
    for first, last in scores:
        sums = np.where(allowed, first[:, None] + last, -np.inf)
        found.append(np.unravel_index(int(sums.argmax()), sums.shape))
    return np.array(found, np.int64).reshape(-1, 2)


def best_position(scores: np.ndarray, is_candidate: np.ndarray) -> np.ndarray:
    """The place among its candidates (N,) of the position with the highest score.

    Args:
        scores: (N, L).
        is_candidate: which positions compete, (N, L) bool; at least one of each sample.
    """
    chosen = np.where(is_candidate, scores, -np.inf).argmax(axis=1)
    before = np.arange(scores.shape[1]) < chosen[:, None]
    places: np.ndarray = (is_candidate & before).sum(axis=1)
    return places
