"""What holds the tensors of a cell: the tensors themselves, or larger ones.

Only the holders cross PyTorch's boundaries; the kernels get the address of every tensor in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hwnas.kernels.flat import STATISTICS, FlatTensors
from hwnas.kernels.plan import Edge, named_tensors, parameter_shape, tensors_of


class Places:
    """Where tensors lie inside of others.

    Args:
        places: for each tensor, the number of the one that holds it, and where it begins there.
    """

    def __init__(self, places: Sequence[tuple[int, int]]) -> None:
        self.pairs = list(places)
        self.holders = [holder for holder, _ in places]

    def addresses(self, holders: Sequence[int], unit_bytes: int) -> list[int]:
        """The address of each tensor.

        Args:
            holders: addresses of those that hold them.
            unit_bytes: what offsets are multiples of.
        """
        numbers, offsets = self._arrays
        found: list[int] = (np.array(holders, np.int64)[numbers] + offsets * unit_bytes).tolist()
        return found

    @cached_property
    def _arrays(self) -> NDArray[np.int64]:
        """Numbers of holders, and offsets, (2, tensors)."""
        return np.array(self.pairs, np.int64).reshape(-1, 2).T.copy()


class Holder(NamedTuple):
    """A tensor that holds parameters or running statistics of a cell.

    Attributes:
        tensor: a vector of parameters or the running statistics of an edge, or one of a
            candidate's tensors itself.
        is_flat: whether it is the former.
        candidate: name of a candidate whose tensors it holds.
        parameters: names of those that it holds; empty for running statistics.
        norms: number of batch norms whose running statistics it holds.
    """

    tensor: Tensor
    is_flat: bool
    candidate: str
    parameters: tuple[str, ...] = ()
    norms: int = 1

    def expected_shape(self, channels: int) -> tuple[int, ...]:
        """The shape that the kernels expect for states of some channels."""
        if not self.parameters:
            return (len(STATISTICS), self.norms, channels) if self.is_flat else (channels,)
        shapes = [parameter_shape(self.candidate, name, channels) for name in self.parameters]
        return (sum(map(math.prod, shapes)),) if self.is_flat else shapes[0]

    def __str__(self) -> str:
        held = ", ".join(self.parameters) or "running statistics"
        return f"{self.candidate}: {held}{' in one tensor' if self.is_flat else ''}"


class Held:
    """Tensors of a cell inside of those that hold them.

    Args:
        holders: what holds them.
        places: for each of the tensors, in the plan's order, the number of its holder and where it
            begins there: an element of parameters, a row of running statistics.

    Attributes:
        holders: as given.
        places: as given.
        tensors: those of the holders.
    """

    def __init__(self, holders: Sequence[Holder], places: Sequence[tuple[int, int]]) -> None:
        self.holders = holders
        self.places = Places(places)
        self.tensors = [holder.tensor for holder in holders]

    @cached_property
    def order(self) -> tuple[int, ...] | None:
        """The running statistics in the order of their holders' rows, as positions in `places`.

        None where a holder has other rows too.
        """
        rows = [
            (number, row)
            for number, holder in enumerate(self.holders)
            for row in range(len(STATISTICS) * holder.norms if holder.is_flat else 1)
        ]
        if sorted(self.places.pairs) != rows:
            return None
        return tuple(sorted(range(len(rows)), key=self.places.pairs.__getitem__))


def held_parameters(edges: Sequence[Edge]) -> Held:
    """The parameters of a cell.

    The elements of all holders, one after the other, are the parameters in the plan's order.

    Raises:
        ValueError: when a vector does not hold parameters in the plan's order.
    """
    holders: list[Holder] = []
    places: list[tuple[int, int]] = []
    for candidate, names, _ in named_tensors(edges):
        name, found = candidate
        if not isinstance(found, FlatTensors):
            places += [(len(holders) + i, 0) for i in range(len(names))]
            holders += [Holder(found[n], False, name, (n,)) for n in names]
            continue
        if tuple(found.layout.shapes) != names:
            raise ValueError(
                f"the vector of {name} must hold {', '.join(names) or 'nothing'}, in this order, "
                f"got {', '.join(found.layout.shapes) or 'nothing'}"
            )
        if names:
            assert found.vector is not None
            places += [(len(holders), found.layout.starts[n]) for n in names]
            holders.append(Holder(found.vector, True, name, names))
    return Held(holders, places)


def held_statistics(edges: Sequence[Edge]) -> Held:
    """The running means of a cell, then the variances.

    Raises:
        ValueError: when the running statistics of an edge have no row for a batch norm.
    """
    holders: list[Holder] = []
    places: list[tuple[int, int]] = []
    numbers: dict[int, int] = {}
    for index, kind in enumerate(STATISTICS):
        for (name, found), prefix in tensors_of(edges)[1]:
            if not isinstance(found, FlatTensors):
                places.append((len(holders), 0))
                holders.append(Holder(found[f"{prefix}.{kind}"], False, name))
                continue
            tensor, row = found.running, found.layout.norms[prefix]
            if tensor is None or tensor.dim() != 3 or tensor.shape[1] <= row:
                shape = None if tensor is None else tuple(tensor.shape)
                raise ValueError(
                    f"{name}: the running statistics must be (2, norms, channels) with more than "
                    f"{row} norms, got {shape}"
                )
            if id(tensor) not in numbers:
                numbers[id(tensor)] = len(holders)
                holders.append(Holder(tensor, True, name, norms=tensor.shape[1]))
            places.append((numbers[id(tensor)], index * tensor.shape[1] + row))
    return Held(holders, places)


def separate_parameters(edges: Sequence[Edge]) -> list[Tensor]:
    """The parameters of a cell in the plan's order, as views of what holds them."""
    parameters: list[Tensor] = []
    for candidate, names, _ in named_tensors(edges):
        found = candidate.tensors
        views = found.views() if isinstance(found, FlatTensors) else found
        parameters += [views[name] for name in names]
    return parameters


def statistics_rows(held: Held) -> list[Tensor]:
    """The running means, then the variances, (C,) each, as views of what holds them."""
    rows = [tensor.view(-1, tensor.shape[-1]).unbind() for tensor in held.tensors]
    return [rows[holder][row] for holder, row in held.places.pairs]
