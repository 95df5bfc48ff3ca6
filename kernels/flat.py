"""The tensors of a candidate inside of two vectors.

What a call costs Python grows with the number of tensors that PyTorch has to know, and a DARTS cell
has 400. With `FlatTensors` an edge has five: the parameters of each candidate are one vector, and
the running statistics of all candidates are another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Slot(NamedTuple):
    """Where a tensor lies in a vector.

    Attributes:
        start: its first element.
        shape: of the tensor.
    """

    start: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The first element behind it."""
        return self.start + math.prod(self.shape)


class Slots(dict[str, Slot]):
    """Consecutive slots by name.

    Args:
        shapes: of the tensors, in their order.
        start: of the first.

    Attributes:
        start: as given.
        end: of the last.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], start: int = 0) -> None:
        super().__init__()
        self.start = self.end = start
        for name, shape in shapes.items():
            self[name] = slot = Slot(self.end, tuple(shape))
            self.end = slot.end

    def joined(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensors of these names, one after the other."""
        return torch.cat([tensors[name].reshape(-1) for name in self])

    def separated(self, vector: Tensor) -> dict[str, Tensor]:
        """The tensors in a vector, as views."""
        if not self:
            return {}
        is_whole = (self.start, self.end) == (0, len(vector))
        part = vector if is_whole else vector[self.start : self.end]
        parts = torch.split(part, [slot.end - slot.start for slot in self.values()])
        return {
            name: view.view(slot.shape)
            for (name, slot), view in zip(self.items(), parts, strict=True)
        }


class FlatLayout:
    """Where the tensors of a candidate lie.

    Args:
        parameters: the shape of each parameter, in the order in which the candidate's vector holds
            them. For the kernels that is the order of `hwnas.kernels.plan.parameter_names`.
        buffers: the shape of each buffer, in the order in which the vector of the edge holds them.
        first_buffer: the element of that vector at which the first one begins.

    Attributes:
        parameters: their slots.
        buffers: their slots.
    """

    def __init__(
        self,
        parameters: Mapping[str, Sequence[int]],
        buffers: Mapping[str, Sequence[int]],
        first_buffer: int = 0,
    ) -> None:
        self.parameters = Slots(parameters)
        self.buffers = Slots(buffers, first_buffer)


class FlatTensors(Mapping[str, Tensor]):
    """A candidate's tensors by name, each a view of a vector.

    Args:
        layout: where they are.
        parameters: (P,), the candidate's parameters; None if it has none.
        buffers: (B,), the buffers of all candidates of the edge; None if the candidate has none.
    """

    def __init__(
        self,
        layout: FlatLayout,
        parameters: Tensor | None = None,
        buffers: Tensor | None = None,
    ) -> None:
        self.layout = layout
        self.parameters = parameters
        self.buffers = buffers

    def views(self) -> dict[str, Tensor]:
        """All tensors by name, which is faster than one at a time."""
        views: dict[str, Tensor] = {}
        if self.parameters is not None:
            views |= self.layout.parameters.separated(self.parameters)
        if self.buffers is not None:
            views |= self.layout.buffers.separated(self.buffers)
        return views

    def __getitem__(self, name: str) -> Tensor:
        is_parameter = name in self.layout.parameters
        vector = self.parameters if is_parameter else self.buffers
        slot = (self.layout.parameters if is_parameter else self.layout.buffers)[name]
        assert vector is not None
        return vector[slot.start : slot.end].view(slot.shape)

    def __contains__(self, name: object) -> bool:
        return name in self.layout.parameters or name in self.layout.buffers

    def __iter__(self) -> Iterator[str]:
        return iter((*self.layout.parameters, *self.layout.buffers))

    def __len__(self) -> int:
        return len(self.layout.parameters) + len(self.layout.buffers)
