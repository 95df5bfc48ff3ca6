"""Choices in ordinary PyTorch models: one of several modules, a depth, and built modules.

A model is written as usual and calls these modules like any other. `hwnas.space_of` finds them. As
long as nothing was chosen, a `Choice` and a `Build` compute their first option and a `Repeat` its
largest depth, so that the model runs by itself.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.nn.decisions import Decision, Value

Options = tuple[tuple[int, int], ...]
"""Options that are taken: the row of a choice in its space, and the index of its option."""


class Searchable(nn.Module):
    """A module of which the search decides what it computes.

    Attributes:
        decisions: what decides it.
        rows: the row of each decision in a search space; `hwnas.space_of` sets them.
    """

    rows: tuple[int, ...] = ()

    def __init__(self, decisions: Sequence[Decision] = ()) -> None:
        super().__init__()
        self.decisions = tuple(decisions)

    @abstractmethod
    def taken(self, chosen: Sequence[int]) -> nn.Module:
        """The module that is used.

        Args:
            chosen: the index of the option of every choice of the space, by row.
        """


class Alternatives(Searchable):
    """A module that computes one of its branches.

    Attributes:
        branches: one for each combination of options.
        combinations: (branches, decisions), the index of each decision's option.
    """

    def __init__(self, decisions: Sequence[Decision], branches: Sequence[nn.Module]) -> None:
        super().__init__(decisions)
        self.branches = nn.ModuleList(branches)
        sizes = [range(len(decision.options)) for decision in decisions]
        self.combinations = tuple(itertools.product(*sizes))

    def taken(self, chosen: Sequence[int]) -> nn.Module:
        return self.branches[self.combinations.index(tuple(chosen[row] for row in self.rows))]

    def options_of(self, branch: int) -> Options:
        """The options with which a branch is computed."""
        return tuple(zip(self.rows, self.combinations[branch], strict=True))

    def label(self, branch: int) -> str:
        """The names of the options with which a branch is computed."""
        options = zip(self.decisions, self.combinations[branch], strict=True)
        return ", ".join(decision.options[option] for decision, option in options)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.branches[0](*args, **kwargs)


class Choice(Alternatives):
    """One of several modules, which map the same inputs to outputs of the same shape.

    Args:
        branches: the modules by the name of their option; `nn.Identity()` leaves the layer out.
        name: of the choice; by default the path of the module in the model.
    """

    def __init__(self, branches: Mapping[str, nn.Module], name: str | None = None) -> None:
        super().__init__([Decision(map(str, branches), name)], list(branches.values()))


class Build(Alternatives):
    """The module that a constructor makes with one combination of the values of its arguments.

    `Build(Block, 16, 32, kernel=Value([3, 5]), ratio=Value([3, 6]))` has two choices with two
    options each. A value that several `Build` modules share is one choice.

    Args:
        make: a class or function that returns a new module.
        *args: its arguments; each may be a `Value`.
        **kwargs: likewise.

    Raises:
        InputError: when no argument is a `Value`.
    """

    def __init__(self, make: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> None:
        places: list[int | str] = [*range(len(args)), *kwargs]
        given: dict[int | str, Any] = dict(zip(places, [*args, *kwargs.values()], strict=True))
        values = list(dict.fromkeys(v for v in given.values() if isinstance(v, Value)))
        if not values:
            raise InputError(
                "nothing to decide",
                where=f"Build({getattr(make, '__name__', make)})",
                expected="an argument that is a Value",
                mend="call the constructor itself",
            )

        def made(combination: Sequence[Any]) -> nn.Module:
            taken = dict(zip(values, combination, strict=True))
            full = {k: taken[v] if isinstance(v, Value) else v for k, v in given.items()}
            return make(*(full[k] for k in range(len(args))), **{k: full[k] for k in kwargs})

        products = itertools.product(*(value.values for value in values))
        super().__init__(values, [made(combination) for combination in products])
        self.arguments = {
            value: str(next(place for place, other in given.items() if other is value))
            for value in values
        }


class Repeat(Searchable):
    """A chain of blocks whose length the search decides: the first blocks of the longest chain.

    Args:
        make: returns block number i, counted from 0. All outputs from block `least` on have the
            same shape.
        least: the smallest number of blocks; 0 leaves all out.
        most: the largest number of blocks.
        name: of the choice; by default the path of the module in the model.

    Raises:
        InputError: unless 0 <= least < most.
    """

    def __init__(
        self, make: Callable[[int], nn.Module], least: int, most: int, name: str | None = None
    ) -> None:
        if not 0 <= least <= most or most < 1:
            raise InputError(
                "not a range of depths",
                where=f"Repeat {name or ''}".strip(),
                expected="0 <= least < most",
                actual=f"{least} and {most}",
            )
        depths = tuple(range(least, most + 1))
        super().__init__([Decision(map(str, depths), name)])
        self.depths = depths
        self.blocks = nn.ModuleList(make(i) for i in range(most))

    def taken(self, chosen: Sequence[int]) -> nn.Module:
        (row,) = self.rows
        return nn.Sequential(*self.blocks[: self.depths[chosen[row]]])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x
