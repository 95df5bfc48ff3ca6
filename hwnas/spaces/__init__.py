"""All search spaces, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hwnas.errors import InputError, did_you_mean
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.darts import DartsSpace
from hwnas.spaces.decoder import DecoderSpace
from hwnas.spaces.elastic import ElasticSpace
from hwnas.spaces.layers import LayerSpace
from hwnas.spaces.macro import MacroSpace
from hwnas.spaces.mbconv import MbconvSpace
from hwnas.spaces.nasbench101 import NasBench101Space
from hwnas.spaces.nasbench201 import NasBench201Space
from hwnas.spaces.nasnet import NasnetSpace
from hwnas.spaces.options import SpaceOptions
from hwnas.spaces.rnn import RnnSpace
from hwnas.spaces.sequence import SequenceSpace
from hwnas.spaces.traced.described import TRACED, DescribedSpace
from hwnas.spaces.vit import VitSpace

SPACES: dict[str, type[SearchSpace]] = {
    space.name: space
    for space in (
        DartsSpace,
        DecoderSpace,
        ElasticSpace,
        MacroSpace,
        MbconvSpace,
        NasBench101Space,
        NasBench201Space,
        NasnetSpace,
        RnnSpace,
        SequenceSpace,
        VitSpace,
    )
}


def register_space(space: type[SearchSpace]) -> type[SearchSpace]:
    """Register a space under its name, for configurations and all commands; a class decorator.

    Use it at the top level of a module: processes that are started for measurements import the
    main module again.

    Raises:
        InputError: when another space is registered under this name.
    """
    if space.name in SPACES or space.name == TRACED:
        raise InputError("a space of this name is registered", where="space", actual=space.name)
    SPACES[space.name] = space
    return space


def build_space(
    name: str, options: Mapping[str, Any] | None = None, where: str = "space"
) -> SearchSpace:
    """Build a search space.

    Args:
        name: of a registered space.
        options: values of the space's options that differ from their defaults.
        where: what error messages give as the location of the options.

    Raises:
        InputError: for an unknown space or option, or a value out of range.
    """
    if name not in SPACES and name != TRACED:
        raise InputError(
            "unknown search space",
            where=where,
            expected=f"one of {', '.join(sorted(SPACES))}",
            actual=repr(name),
            mend=did_you_mean(name, SPACES),
        )
    space = DescribedSpace if name == TRACED else SPACES[name]
    try:
        sizes = space.options_model(**(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *map(str, first["loc"])])
        causes = {"extra_forbidden": "unknown key", "missing": "missing key"}
        cause = causes.get(first["type"], first["msg"].removeprefix("Value error, "))
        given = first["input"]
        actual = None if isinstance(given, dict) else repr(given)
        mend = ""
        if first["type"] == "extra_forbidden":
            mend = did_you_mean(str(first["loc"][-1]), space.options_model.model_fields)
        raise InputError(cause, where=key, actual=actual, mend=mend) from None
    _require_fits(space, sizes, where)
    return space(sizes)


def _require_fits(space: type[SearchSpace], sizes: SpaceOptions, where: str) -> None:
    """Check that the space's networks can read the inputs and can have the head.

    Raises:
        InputError: when they cannot.
    """
    if sizes.head not in space.heads:
        raise InputError(
            f"networks of {space.name} cannot have the head that the task needs",
            where=f"{where}.head",
            expected=f"one of {', '.join(space.heads)}",
            actual=sizes.head,
        )
    if sizes.head == "positions" and not sizes.padding:
        raise InputError(
            "scores of positions are those of texts with padding",
            where=f"{where}.head",
            expected="another head, or padding = true",
            actual=sizes.head,
        )
    if sizes.vocabulary is not None and not space.reads_tokens:
        raise InputError(
            f"networks of {space.name} cannot read tokens",
            where=f"{where}.vocabulary",
            expected="none, since inputs are images or other numbers",
            actual=sizes.vocabulary,
        )
    if sizes.categories and not space.reads_categories:
        raise InputError(
            f"networks of {space.name} cannot embed categories",
            where=f"{where}.categories",
            expected="none, since its inputs are numbers",
            actual=list(sizes.categories),
            mend='set data.categories = "one-hot", or choose the space sequence',
        )


__all__ = ["SPACES", "LayerSpace", "SearchSpace", "build_space", "register_space"]
