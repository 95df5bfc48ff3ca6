"""The DARTS cell space: Liu, Simonyan & Yang, "DARTS: Differentiable Architecture Search",
ICLR 2019 (arXiv 1806.09055).

Two cell types, normal and reduction. A cell has two inputs and some nodes; a node sums two of its
incoming edges, each with one operator; the cell joins its nodes' channels. Edges that are not kept
have the option `none`. Cells are stacked, with reductions at 1/3 and 2/3 of the depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.mixed_op import MixedCell, MixedOp
from hwnas.ops import build, out_size
from hwnas.spaces.base import Choice, Network, SearchSpace, SpaceOptions, Supernet
from hwnas.spaces.cells import cell_edges, drop_path, without_none
from hwnas.spaces.decoding import DecodingProgram, Repeats

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
POOLS = (PRIMITIVES.index("max_pool_3x3"), PRIMITIVES.index("avg_pool_3x3"))
KEPT_EDGES = 2
"""Incoming edges that a node keeps."""


class DartsOptions(SpaceOptions):
    """Sizes of the networks; the defaults are those of the paper's CIFAR-10 evaluation."""

    cells: int = Field(20, ge=3, le=100)
    channels: int = Field(36, ge=2, le=1024)
    nodes: int = Field(4, ge=1, le=8)
    stem_multiplier: int = Field(3, ge=1, le=8)
    stem_stride: int = Field(1, ge=1, le=2)


@dataclass(frozen=True)
class CellShape:
    """Where a cell stands in the stack: its sizes, and those of what it is given.

    Attributes:
        reduction: whether it is a reduction cell.
        channels: of each node.
        c_in0, c_in1: channels of the outputs of the cell before the last one, and of the last.
        size0: (height, width) of the former; the latter's is `size`.
        size: (height, width) that its edges work on, after preprocessing.
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
        """An operator on an edge; edges from the inputs of a reduction cell have stride 2."""
        stride = 2 if self.reduction and source < 2 else 1
        height, width = self.size if source < 2 else self.out_size
        return OpSpec(operator, self.channels, self.channels, height, width, stride)

    def preprocess(self) -> tuple[OpSpec, OpSpec]:
        """What brings both inputs to the cell's channels and size."""
        name, stride = ("nor_conv_1x1", 1) if self.size0 == self.size else ("factorized_reduce", 2)
        height, width = self.size
        return (
            OpSpec(name, self.c_in0, self.channels, *self.size0, stride),
            OpSpec("nor_conv_1x1", self.c_in1, self.channels, height, width, 1),
        )


class DartsSpace(SearchSpace):
    """DARTS cells; choices are `normal/0>2` ... `reduce/4>5`, sources 0 and 1 the cell's inputs."""

    name = "darts"
    options_model = DartsOptions
    options: DartsOptions

    def __init__(self, options: DartsOptions) -> None:
        self.edges = cell_edges(2, options.nodes)
        super().__init__(options)
        self.stem = OpSpec(
            "conv_bn_3x3",
            options.input_channels,
            options.stem_multiplier * options.channels,
            options.height,
            options.width,
            options.stem_stride,
        )
        self.cells = self._cell_shapes()
        last = self.cells[-1]
        self.head = OpSpec(
            "classifier", options.nodes * last.channels, options.classes, *last.out_size
        )

    def _choices(self) -> tuple[Choice, ...]:
        return tuple(
            Choice(f"{cell_type}/{source}>{target}", PRIMITIVES)
            for cell_type in CELL_TYPES
            for source, target in self.edges
        )

    def _cell_shapes(self) -> list[CellShape]:
        options = self.options
        reductions = {options.cells // 3, 2 * options.cells // 3}
        stem_size = (
            out_size(options.height, options.stem_stride),
            out_size(options.width, options.stem_stride),
        )
        channels = options.channels
        c_in0 = c_in1 = self.stem.c_out
        size0 = size = stem_size
        shapes = []
        for index in range(options.cells):
            reduction = index in reductions
            channels *= 2 if reduction else 1
            shape = CellShape(reduction, channels, c_in0, c_in1, size0, size)
            shapes.append(shape)
            c_in0, c_in1 = c_in1, options.nodes * channels
            size0, size = size, shape.out_size
        return shapes

    def operators(self, choice: int, option: int) -> Counter[OpSpec]:
        cell_type = CELL_TYPES[choice // len(self.edges)]
        source, _ = self.edges[choice % len(self.edges)]
        specs = [
            cell.edge(PRIMITIVES[option], source)
            for cell in self.cells
            if cell.cell_type == cell_type
        ]
        return Counter(spec for spec in specs if not is_free(spec))

    def fixed_operators(self) -> Counter[OpSpec]:
        counts = Counter([self.stem, self.head])
        for cell in self.cells:
            counts.update(cell.preprocess())
            nodes = self.options.nodes
            height, width = cell.out_size
            counts[OpSpec("add", cell.channels, cell.channels, height, width)] += nodes
            counts[OpSpec("concat", cell.channels, nodes * cell.channels, height, width)] += 1
        return counts

    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """Probability that an edge is kept, with this operator.

        A node keeps two edges e, f. With the weights as independent propositions the probability
        of a pair is proportional to s_e s_f, where s_e is the weight of all options but `none`:
        conditional Poisson sampling of size two. So edge e is kept with its operator o with
        probability w_eo sum_{f != e} s_f / sum_{pairs} s_e s_f. The most probable architecture is
        the one that the decoder finds, and a one-hot architecture has probability 1. All rules
        are one here: edges that are not kept are no part of a network, the others are all live.
        """
        rows = []
        for group in self._node_groups():
            node = weights[..., group, :]
            strength = node[..., 1:].sum(dim=-1)
            total = strength.sum(dim=-1, keepdim=True)
            pairs = (total.square() - strength.square().sum(dim=-1, keepdim=True)) / 2
            rows.append(node * ((total - strength) / pairs.clamp_min(1e-12)).unsqueeze(-1))
        return torch.cat(rows, dim=-2) * without_none(weights)

    def repeats(self) -> Repeats:
        """The same pool on all edges out of a state."""
        rows = list(enumerate(self.edges))
        return [
            [(offset + row, pool) for row, (source, _) in rows if source == state]
            for offset in (0, len(self.edges))
            for state in range(1 + self.options.nodes)
            for pool in POOLS
        ]

    def _node_groups(self) -> list[list[int]]:
        """The choices (rows) of each node's incoming edges; in order, they cover all choices."""
        groups = []
        for offset in (0, len(self.edges)):
            for target in range(2, 2 + self.options.nodes):
                groups.append(
                    [offset + i for i, edge in enumerate(self.edges) if edge[1] == target]
                )
        return groups

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """One option an edge, and all but two edges of a node on `none`."""
        choices, options = len(self.choices), len(PRIMITIVES)
        index = np.arange(choices * options).reshape(choices, options)
        groups = self._node_groups()
        matrix = np.zeros((choices + len(groups), choices * options))
        matrix[np.arange(choices)[:, None], index] = 1
        for row, group in enumerate(groups, start=choices):
            matrix[row, index[group, 0]] = 1
        bounds = np.array([1] * choices + [len(group) - KEPT_EDGES for group in groups])
        return DecodingProgram(0, matrix, bounds, bounds, index)

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)
        options = [option for _, option in architecture]
        for group in self._node_groups():
            kept = sum(options[row] != "none" for row in group)
            if kept != KEPT_EDGES:
                name = self.choices[group[0]].name
                raise InputError(
                    "wrong number of edges into a node",
                    where=f"choices: {name.split('/')[0]}, node {name.split('>')[1]}",
                    expected=f"{KEPT_EDGES} that are not none",
                    actual=kept,
                )

    def sample(self, rng: np.random.Generator) -> Architecture:
        chosen = [0] * len(self.choices)
        for group in self._node_groups():
            for row in rng.choice(group, KEPT_EDGES, replace=False):
                chosen[row] = int(rng.integers(1, len(PRIMITIVES)))
        return self.architecture(chosen)

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """A kept edge gets another operator, or starts at another state (Real et al., 2019)."""
        chosen = self.chosen(architecture)
        group = self._node_groups()[int(rng.integers(2 * self.options.nodes))]
        kept = [row for row in group if chosen[row]]
        row = int(rng.choice(kept))
        if len(group) > KEPT_EDGES and rng.random() < 0.5:
            other = int(rng.choice([row for row in group if not chosen[row]]))
            chosen[other], chosen[row] = chosen[row], 0
        else:
            operators = len(PRIMITIVES) - 1
            chosen[row] = 1 + (chosen[row] - 1 + int(rng.integers(1, operators))) % operators
        return self.architecture(chosen)

    def open_options(self, decided: Sequence[int]) -> tuple[int, ...]:
        """`none` while enough edges of the node are left, operators while too few are kept."""
        row = len(decided)
        group = next(group for group in self._node_groups() if row in group)
        missing = KEPT_EDGES - sum(decided[i] != 0 for i in group if i < row)
        left = sum(i >= row for i in group)
        none = (0,) if left > missing else ()
        return none + (tuple(range(1, len(PRIMITIVES))) if missing else ())

    def to_genotype(self, architecture: Architecture) -> dict[str, Any]:
        """DARTS' own notation: for each node two pairs [operator, source], and the joined nodes."""
        self.validate(architecture)
        genotype: dict[str, Any] = {}
        options = [option for _, option in architecture]
        for cell_type, offset in zip(CELL_TYPES, (0, len(self.edges)), strict=True):
            genotype[cell_type] = [
                [options[offset + i], source]
                for i, (source, _) in enumerate(self.edges)
                if options[offset + i] != "none"
            ]
            genotype[f"{cell_type}_concat"] = list(range(2, 2 + self.options.nodes))
        return genotype

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read DARTS' notation, as a mapping with `normal` and `reduce` (concat keys optional)."""
        chosen = {choice.name: "none" for choice in self.choices}
        for cell_type in CELL_TYPES:
            where = f"genotype: {cell_type}"
            try:
                pairs = [(str(name), int(source)) for name, source in genotype[cell_type]]
                concat = [int(node) for node in genotype.get(f"{cell_type}_concat", [])]
            except (KeyError, TypeError, ValueError, AttributeError):
                raise InputError(
                    "malformed", where=where, expected="a list of [operator, source] pairs"
                ) from None
            if len(pairs) != KEPT_EDGES * self.options.nodes:
                expected = f"{KEPT_EDGES * self.options.nodes} pairs"
                raise InputError("wrong length", where=where, expected=expected, actual=len(pairs))
            if concat and concat != list(range(2, 2 + self.options.nodes)):
                raise InputError("joins other nodes than all", where=where, actual=concat)
            for position, (name, source) in enumerate(pairs):
                choice = f"{cell_type}/{source}>{2 + position // KEPT_EDGES}"
                if chosen.get(choice) != "none":
                    raise InputError("no such edge, or named twice", where=where, actual=choice)
                chosen[choice] = name
        return self.architecture(chosen)

    def supernet(self) -> Supernet:
        return DartsSupernet(self)

    def network(self, architecture: Architecture) -> Network:
        self.validate(architecture)
        return DartsNetwork(self, architecture)


def is_free(spec: OpSpec) -> bool:
    """Whether an operator is nothing at run time: `none`, or the identity."""
    return spec.name == "none" or (spec.name == "skip_connect" and spec.stride == 1)


class SupernetCell(nn.Module):
    """A cell with all edges, each a mixture of all primitives."""

    def __init__(self, shape: CellShape, edges: list[tuple[int, int]]) -> None:
        super().__init__()
        # The choices of reduction cells stand behind those of normal cells.
        self.first_choice = len(edges) if shape.reduction else 0
        first, second = shape.preprocess()
        self.preprocess0 = build(first, affine=False)
        self.preprocess1 = build(second, affine=False)
        mixed_ops = [
            MixedOp([shape.edge(name, source) for name in PRIMITIVES], normalise_pools=True)
            for source, _ in edges
        ]
        self.mixed = MixedCell(edges, mixed_ops)

    def forward(self, s0: Tensor, s1: Tensor, mixture: Mixture) -> Tensor:
        """Outputs (N, nodes * channels, H, W) of the two previous cells' outputs."""
        inputs = [self.preprocess0(s0), self.preprocess1(s1)]
        return torch.cat(self.mixed(inputs, mixture, self.first_choice), dim=1)


class DartsSupernet(Supernet):
    """The stack of cells with all candidates; every cell of a type shares the mixture."""

    def __init__(self, space: DartsSpace) -> None:
        super().__init__()
        self.stem = build(space.stem)
        self.cells = nn.ModuleList(SupernetCell(shape, space.edges) for shape in space.cells)
        self.head = build(space.head)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, mixture)
        return self.head(s1)


class NetworkCell(nn.Module):
    """A cell of one architecture."""

    def __init__(self, shape: CellShape, kept: list[tuple[int, int, str]], nodes: int) -> None:
        """Build from kept edges (source, target, operator), by target."""
        super().__init__()
        self.kept = kept
        self.nodes = nodes
        first, second = shape.preprocess()
        self.preprocess0 = build(first)
        self.preprocess1 = build(second)
        self.operators = nn.ModuleList(build(shape.edge(name, source)) for source, _, name in kept)

    def forward(self, s0: Tensor, s1: Tensor, drop_probability: float) -> Tensor:
        """Outputs (N, nodes * channels, H, W) of the two previous cells' outputs."""
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
    """A second classifier at 2/3 of the depth, used in training only (as in the paper's code).

    Its first pooling leaves 2 x 2: a window of 5 with stride 3 on the paper's 8 x 8.
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
        return self.fc(self.features(x))


class DartsNetwork(Network):
    """The stack of cells of one architecture."""

    def __init__(self, space: DartsSpace, architecture: Architecture) -> None:
        super().__init__()
        options = [option for _, option in architecture]
        kept: dict[str, list[tuple[int, int, str]]] = {}
        for cell_type, offset in zip(CELL_TYPES, (0, len(space.edges)), strict=True):
            kept[cell_type] = [
                (source, target, options[offset + i])
                for i, (source, target) in enumerate(space.edges)
                if options[offset + i] != "none"
            ]
        nodes = space.options.nodes
        self.stem = build(space.stem)
        self.cells = nn.ModuleList(
            NetworkCell(shape, kept[shape.cell_type], nodes) for shape in space.cells
        )
        self.head = build(space.head)
        self.auxiliary_index = 2 * len(space.cells) // 3
        shape = space.cells[self.auxiliary_index]
        self.auxiliary = AuxiliaryHead(
            nodes * shape.channels, shape.out_size, space.options.classes
        )

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last cell's output, and the one that the auxiliary head reads."""
        s0 = s1 = branch = self.stem(x)
        for index, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, self.drop_path)
            if index == self.auxiliary_index:
                branch = s1
        return s1, branch

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._features(x)[0])

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features, branch = self._features(x)
        auxiliary = None if self.auxiliary is None else self.auxiliary(branch)
        return self.head(features), auxiliary
