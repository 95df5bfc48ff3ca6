"""The best span and the best candidate against all of them, one by one."""

from __future__ import annotations

from itertools import product

import pytest

from hwnas.inference.spans import best_position, best_spans


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_is_that_of_the_largest_sum(longest: int, rng) -> None:
    scores = rng.standard_normal((20, 2, 9))
    for sample, (first, last) in zip(scores, best_spans(scores, longest), strict=True):
        allowed = [(a, b) for a, b in product(range(9), repeat=2) if a <= b < a + longest]
        assert (first, last) == max(allowed, key=lambda ab: sample[0, ab[0]] + sample[1, ab[1]])


def test_the_best_candidate_is_counted_among_candidates(rng) -> None:
    scores, is_candidate = rng.standard_normal((30, 8)), rng.random((30, 8)) < 0.5
    is_candidate[:, 3] = True
    for row, flags, found in zip(
        scores, is_candidate, best_position(scores, is_candidate), strict=True
    ):
        own = row[flags]
        assert own[found] == own.max()
