"""Samples of clients: each has one owner, and classes are shared as was drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.data import Split
from hwnas.data.clients import client_shares, divided, fewest


def labelled(count: int, classes: int) -> Split:
    """Samples that are their own numbers."""
    inputs = np.arange(count).reshape(-1, 1)
    return Split(inputs, (np.arange(count) % classes).astype(np.int64))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 9),
    st.integers(1, 5),
    st.one_of(st.none(), st.floats(0.05, 100)),
    st.integers(0, 99),
)
def test_each_sample_has_one_owner(
    clients: int, classes: int, skew: float | None, seed: int
) -> None:
    split = labelled(200, classes)
    shares = client_shares(clients, classes, skew, seed)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    parts = divided(split, shares, seed)
    numbers = np.concatenate([part.inputs[:, 0] for part in parts])
    assert sorted(numbers.tolist()) == list(range(200))
    for part in parts:
        np.testing.assert_array_equal(part.targets, part.inputs[:, 0].astype(int) % classes)


def test_shares_are_those_that_were_drawn() -> None:
    shares = np.array([[0.5, 0.5], [0.1, 0.9]])
    parts = divided(labelled(200, 2), shares, 0)
    counts = [np.bincount(part.targets, minlength=2).tolist() for part in parts]
    assert counts == [[50, 10], [50, 90]]


def test_without_a_skew_all_have_the_same() -> None:
    assert client_shares(4, 2, None, 0).tolist() == [[0.25] * 4] * 2
    assert client_shares(4, 3, 0.3, 1).std() > client_shares(4, 3, 30.0, 1).std()


def test_another_draw_has_other_shares() -> None:
    first, second = (client_shares(4, 3, 0.3, 1, draw) for draw in (0, 1))
    assert abs(first - second).max() > 0.01
    assert fewest(divided(labelled(100, 2), np.array([[0.95, 0.05]] * 2), 0)) == 4
