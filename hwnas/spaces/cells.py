"""What spaces of cells share: a cell is a small graph whose every edge is a choice."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hwnas.spaces.base import SpaceOptions


class CellOptions(SpaceOptions):
    """Sizes of networks of cells."""

    channels: int = Field(ge=2, le=1024, description="of the first cells' nodes")
    partial_channels: int = Field(
        1,
        ge=1,
        description="in the supernet, 1 of so many channels goes through an edge's candidates",
    )

    @model_validator(mode="after")
    def _divides(self) -> CellOptions:
        if self.channels % self.partial_channels:
            raise ValueError("channels must be a multiple of partial_channels")
        return self


def cell_edges(inputs: int, nodes: int) -> list[tuple[int, int]]:
    """Edges (source, target) into each node from all before it, by target then source.

    Args:
        inputs: states that the cell is given (numbered first).
        nodes: states that it computes.
    """
    return [
        (source, target) for target in range(inputs, inputs + nodes) for source in range(target)
    ]


def without_none(weights: Tensor) -> Tensor:
    """1 for every option but the first, `none`, which costs nothing where it is not run."""
    keep = torch.ones_like(weights)
    keep[..., 0] = 0
    return keep


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Zero whole samples of a branch, scaling the others (Larsson et al., FractalNet, 2017)."""
    keep = 1.0 - probability
    mask = torch.empty(x.shape[0], 1, 1, 1, device=x.device, dtype=x.dtype).bernoulli_(keep)
    return x / keep * mask
