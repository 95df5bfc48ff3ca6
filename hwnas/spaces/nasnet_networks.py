"""Cells, supernet and networks of NASNet's space (Zoph et al., CVPR 2018, arXiv 1707.07012)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwnas.architecture import Mixture
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build, build_candidate
from hwnas.ops.parts import out_size
from hwnas.spaces.cells import drop_path
from hwnas.spaces.networks import Network, Supernet

CELL_TYPES = ("normal", "reduce")
INPUTS = 2
"""Number of a cell's inputs."""
ROWS_OF_BLOCK = 4
"""Choices of a block: input and operator of each half."""


@dataclass(frozen=True)
class Cell:
    """The sizes of one cell of the stack.

    Attributes:
        cell_type: `normal` or `reduce`.
        channels: of each state.
        size0: (height, width) of the first input.
        size: (height, width) of the second input, and of both inputs after preprocessing.
    """

    cell_type: str
    channels: int
    size0: tuple[int, int]
    size: tuple[int, int]

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of its blocks."""
        stride = 2 if self.cell_type == "reduce" else 1
        return out_size(self.size[0], stride), out_size(self.size[1], stride)

    def operator(self, name: str, source: int) -> OpSpec:
        """An operator of a state; in a reduction cell, those of the inputs have stride 2."""
        stride = 2 if self.cell_type == "reduce" and source < INPUTS else 1
        height, width = self.size if source < INPUTS else self.out_size
        return OpSpec(name, self.channels, self.channels, height, width, stride)

    def preprocess(self, c_in: int) -> tuple[OpSpec, OpSpec]:
        """What brings two inputs with `c_in` channels to the cell's channels and size."""
        name, stride = ("nor_conv_1x1", 1) if self.size0 == self.size else ("factorized_reduce", 2)
        return (
            OpSpec(name, c_in, self.channels, *self.size0, stride),
            OpSpec("nor_conv_1x1", c_in, self.channels, *self.size, 1),
        )


@dataclass(frozen=True)
class BlockCell:
    """What a type of cell computes in one architecture.

    Attributes:
        pairs: operator and source of the two halves of each block.
        out: the states that are concatenated.
        names: of the choice of each operator.
    """

    pairs: tuple[tuple[str, int], ...]
    out: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """What the cells of a supernet choose from.

    Attributes:
        operators: that a half of a block can take.
        blocks: number of blocks.
        output_weights: of the mixture's weights and a type of cell, the weight of each state in the
            cell's output; None for a state that is never there.
    """

    operators: tuple[str, ...]
    blocks: int
    output_weights: Callable[[Tensor, str], list[Tensor | None]]

    @property
    def targets(self) -> range:
        """The states of the blocks."""
        return range(INPUTS, INPUTS + self.blocks)


class SupernetCell(nn.Module):
    """A cell with all operators between any two states.

    Both halves of a block share the operators of a state, so their weights add up. A state has the
    weight in the output with which no block reads it.
    """

    def __init__(self, given: Candidates, cell: Cell, c_in0: int, c_in1: int) -> None:
        super().__init__()
        self.given = given
        self.cell_type = cell.cell_type
        self.first_row = ROWS_OF_BLOCK * given.blocks * CELL_TYPES.index(cell.cell_type)
        first, second = cell.preprocess(c_in0)[0], cell.preprocess(c_in1)[1]
        self.preprocess = nn.ModuleList([build(first, affine=False), build(second, affine=False)])
        self.operators = nn.ModuleDict(
            {
                f"{source}>{target}": nn.ModuleList(
                    build_candidate(cell.operator(name, source), normalise_pools=True)
                    for name in given.operators
                )
                for target in given.targets
                for source in range(target)
            }
        )

    def forward(self, s0: Tensor, s1: Tensor, mixture: Mixture) -> Tensor:
        """Map the outputs of the two previous cells to that of this one."""
        states = [op(s) for op, s in zip(self.preprocess, (s0, s1), strict=True)]
        for target in self.given.targets:
            states.append(self._block(states, target, mixture))
        shares = self.given.output_weights(mixture.weights.to(s0.dtype), self.cell_type)
        weighted = [
            share * state for state, share in zip(states, shares, strict=True) if share is not None
        ]
        return torch.cat(weighted, dim=1)

    def _block(self, states: Sequence[Tensor], target: int, mixture: Mixture) -> Tensor:
        """The weighted sum over the states and operators of both halves of a block."""
        weights: dict[tuple[int, int], Tensor] = {}
        first = self.first_row + ROWS_OF_BLOCK * (target - INPUTS)
        every = range(len(self.given.operators))
        for row in (first, first + 2):
            inputs, operators = mixture.active_options(row), mixture.active_options(row + 1)
            for source in range(target) if inputs is None else inputs:
                for option in every if operators is None else operators:
                    weight = mixture.weights[row, source] * mixture.weights[row + 1, option]
                    known = weights.get((source, option))
                    weights[source, option] = weight if known is None else known + weight
        total: Tensor | None = None
        for (source, option), weight in weights.items():
            candidates = self.operators[f"{source}>{target}"]
            assert isinstance(candidates, nn.ModuleList)
            y = weight.to(states[source].dtype) * candidates[option](states[source])
            total = y if total is None else total + y
        assert total is not None
        return total


class NasnetSupernet(Supernet):
    """The stack of cells with all candidates; the cells of a type share their mixture.

    Args:
        given: what the cells choose from.
        stem: the operator before the cells.
        cells: their sizes.
        widths: the largest number of states in the output of each type of cell.
        classes: outputs of the head.
    """

    def __init__(
        self,
        given: Candidates,
        stem: OpSpec,
        cells: Sequence[Cell],
        widths: Mapping[str, int],
        classes: int,
    ) -> None:
        super().__init__()
        self.stem = build(stem)
        channels = [stem.c_out] * 2
        built = []
        for cell in cells:
            built.append(SupernetCell(given, cell, *channels[-2:]))
            channels.append(widths[cell.cell_type] * cell.channels)
        self.cells = nn.ModuleList(built)
        self.head = build(OpSpec("relu_classifier", channels[-1], classes, *cells[-1].out_size))

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, mixture)
        outputs: Tensor = self.head(s1)
        return outputs


class NetworkCell(nn.Module):
    """A cell of one architecture."""

    def __init__(self, cell: Cell, blocks: BlockCell, c_in0: int, c_in1: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.preprocess0 = build(cell.preprocess(c_in0)[0])
        self.preprocess1 = build(cell.preprocess(c_in1)[1])
        self.operators = nn.ModuleList(build(cell.operator(*pair)) for pair in blocks.pairs)

    def forward(self, s0: Tensor, s1: Tensor, drop_probability: float) -> Tensor:
        """Map the outputs of the two previous cells to that of this one."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        halves: list[Tensor] = []
        for (_, source), operator in zip(self.blocks.pairs, self.operators, strict=True):
            y = operator(states[source])
            if self.training and drop_probability > 0 and not isinstance(operator, nn.Identity):
                y = drop_path(y, drop_probability)
            halves.append(y)
            if len(halves) == 2:
                states.append(halves[0] + halves[1])
                halves = []
        return torch.cat([states[state] for state in self.blocks.out], dim=1)


class NasnetNetwork(Network):
    """The stack of cells of one architecture."""

    def __init__(
        self, stem: OpSpec, cells: Sequence[Cell], blocks: Mapping[str, BlockCell], classes: int
    ) -> None:
        super().__init__()
        self.stem = build(stem)
        channels = [stem.c_out] * 2
        built = []
        for cell in cells:
            taken = blocks[cell.cell_type]
            built.append(NetworkCell(cell, taken, *channels[-2:]))
            channels.append(len(taken.out) * cell.channels)
        self.cells = nn.ModuleList(built)
        self.head = build(OpSpec("relu_classifier", channels[-1], classes, *cells[-1].out_size))
        self.choice_modules = {
            f"cells.{place}.operators.{number}": name
            for place, cell in enumerate(cells)
            for number, name in enumerate(blocks[cell.cell_type].names)
        }

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, self.drop_path)
        outputs: Tensor = self.head(s1)
        return outputs
