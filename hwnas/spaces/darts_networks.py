"""Cells, supernet and networks of the DARTS space (Liu et al., ICLR 2019, arXiv 1806.09055)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwnas.architecture import Mixture
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_edge import MixedOp
from hwnas.nn.mixed_op import MixedCell, preprocess
from hwnas.ops import build
from hwnas.ops.parts import out_size
from hwnas.spaces.cells import drop_path
from hwnas.spaces.networks import Network, Supernet

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CELL_TYPES = ("normal", "reduce")


@dataclass(frozen=True)
class CellShape:
    """The sizes of one cell of the stack and of its inputs.

    Attributes:
        reduction: whether it is a reduction cell.
        channels: channels of each node.
        c_in0: channels of the first input, the output of the cell before the previous one.
        c_in1: channels of the second input, the output of the previous cell.
        size0: (height, width) of the first input.
        size: (height, width) of the second input, and of both inputs after preprocessing.
    """

    reduction: bool
    channels: int
    c_in0: int
    c_in1: int
    size0: tuple[int, int]
    size: tuple[int, int]

    @property
    def cell_type(self) -> str:
        """`normal` or `reduce`."""
        return CELL_TYPES[self.reduction]

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of its nodes."""
        stride = 2 if self.reduction else 1
        return out_size(self.size[0], stride), out_size(self.size[1], stride)

    def edge(self, operator: str, source: int) -> OpSpec:
        """An operator on an edge; in a reduction cell, edges from the inputs have stride 2."""
        stride = 2 if self.reduction and source < 2 else 1
        height, width = self.size if source < 2 else self.out_size
        return OpSpec(operator, self.channels, self.channels, height, width, stride)

    def preprocess(self) -> tuple[OpSpec, OpSpec]:
        """The operators that bring the two inputs to the cell's channels and size."""
        name, stride = ("nor_conv_1x1", 1) if self.size0 == self.size else ("factorized_reduce", 2)
        height, width = self.size
        return (
            OpSpec(name, self.c_in0, self.channels, *self.size0, stride),
            OpSpec("nor_conv_1x1", self.c_in1, self.channels, height, width, 1),
        )


class SupernetCell(nn.Module):
    """A cell in which every edge is a mixture of all primitives."""

    def __init__(self, shape: CellShape, edges: list[tuple[int, int]], partial: int) -> None:
        super().__init__()
        # The choices of reduction cells follow those of normal cells.
        self.first_choice = len(edges) if shape.reduction else 0
        first, second = shape.preprocess()
        self.preprocess0 = build(first, affine=False)
        self.preprocess1 = build(second, affine=False)
        mixed_ops = [
            MixedOp(
                [shape.edge(name, source) for name in PRIMITIVES],
                normalise_pools=True,
                partial=partial,
            )
            for source, _ in edges
        ]
        self.mixed = MixedCell(edges, mixed_ops)

    def forward(self, s0: Tensor, s1: Tensor, mixture: Mixture) -> Tensor:
        """Map the outputs of the two previous cells to (N, nodes * channels, OH, OW)."""
        impl = self.mixed.impl
        inputs = [preprocess(self.preprocess0, s0, impl), preprocess(self.preprocess1, s1, impl)]
        return torch.cat(self.mixed(inputs, mixture, self.first_choice), dim=1)


class DartsSupernet(Supernet):
    """The stack of cells with all candidates; the cells of a type share their mixture."""

    def __init__(
        self,
        stem: OpSpec,
        cells: Sequence[CellShape],
        edges: list[tuple[int, int]],
        head: OpSpec,
        partial: int,
    ) -> None:
        super().__init__()
        self.stem = build(stem)
        self.cells = nn.ModuleList(SupernetCell(shape, edges, partial) for shape in cells)
        self.head = build(head)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, mixture)
        outputs: Tensor = self.head(s1)
        return outputs


class NetworkCell(nn.Module):
    """A cell of one architecture."""

    def __init__(self, shape: CellShape, kept: list[tuple[int, int, str]], nodes: int) -> None:
        """Build from kept edges (source, target, operator), sorted by target."""
        super().__init__()
        self.kept = kept
        self.nodes = nodes
        first, second = shape.preprocess()
        self.preprocess0 = build(first)
        self.preprocess1 = build(second)
        self.operators = nn.ModuleList(build(shape.edge(name, source)) for source, _, name in kept)

    def forward(self, s0: Tensor, s1: Tensor, drop_probability: float) -> Tensor:
        """Map the outputs of the two previous cells to (N, nodes * channels, OH, OW)."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for (source, target, _), operator in zip(self.kept, self.operators, strict=True):
            y = operator(states[source])
            if self.training and drop_probability > 0 and not isinstance(operator, nn.Identity):
                y = drop_path(y, drop_probability)
            if target == len(states):
                states.append(y)
            else:
                states[target] = states[target] + y
        return torch.cat(states[2:], dim=1)


class AuxiliaryHead(nn.Module):
    """A second classifier at 2/3 of the depth, used in training only (as in the authors' code).

    It begins with a pool to 2 x 2, which for the paper's 8 x 8 feature maps has a window of 5 and
    stride 3.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        pool: nn.Module = nn.AdaptiveAvgPool2d(2)
        if size == (8, 8):
            pool = nn.AvgPool2d(5, stride=3, count_include_pad=False)
        self.features = nn.Sequential(
            nn.ReLU(),
            pool,
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.fc = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.fc(self.features(x))
        return logits


class DartsNetwork(Network):
    """The stack of cells of one architecture."""

    def __init__(
        self,
        stem: OpSpec,
        cells: Sequence[CellShape],
        kept: Mapping[str, list[tuple[int, int, str]]],
        head: OpSpec,
    ) -> None:
        """Build from the kept edges (source, target, operator) of each cell type."""
        super().__init__()
        nodes = head.c_in // cells[-1].channels
        self.stem = build(stem)
        self.cells = nn.ModuleList(
            NetworkCell(shape, kept[shape.cell_type], nodes) for shape in cells
        )
        self.head = build(head)
        self.choice_modules = {
            f"cells.{place}.operators.{i}": f"{shape.cell_type}/{source}>{target}"
            for place, shape in enumerate(cells)
            for i, (source, target, _) in enumerate(kept[shape.cell_type])
        }
        self.auxiliary_index = 2 * len(cells) // 3
        shape = cells[self.auxiliary_index]
        if head.name == "classifier":
            self.auxiliary = AuxiliaryHead(nodes * shape.channels, shape.out_size, head.c_out)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output of the last cell, and the output that the auxiliary head reads."""
        s0 = s1 = branch = self.stem(x)
        for index, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, self.drop_path)
            if index == self.auxiliary_index:
                branch = s1
        return s1, branch

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self._features(x)[0])
        return outputs

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features, branch = self._features(x)
        auxiliary = None if self.auxiliary is None else self.auxiliary(branch)
        return self.head(features), auxiliary
