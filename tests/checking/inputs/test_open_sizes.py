"""Sizes that a model leaves open: as they are stated, and which one is the batch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.checking.inputs.open_sizes import parse_shapes, parse_sizes
from hwnas.errors import InputError


@settings(max_examples=50, deadline=None)
@given(
    st.text(min_size=1, max_size=20),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=6),
    st.sampled_from("x,"),
)
def test_a_shape_option_is_parsed(name, sizes, separator) -> None:
    text = f"{name}:{separator.join(map(str, sizes))}"
    assert parse_shapes([text]) == [{name: tuple(sizes)}]


@pytest.mark.parametrize("text", ["x", ":1x2", "x:", "x:1xx2", "x:-1x2", "x:1.5", "1x2"])
def test_a_malformed_shape_option_is_refused(text) -> None:
    with pytest.raises(InputError, match="NAME:1x3x224x224"):
        parse_shapes([text])


def test_an_input_that_is_named_several_times_has_several_shapes() -> None:
    options = ["x:1x8", "mask:1x8", "x:1x16", "mask:1x16", "y:3"]
    assert parse_shapes(options) == [
        {"x": (1, 8), "mask": (1, 8), "y": (3,)},
        {"x": (1, 16), "mask": (1, 16), "y": (3,)},
    ]
    assert parse_shapes([]) == [{}]


def test_sizes_are_stated_by_their_names() -> None:
    assert parse_sizes(["sequence=128", "past_len=0", "a=b=3"]) == {
        "sequence": 128,
        "past_len": 0,
        "a=b": 3,
    }


@pytest.mark.parametrize("text", ["x", "=3", "x=", "x=-1", "x=1.5", "x=y"])
def test_a_malformed_size_option_is_refused(text) -> None:
    with pytest.raises(InputError, match="NAME=128"):
        parse_sizes([text])


def test_a_size_with_two_values_is_refused() -> None:
    with pytest.raises(InputError, match="named twice"):
        parse_sizes(["n=1", "n=2"])
