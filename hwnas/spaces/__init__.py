"""Search spaces by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.darts import DartsSpace
from hwnas.spaces.mbconv import MbconvSpace
from hwnas.spaces.nasbench201 import NasBench201Space
from hwnas.spaces.vit import VitSpace

SPACES: dict[str, type[SearchSpace]] = {
    space.name: space for space in (DartsSpace, MbconvSpace, NasBench201Space, VitSpace)
}


def build_space(
    name: str, options: Mapping[str, Any] | None = None, where: str = "space"
) -> SearchSpace:
    """A search space at the given sizes.

    Raises:
        InputError: for an unknown name or option, or a size out of range; `where` names the file.
    """
    if name not in SPACES:
        raise InputError(
            "unknown search space",
            where=where,
            expected=f"one of {', '.join(sorted(SPACES))}",
            actual=repr(name),
        )
    space = SPACES[name]
    try:
        return space(space.options_model(**(options or {})))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        cause = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise InputError(cause, where=f"{where}.{key}", actual=repr(first["input"])) from None


__all__ = ["SPACES", "SearchSpace", "build_space"]
