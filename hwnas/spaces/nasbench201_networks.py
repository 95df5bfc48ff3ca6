"""Cells, supernet and networks of NAS-Bench-201 (Dong & Yang, ICLR 2020, arXiv 2001.00326)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_op import MixedCell, MixedOp
from hwnas.ops import build
from hwnas.spaces.cells import cell_edges, drop_path
from hwnas.spaces.networks import Network, Supernet

if TYPE_CHECKING:
    from hwnas.spaces.nasbench201 import NasBench201Space

PRIMITIVES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = cell_edges(1, 3)
OUTPUT = 3
"""The last node, whose state is the output of the cell."""


def stack(space: NasBench201Space, cells: list[nn.Module]) -> nn.ModuleList:
    """Stack cells, with a residual block between each stage and the next."""
    layers: list[nn.Module] = []
    for index, cell in enumerate(cells):
        stage, position = divmod(index, space.options.cells)
        if stage and not position:
            layers.append(build(space.reductions[stage - 1]))
        layers.append(cell)
    return nn.ModuleList(layers)


class SupernetCell(nn.Module):
    """A cell in which every edge is a mixture of all primitives."""

    def __init__(self, channels: int, height: int, width: int, partial: int) -> None:
        super().__init__()
        specs = [OpSpec(name, channels, channels, height, width) for name in PRIMITIVES]
        mixed_ops = [MixedOp(specs, normalise_pools=False, partial=partial) for _ in EDGES]
        self.mixed = MixedCell(EDGES, mixed_ops)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Compute the cell's output, (N, channels, H, W) to the same shape."""
        nodes: list[Tensor] = self.mixed([x], mixture)
        return nodes[-1]


class NasBench201Supernet(Supernet):
    """The stack of cells with all candidates; all cells share the mixture."""

    def __init__(self, space: NasBench201Space, partial: int) -> None:
        super().__init__()
        self.stem = build(space.stem)
        self.layers = stack(
            space,
            [
                SupernetCell(*stage, partial)
                for stage in space.stages
                for _ in range(space.options.cells)
            ],
        )
        self.head = build(space.head)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, mixture) if isinstance(layer, SupernetCell) else layer(x)
        logits: Tensor = self.head(x)
        return logits


class NetworkCell(nn.Module):
    """A cell of one architecture; operators on dead edges are not built.

    Args:
        specs: the operator of each live edge (source, target), sorted by target.
    """

    def __init__(self, specs: dict[tuple[int, int], OpSpec]) -> None:
        super().__init__()
        self.edges = list(specs)
        self.operators = nn.ModuleList(build(spec) for spec in specs.values())

    def forward(self, x: Tensor, drop_probability: float) -> Tensor:
        """Compute the cell's output, (N, channels, H, W) to the same shape."""
        states: dict[int, Tensor] = {0: x}
        for (source, target), operator in zip(self.edges, self.operators, strict=True):
            y = operator(states[source])
            if self.training and drop_probability > 0 and not isinstance(operator, nn.Identity):
                y = drop_path(y, drop_probability)
            states[target] = states[target] + y if target in states else y
        return states[OUTPUT] if OUTPUT in states else torch.zeros_like(x)


class NasBench201Network(Network):
    """The network of one architecture."""

    def __init__(self, space: NasBench201Space, architecture: Architecture) -> None:
        super().__init__()
        live = space.live_edges(architecture)
        options = [option for _, option in architecture]
        cells: list[nn.Module] = [
            NetworkCell({EDGES[row]: OpSpec(options[row], stage[0], *stage) for row in live})
            for stage in space.stages
            for _ in range(space.options.cells)
        ]
        self.stem = build(space.stem)
        self.layers = stack(space, cells)
        self.head = build(space.head)
        self.choice_modules = {
            f"layers.{place}.operators.{i}": f"{source}>{target}"
            for place, layer in enumerate(self.layers)
            if isinstance(layer, NetworkCell)
            for i, (source, target) in enumerate(layer.edges)
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, self.drop_path) if isinstance(layer, NetworkCell) else layer(x)
        logits: Tensor = self.head(x)
        return logits
