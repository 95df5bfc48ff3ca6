"""Hypothesis strategies for JSON documents of the wrong shape."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.floats(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


def malformed_objects(keys: Sequence[str]) -> SearchStrategy:
    """Any JSON value, and objects with some or all of the keys and any values."""
    values = st.tuples(*[JSON] * len(keys)).map(lambda row: dict(zip(keys, row, strict=True)))
    return JSON | st.dictionaries(st.sampled_from(keys), JSON) | values
