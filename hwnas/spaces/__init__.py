"""Search spaces by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.darts import DartsSpace
from hwnas.spaces.elastic import ElasticSpace
from hwnas.spaces.layers import LayerSpace
from hwnas.spaces.macro import MacroSpace
from hwnas.spaces.mbconv import MbconvSpace
from hwnas.spaces.nasbench201 import NasBench201Space
from hwnas.spaces.options import SpaceOptions
from hwnas.spaces.rnn import RnnSpace
from hwnas.spaces.sequence import SequenceSpace
from hwnas.spaces.vit import VitSpace

SPACES: dict[str, type[SearchSpace]] = {
    space.name: space
    for space in (
        DartsSpace,
        ElasticSpace,
        MacroSpace,
        MbconvSpace,
        NasBench201Space,
        RnnSpace,
        SequenceSpace,
        VitSpace,
    )
}


def register_space(space: type[SearchSpace]) -> type[SearchSpace]:
    """Make a space known by its name, to configurations and to every verb; a class decorator.

    A process that is started for a measurement imports the main module again; so this belongs at
    the top level of a module.

    Raises:
        InputError: when the name is another space's.
    """
    if space.name in SPACES:
        raise InputError("a space of this name is registered", where="space", actual=space.name)
    SPACES[space.name] = space
    return space


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
        sizes = space.options_model(**(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *map(str, first["loc"])])
        causes = {"extra_forbidden": "unknown key", "missing": "missing key"}
        cause = causes.get(first["type"], first["msg"].removeprefix("Value error, "))
        given = first["input"]
        actual = None if isinstance(given, dict) else repr(given)
        raise InputError(cause, where=key, actual=actual) from None
    _require_fits(space, sizes, where)
    return space(sizes)


def _require_fits(space: type[SearchSpace], sizes: SpaceOptions, where: str) -> None:
    """InputError unless the space's networks read the inputs and can end with the head."""
    if sizes.head not in space.heads:
        raise InputError(
            f"networks of {space.name} cannot end with what the task needs",
            where=f"{where}.head",
            expected=f"one of {', '.join(space.heads)}",
            actual=sizes.head,
        )
    if sizes.vocabulary is not None and not space.reads_tokens:
        raise InputError(
            f"networks of {space.name} cannot read tokens",
            where=f"{where}.vocabulary",
            expected="none: images or other numbers",
            actual=sizes.vocabulary,
        )


__all__ = ["SPACES", "LayerSpace", "SearchSpace", "build_space", "register_space"]
