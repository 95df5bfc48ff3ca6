"""A network as a list of integer operators, which is what a microcontroller runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from hwnas.ops.macro import LAYER_ACTIVATIONS

Kind = Literal["conv", "max_pool", "avg_pool", "add", "mul", "concat", "map"]
Shape = tuple[int, int, int]
"""Channels, height and width of a value."""
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hsigmoid": F.hardsigmoid,
    **{name: build() for name, build in LAYER_ACTIVATIONS.items() if name != "none"},
}
"""The elementwise functions by name."""


@dataclass(frozen=True)
class Window:
    """Which inputs an output of a convolution or pool reads, for height and width each.

    Output i reads the inputs `i * stride - start + k * dilation` for k below `size`; those outside
    of the map are zero in a convolution and do not count in a pool.

    Attributes:
        size: of the kernel.
        stride: distance of two windows.
        start: padding before the first input.
        dilation: distance of two taps.
    """

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    start: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Step:
    """One operator.

    Attributes:
        kind: what it computes. A `map` computes its activation alone, and a product may have a
            second input of one value for each channel.
        inputs: numbers of the values that it reads.
        shapes: of the inputs, as it sees them.
        output: number of the value that it writes.
        shape: of the output.
        window: of a convolution or pool.
        groups: of a convolution.
        weight: (c_out, c_in / groups, height, width) of a convolution.
        bias: (c_out,) of a convolution.
        activation: a key of `FUNCTIONS` that is applied to what is written; "" for none.
        source: name of the module that it came from.
    """

    kind: Kind
    inputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    output: int
    shape: Shape
    window: Window | None = None
    groups: int = 1
    weight: Tensor | None = field(default=None, repr=False, compare=False)
    bias: Tensor | None = field(default=None, repr=False, compare=False)
    activation: str = ""
    source: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a convolution; 0 of other operators."""
        c_out, height, width = self.shape
        return 0 if self.weight is None else self.weight[0].numel() * c_out * height * width


@dataclass(frozen=True)
class Program:
    """The operators of a network in an order in which they can run.

    Attributes:
        steps: the operators.
        sizes: number of elements of each value; value 0 is the input.
        output: number of the value that the network returns.
        input_shape: of the input.
    """

    steps: tuple[Step, ...]
    sizes: dict[int, int]
    output: int
    input_shape: Shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(step.macs for step in self.steps)

    def reordered(self, order: Sequence[int]) -> Program:
        """The same operators in another order, given by their positions."""
        return replace(self, steps=tuple(self.steps[position] for position in order))
