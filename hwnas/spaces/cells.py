"""What spaces of cells share: a cell is a small graph whose every edge is a choice."""

from __future__ import annotations

import torch
from torch import Tensor

from hwnas.errors import InputError


def require_divisible(channels: int, partial_channels: int) -> None:
    """InputError unless 1 of `partial_channels` channels is a whole number of them."""
    if channels % partial_channels:
        raise InputError(
            "the channels cannot be divided",
            where="search.partial_channels",
            expected=f"a divisor of {channels}",
            actual=partial_channels,
        )


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
    shape = (x.shape[0], *[1] * (x.ndim - 1))
    mask = torch.empty(shape, device=x.device, dtype=x.dtype).bernoulli_(keep)
    return x / keep * mask
