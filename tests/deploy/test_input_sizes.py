"""Shapes of inputs, as they are given on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.deploy.input_sizes import parse_shapes
from hwnas.errors import InputError


@settings(max_examples=50, deadline=None)
@given(
    st.text(min_size=1, max_size=20),
    st.lists(st.integers(1, 10**6), min_size=1, max_size=6),
    st.sampled_from("x,"),
)
def test_a_shape_option_is_parsed(name, sizes, separator) -> None:
    text = f"{name}:{separator.join(map(str, sizes))}"
    assert parse_shapes([text]) == {name: tuple(sizes)}


@pytest.mark.parametrize("text", ["x", ":1x2", "x:", "x:1xx2", "x:-1x2", "x:0x2", "x:1.5", "1x2"])
def test_a_malformed_shape_option_is_refused(text) -> None:
    with pytest.raises(InputError, match="NAME:1x3x224x224"):
        parse_shapes([text])


def test_an_input_that_is_named_twice_is_refused() -> None:
    with pytest.raises(InputError, match="named twice.*'?x"):
        parse_shapes(["x:1x2", "x:1x2"])
