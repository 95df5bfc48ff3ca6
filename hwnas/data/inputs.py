"""What a network reads: one input, or several inputs that have a name each.

The samples of a network with several inputs are one structured array (N,) of NumPy, with a field
for each input, so that samples are counted, drawn and cut like those of one input. The network gets
a tuple of tensors, in the order of the fields.

Shapes of one sample of each of several inputs: images (C, H, W), signals (C, L), rows of a table
(F,), and tokens (L,) int64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hwnas.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NamedInput:
    """An input of a network.

    Attributes:
        name: of the input of the exported model.
        shape: of one sample.
        dtype: of what the network reads, "float32" or "int64".
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


InputShape = tuple[int, ...] | tuple[NamedInput, ...]
"""Shape of a sample, (C, H, W) or tokens (L,); or the inputs, if a network has several."""
InputTensors: TypeAlias = "Tensor | tuple[Tensor, ...]"
"""A batch as a network reads it: (N, ...), or a tuple of such tensors."""


def named_inputs(shape: InputShape, name: str) -> tuple[NamedInput, ...]:
    """The inputs of a network.

    Args:
        shape: shape of a sample, or several inputs.
        name: of the input, if there is one.
    """
    several = tuple(one for one in shape if isinstance(one, NamedInput))
    sizes = tuple(size for size in shape if isinstance(size, int))
    return several or (NamedInput(name, sizes, "int64" if len(sizes) == 1 else "float32"),)


def joined(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Arrays (N, ...) of several inputs as one structured array (N,) with a field for each."""
    kinds = [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
    found = np.empty(len(next(iter(arrays.values()))), dtype=kinds)
    for name, array in arrays.items():
        found[name] = array
    return found


def fields_of(inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays (N, ...) of several inputs, by name; empty if there is one input."""
    return {name: inputs[name] for name in inputs.dtype.names or ()}


def by_position(arrays: Sequence[Any]) -> dict[str, Any]:
    """Several inputs that were given without names, under names that tell their positions."""
    return {f"input_{index}": array for index, array in enumerate(arrays)}


def in_order(arrays: Mapping[str, Any], names: Sequence[str], where: str) -> dict[str, Any]:
    """Several inputs under the names, and in the order, that a network has them.

    Args:
        arrays: the inputs by name, or by position (see `by_position`).
        names: of the network's inputs.
        where: what was given, for errors.

    Raises:
        InputError: other names, or another number of inputs.
    """
    if set(arrays) == set(names):
        return {name: arrays[name] for name in names}
    if len(arrays) == len(names) and list(arrays) == list(by_position(names)):
        return dict(zip(names, arrays.values(), strict=True))
    raise InputError(
        "not the inputs that the network reads",
        where=where,
        expected=", ".join(names),
        actual=", ".join(arrays),
    )


def parts_of(inputs: InputTensors) -> tuple[Tensor, ...]:
    """The tensors of a batch, one for each input."""
    return inputs if isinstance(inputs, tuple) else (inputs,)
