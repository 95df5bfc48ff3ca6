"""The structure of a cell as a string, which is an argument that PyTorch operators can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class EdgeStructure(NamedTuple):
    """An edge of a cell without its tensors.

    Attributes:
        source: number of the state that is read.
        target: number of the node that the result is added to.
        stride: 1 or 2.
        chosen: (index, name, normalised, affine) of each active candidate: whether it has batch
            norms, and whether these have scales and shifts.
    """

    source: int
    target: int
    stride: int
    chosen: list[tuple[int, str, bool, bool]]


def write_structure(inputs: int, edges: Sequence[EdgeStructure]) -> str:
    """The structure of a cell with a number of input states.

    That of one edge from state 0 to 1 with stride 2 and two candidates may be
    `1;0 1 2:0 max_pool_3x3 1 0,3 skip_connect 1 0`.
    """
    parts = [str(inputs)]
    for source, target, stride, chosen in edges:
        candidates = (f"{k} {name} {norms:d} {affine:d}" for k, name, norms, affine in chosen)
        parts.append(f"{source} {target} {stride}:" + ",".join(candidates))
    return ";".join(parts)


def read_structure(text: str) -> tuple[int, list[EdgeStructure]]:
    """What `write_structure` was given."""
    inputs, *parts = text.split(";")
    return int(inputs), [_read_edge(part) for part in parts]


def _read_edge(text: str) -> EdgeStructure:
    numbers, _, listed = text.partition(":")
    source, target, stride = (int(number) for number in numbers.split())
    chosen = []
    for candidate in filter(None, listed.split(",")):
        k, name, normalised, affine = candidate.split()
        chosen.append((int(k), name, normalised == "1", affine == "1"))
    return EdgeStructure(source, target, stride, chosen)
