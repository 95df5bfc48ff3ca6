"""Decisions that several places of a network share: values of arguments, and numbers of channels.

A `Value` stands for an argument of a constructor, see `hwnas.nn.Build`. A `Width` stands for a
number of channels in the constructors of ordinary PyTorch layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hwnas.errors import InputError


class Decision:
    """Something that a search decides, apart from the place in the network where it matters.

    Attributes:
        name: the name that was given; by default it is the path of the attribute that holds it.
        options: the names of the options.
    """

    def __init__(self, options: Iterable[str], name: str | None = None) -> None:
        self.options = tuple(options)
        self.name = name


class Value(Decision):
    """Values of a constructor's argument, of which the search takes one.

    Where the same object is given to several `Build` modules, they all take the same value.

    Args:
        values: at least two different ones, such as `[3, 5, 7]` or `[nn.ReLU, nn.Hardswish]`.
        name: of the choice; by default the path of the attribute that holds it, or else of the
            module and argument that use it.
    """

    def __init__(self, values: Sequence[Any], name: str | None = None) -> None:
        self.values = tuple(values)
        super().__init__((getattr(value, "__name__", str(value)) for value in values), name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Value:
        return self


class Width(int):
    """A number of channels that several layers share and the search decides.

    It is an integer, the largest of its values, so that PyTorch's layers take it as
    `nn.Conv2d(3, width, 3)`. Layers that were made with the same object always have the same
    number of channels; a smaller network has the first channels of the largest one's weights.
    Multiples and quotients by integers, such as `4 * width`, follow the same decision.

    Args:
        values: at least two different numbers of channels.
        name: of the choice; by default the path of the attribute that holds it, or else of the
            first layer that was made with it.

    Attributes:
        decision: what the search decides; equal for all multiples of a width.
        values: the number of channels of each option, ascending.

    Raises:
        InputError: for a value that is no positive integer.
    """

    decision: Decision
    values: tuple[int, ...]

    def __new__(cls, values: Sequence[int], name: str | None = None) -> Width:
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    "not a number of channels",
                    where=f"Width {name or list(values)}",
                    expected="positive integers",
                    actual=repr(value),
                )
        ordered = sorted(values)
        return cls._of(Decision(map(str, ordered), name), ordered)

    @classmethod
    def _of(cls, decision: Decision, values: Sequence[int]) -> Width:
        width = super().__new__(cls, max(values, default=0))
        width.decision = decision
        width.values = tuple(values)
        return width

    def __deepcopy__(self, memo: dict[int, Any]) -> Width:
        return self

    def __mul__(self, factor: int) -> int:
        if isinstance(factor, Width) or not isinstance(factor, int):
            return int(self) * factor
        return self._of(self.decision, [value * factor for value in self.values])

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> int:
        if isinstance(divisor, Width) or not isinstance(divisor, int):
            return int(self) // divisor
        return self._of(self.decision, [value // divisor for value in self.values])

    def __reduce__(self) -> str:
        raise TypeError("a model with a Width cannot be pickled; its networks can")
