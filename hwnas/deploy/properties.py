"""The properties of a model that are hwnas's own: those under `hwnas.`."""

from __future__ import annotations

from collections.abc import Mapping

METADATA_PREFIX = "hwnas."


def own_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """Those of a model's properties that the export writes, without their prefix."""
    return {
        key.removeprefix(METADATA_PREFIX): value
        for key, value in properties.items()
        if key.startswith(METADATA_PREFIX)
    }
