"""Functions for spaces of cells; a cell is a small graph in which each edge is a choice."""

from __future__ import annotations

import torch
from torch import Tensor

from hwnas.errors import InputError


def require_divisible(channels: int, partial_channels: int) -> None:
    """Check that a number of channels is divisible by `partial_channels`.

    Raises:
        InputError: when it is not.
    """
    if channels % partial_channels:
        raise InputError(
            "the channels cannot be divided",
            where="search.partial_channels",
            expected=f"a divisor of {channels}",
            actual=partial_channels,
        )


def cell_edges(inputs: int, nodes: int) -> list[tuple[int, int]]:
    """The edges of a cell in which every node has an edge from every earlier state.

    Args:
        inputs: number of the cell's inputs, which are the first states.
        nodes: number of nodes, whose states follow.

    Returns:
        (source, target) of each edge, sorted by target and then by source.
    """
    return [
        (source, target) for target in range(inputs, inputs + nodes) for source in range(target)
    ]


def without_none(weights: Tensor) -> Tensor:
    """A mask with the weights' shape: 0 for the first option, which is `none`, else 1."""
    keep = torch.ones_like(weights)
    keep[..., 0] = 0
    return keep


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Set random samples of a branch to zero and scale the others up (drop path, stochastic depth).

    Larsson et al., "FractalNet", ICLR 2017 (arXiv 1605.07648).

    Args:
        x: (N, ...), the output of the branch.
        probability: of a sample to be dropped.
    """
    keep = 1.0 - probability
    shape = (x.shape[0], *[1] * (x.ndim - 1))
    mask = torch.empty(shape, device=x.device, dtype=x.dtype).bernoulli_(keep)
    return x / keep * mask
