"""Variants whose operators have different formats."""

from __future__ import annotations

from hwnas.deploy.format_choice import MixedChoice
from hwnas.deploy.mixed_precision import conversions


def test_a_mixed_variant_is_made_for_each_choice() -> None:
    choices = [MixedChoice(("a",), 0.5, 20.0, (3, 4)), MixedChoice(("a", "b"), 0.6, 25.0, (2, 4))]
    found = conversions(["fp32", "int8-mixed"], ["a"], choices)
    assert {name: (one.format, one.float32) for name, one in found.items()} == {
        "fp32": ("fp32", ("a",)),
        "int8-mixed-1": ("int8", ("a",)),
        "int8-mixed-2": ("int8", ("a", "b")),
    }
