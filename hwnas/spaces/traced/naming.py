"""The choices in a model, with their names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from hwnas.data.inputs import by_position
from hwnas.errors import InputError
from hwnas.nn.decisions import Decision, Value
from hwnas.nn.narrowing import require_sliceable, widths_of
from hwnas.nn.searchable import Alternatives, Build, Searchable


@dataclass(frozen=True)
class Named:
    """A decision and its name."""

    decision: Decision
    name: str


def named_decisions(model: nn.Module) -> list[Named]:
    """All decisions of a model, in the order of its modules.

    Raises:
        InputError: for a decision with fewer than two options, equal options or the name of
            another one, and for layers that cannot have a `Width`.
    """
    holders = dict(_attributes(model))
    found: dict[int, Named] = {}
    for path, module in readable_modules(model):
        if isinstance(module, Searchable):
            for decision in module.decisions:
                default = holders.get(id(decision)) or _default(path, module, decision)
                found.setdefault(id(decision), Named(decision, decision.name or default))
        for attribute, width in widths_of(module):
            require_sliceable(module, path)
            default = holders.get(id(width.decision)) or f"{path}.{attribute}"
            name = width.decision.name or default
            found.setdefault(id(width.decision), Named(width.decision, name))
    named = list(found.values())
    for one in named:
        _require_options(one)
    _require_unique([one.name for one in named])
    unused = [path for key, path in holders.items() if key not in found]
    if unused:
        raise InputError(
            "no part of the model was made with this value",
            where=unused[0],
            mend="give it to a Build or a layer, or remove it",
        )
    return named


def readable_modules(
    module: nn.Module, path: str = "", met: set[int] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model by path, in which branches of choices have their options' names."""
    met = set() if met is None else met
    if id(module) in met:
        return
    met.add(id(module))
    yield path, module
    children = list(module.named_children())
    if isinstance(module, Alternatives):
        children = [(module.label(number), branch) for number, branch in enumerate(module.branches)]
    for name, child in children:
        yield from readable_modules(child, f"{path}.{name}" if path else name, met)


def _attributes(model: nn.Module) -> Iterator[tuple[int, str]]:
    """Values and widths that modules of the user hold, by id, with the attribute's path.

    Later entries are those of outer modules, which come first in the model.
    """
    for path, module in reversed(list(readable_modules(model))):
        own = not type(module).__module__.startswith("torch.")
        if own and not isinstance(module, Searchable):
            prefix = f"{path}." if path else ""
            for name, width in widths_of(module):
                yield id(width.decision), f"{prefix}{name}"
            for name, value in vars(module).items():
                if isinstance(value, Value):
                    yield id(value), f"{prefix}{name}"


def argument_names(model: nn.Module, count: int) -> tuple[str, ...]:
    """The names of the first arguments of a model's `forward`, which its inputs have.

    Raises:
        InputError: when it takes fewer arguments, or needs more.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return tuple(by_position([None] * count))
    needed = sum(p.default is p.empty for p in positional)
    if not needed <= count <= len(positional):
        raise InputError(
            "the model takes another number of inputs",
            where=f"{type(model).__name__}.forward",
            expected=f"inputs for {', '.join(p.name for p in positional)}",
            actual=f"{count} input{'s' * (count > 1)}",
        )
    return tuple(p.name for p in positional[:count])


def _default(path: str, module: Searchable, decision: Decision) -> str:
    if isinstance(module, Build):
        assert isinstance(decision, Value)
        return f"{path}.{module.arguments[decision]}"
    return path or "model"


def _require_options(named: Named) -> None:
    options = named.decision.options
    if len(set(options)) < 2 or len(set(options)) != len(options):
        raise InputError(
            "a choice needs at least two different options",
            where=named.name,
            actual=", ".join(options) or "none",
        )


def _require_unique(names: list[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            "two choices have this name",
            where=twice[0],
            mend="give each choice a name of its own, or none",
        )
