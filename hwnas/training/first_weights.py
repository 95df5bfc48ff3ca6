"""First weights of a network from those of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Taken = Literal["whole", "part", "nothing"]
PREFIX = "model."
"""How the names of tensors begin in networks of a user's own model."""


@dataclass(frozen=True)
class TakenTensor:
    """What a tensor of a network took from another network.

    Attributes:
        name: of the tensor.
        taken: `part` if shapes differ and the part that both have was taken.
        shape: of the tensor.
        found: shape of the other network's tensor of this name; None if it has none.
    """

    name: str
    taken: Taken
    shape: tuple[int, ...]
    found: tuple[int, ...] | None


def known_tensors(network: nn.Module, others: Mapping[str, Tensor]) -> list[str]:
    """The names of a network's tensors for which the other one has a tensor of as many dimensions.

    Args:
        network: the network.
        others: the other network's tensors; names with and without the prefix `model.` are equal.
    """
    by_name = {name.removeprefix(PREFIX): value.dim() for name, value in others.items()}
    return [
        name
        for name, own in network.state_dict().items()
        if by_name.get(name.removeprefix(PREFIX)) == own.dim()
    ]


@torch.no_grad()
def take_weights(network: nn.Module, others: Mapping[str, Tensor]) -> list[TakenTensor]:
    """Copy tensors of the same name into a network, in place.

    Where sizes differ, the first channels that both have are taken, so that a wider or narrower
    layer begins with them.

    Args:
        network: the network.
        others: the other network's tensors; names with and without the prefix `model.` are equal.

    Returns:
        What became of each tensor of the network.
    """
    by_name = {name.removeprefix(PREFIX): value for name, value in others.items()}
    report = []
    for name, own in network.state_dict().items():
        other = by_name.get(name.removeprefix(PREFIX))
        taken: Taken = "nothing"
        if other is not None and other.dim() == own.dim():
            part = tuple(slice(0, min(a, b)) for a, b in zip(own.shape, other.shape, strict=True))
            own[part] = other[part].to(own)
            taken = "whole" if own.shape == other.shape else "part"
        found = None if other is None else tuple(other.shape)
        report.append(TakenTensor(name, taken, tuple(own.shape), found))
    return report
