"""Metadata that hwnas writes into an ONNX model: properties whose names begin with `hwnas.`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hwnas.errors import InputError

METADATA_PREFIX = "hwnas."
PREPROCESS = "preprocess"
"""Property that is `true` for a model that normalises raw inputs itself."""


def own_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties that hwnas wrote, without their prefix."""
    return {
        key.removeprefix(METADATA_PREFIX): value
        for key, value in properties.items()
        if key.startswith(METADATA_PREFIX)
    }


def reads_raw(properties: Mapping[str, str]) -> bool:
    """Whether a model that hwnas exported normalises raw inputs itself.

    Args:
        properties: result of `own_properties`.
    """
    return properties.get(PREPROCESS) == "true"


def positive_number(properties: Mapping[str, str], name: str, where: str) -> float | None:
    """Read a positive number from hwnas's properties; None if the property is absent.

    Args:
        properties: result of `own_properties`.
        name: name of the property.
        where: the model file, for errors.

    Raises:
        InputError: when the value is not a positive number.
    """
    text = properties.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            "not a positive number", where=f"{where}: property {METADATA_PREFIX}{name}", actual=text
        )
    return value


def positive_integer(
    properties: Mapping[str, str], name: str, where: str, largest: int
) -> int | None:
    """Read an integer from 1 to `largest` from hwnas's properties; None if it is absent.

    Raises:
        InputError: when the value is not such an integer.
    """
    value = positive_number(properties, name, where)
    if value is None:
        return None
    if value != int(value) or value > largest:
        raise InputError(
            "not an integer in the allowed range",
            where=f"{where}: property {METADATA_PREFIX}{name}",
            expected=f"1 to {largest}",
            actual=properties[name],
        )
    return int(value)
