"""The tensors of a candidate inside of larger ones.

What a call costs Python grows with the number of tensors that PyTorch has to know, and a cell has
hundreds. With `FlatTensors` they are four for an edge of DARTS: all parameters of a candidate are
one vector, and the running statistics of an edge are one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

STATISTICS = ("running_mean", "running_var")


class FlatLayout:
    """Where a candidate's tensors lie in a vector and in the running statistics of its edge.

    Args:
        shapes: of its parameters by name, in the order in which the vector holds them. For the
            kernels that is the order of `hwnas.kernels.plan.parameter_names`.
        norms: the row of each of its batch norms, by the prefix of its tensors' names.

    Attributes:
        shapes: as given.
        norms: as given.
        elements: length of the vector.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], norms: Mapping[str, int] | None = None
    ) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.norms = dict(norms or {})
        ends = list(accumulate((math.prod(s) for s in self.shapes.values()), initial=0))
        self.starts = dict(zip(self.shapes, ends, strict=False))
        self.elements = ends[-1]

    def joined(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The vector of the parameters among some tensors."""
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes])

    def parameters(self, vector: Tensor) -> dict[str, Tensor]:
        """The parameters in a vector, as views."""
        parts = torch.split(vector, [math.prod(shape) for shape in self.shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class FlatTensors(Mapping[str, Tensor]):
    """A candidate's tensors by name, each a view of what holds it.

    Args:
        layout: where they are.
        vector: (layout.elements,), the parameters; None if there are none.
        running: (2, norms of the edge, C), running means and variances; None if there are none.
    """

    def __init__(
        self, layout: FlatLayout, vector: Tensor | None = None, running: Tensor | None = None
    ) -> None:
        self.layout = layout
        self.vector = vector
        self.running = running

    def views(self) -> dict[str, Tensor]:
        """All tensors by name."""
        views = {} if self.vector is None else self.layout.parameters(self.vector)
        for prefix, row in self.layout.norms.items():
            assert self.running is not None
            views |= {f"{prefix}.{kind}": self.running[i, row] for i, kind in enumerate(STATISTICS)}
        return views

    def __getitem__(self, name: str) -> Tensor:
        return self.views()[name]

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)

    def __iter__(self) -> Iterator[str]:
        yield from self.layout.shapes
        for prefix in self.layout.norms:
            for kind in STATISTICS:
                yield f"{prefix}.{kind}"

    def __len__(self) -> int:
        return len(self.layout.shapes) + len(STATISTICS) * len(self.layout.norms)
