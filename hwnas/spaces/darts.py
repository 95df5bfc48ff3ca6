"""The DARTS cell space.

Liu, Simonyan & Yang, "DARTS: Differentiable Architecture Search", ICLR 2019 (arXiv 1806.09055).

There are two types of cell, normal and reduction. A cell has two inputs, the outputs of the two
previous cells, and several nodes. A node keeps two of its incoming edges, each with one operator,
and sums them; the other edges take the option `none`. The cell's output is the concatenation of its
nodes. Cells are stacked, with reduction cells at 1/3 and 2/3 of the depth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import out_size
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.cells import cell_edges, require_divisible, without_none
from hwnas.spaces.choices import Choice
from hwnas.spaces.darts_networks import (
    CELL_TYPES,
    PRIMITIVES,
    CellShape,
    DartsNetwork,
    DartsSupernet,
)
from hwnas.spaces.decoding import DecodingProgram, Repeated, SharedWork
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import SpaceOptions

POOLS = (PRIMITIVES.index("max_pool_3x3"), PRIMITIVES.index("avg_pool_3x3"))
SKIP = PRIMITIVES.index("skip_connect")
CONVOLUTIONS = tuple(i for i, name in enumerate(PRIMITIVES) if "conv" in name)
KEPT_EDGES = 2
"""The number of incoming edges that a node keeps."""


class DartsOptions(SpaceOptions):
    """Sizes of the networks; the defaults are those of the paper's CIFAR-10 evaluation."""

    cells: int = Field(
        20,
        ge=3,
        le=100,
        description="number of cells; those at 1/3 and 2/3 of the depth are reduction cells",
    )
    channels: int = Field(
        36, ge=2, le=1024, description="channels of the first cells; each reduction doubles them"
    )
    nodes: int = Field(4, ge=1, le=8, description="nodes of a cell")
    stem_multiplier: int = Field(
        3, ge=1, le=8, description="channels of the stem, as a multiple of `channels`"
    )
    stem_stride: int = Field(1, ge=1, le=2, description="stride of the stem")


class DartsSpace(SearchSpace):
    """DARTS cells; the choices are the edges, `normal/0>2` ... `reduce/4>5`.

    States 0 and 1 are the cell's inputs, the nodes follow.
    """

    name = "darts"
    paper = "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019, arXiv 1806.09055"
    options_model = DartsOptions
    heads = ("classifier", "dense", "upsampled")
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
        self.head = options.head_operator(options.nodes * last.channels, *last.out_size)

    def _choices(self) -> tuple[Choice, ...]:
        return tuple(
            Choice(f"{cell_type}/{source}>{target}", PRIMITIVES)
            for cell_type in CELL_TYPES
            for source, target in self.edges
        )

    def _cell_shapes(self) -> list[CellShape]:
        """The sizes of each cell in the stack."""
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
        """The probability that an edge is kept with a certain operator.

        A node keeps two edges. The pair (e, f) has a probability proportional to s_e s_f, where s_e
        is the sum of the edge's weights without that of `none` (conditional Poisson sampling of
        size two). Edge e is therefore kept with operator o with probability
        w_eo sum_{f != e} s_f / sum_{pairs (f, g)} s_f s_g. The most probable architecture is the
        one that the decoder finds, and the architecture of a one-hot mixture has probability 1.
        The rules do not differ here, since a network consists of its kept edges, all of which are
        live.
        """
        rows = []
        for group in self.node_inputs():
            node = weights[..., group, :]
            strength = node[..., 1:].sum(dim=-1)
            total = strength.sum(dim=-1, keepdim=True)
            pairs = (total.square() - strength.square().sum(dim=-1, keepdim=True)) / 2
            rows.append(node * ((total - strength) / pairs.clamp_min(1e-12)).unsqueeze(-1))
        return torch.cat(rows, dim=-2) * without_none(weights)

    def repeats(self) -> list[Repeated]:
        """Equal pools on the edges that leave the same state."""
        return [
            Repeated(tuple((row, pool) for row in rows))
            for _, _, rows in self._states()
            for pool in POOLS
        ]

    def shared_work(self) -> list[SharedWork]:
        """The ReLU of a state, and the shifted copy that its factorized reductions read."""
        shared = []
        for cell_type, state, rows in self._states():
            halving = cell_type == "reduce" and state < 2
            work = {"relu": (*CONVOLUTIONS, SKIP) if halving else CONVOLUTIONS}
            if halving:
                work["shift_by_pixel"] = (SKIP,)
            cells = [cell for cell in self.cells if cell.cell_type == cell_type]
            for name, options in work.items():
                operators = Counter(replace(cell.edge(name, state), stride=1) for cell in cells)
                members = tuple((row, option) for row in rows for option in options)
                shared.append(SharedWork(f"{cell_type}/{state} {name}", operators, members))
        return shared

    def _states(self) -> Iterator[tuple[str, int, list[int]]]:
        """Each state with outgoing edges.

        Yields:
            The type of cell, the state, and the rows of its outgoing edges.
        """
        for cell_type, offset in zip(CELL_TYPES, (0, len(self.edges)), strict=True):
            for state in range(1 + self.options.nodes):
                rows = [offset + row for row, edge in enumerate(self.edges) if edge[0] == state]
                yield cell_type, state, rows

    def node_inputs(self) -> list[list[int]]:
        return [
            [offset + i for i, edge in enumerate(self.edges) if edge[1] == target]
            for offset in (0, len(self.edges))
            for target in range(2, 2 + self.options.nodes)
        ]

    @cached_property
    def scored_options(self) -> Tensor:
        """All options but `none`, which only marks the edges that are not kept."""
        return self.mask & (without_none(self.mask) > 0)

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """Every edge takes one option, and all but two edges of a node take `none`."""
        choices, options = len(self.choices), len(PRIMITIVES)
        index = np.arange(choices * options).reshape(choices, options)
        groups = self.node_inputs()
        matrix = np.zeros((choices + len(groups), choices * options))
        matrix[np.arange(choices)[:, None], index] = 1
        for row, group in enumerate(groups, start=choices):
            matrix[row, index[group, 0]] = 1
        bounds = np.array([1] * choices + [len(group) - KEPT_EDGES for group in groups])
        return DecodingProgram(0, matrix, bounds, bounds, index)

    def size(self) -> int:
        """Every node keeps two edges and takes an operator for each of them."""
        operators = len(PRIMITIVES) - 1
        return math.prod(
            math.comb(len(group), KEPT_EDGES) * operators**KEPT_EDGES
            for group in self.node_inputs()
        )

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)
        options = [option for _, option in architecture]
        for group in self.node_inputs():
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
        for group in self.node_inputs():
            for row in rng.choice(group, KEPT_EDGES, replace=False):
                chosen[row] = int(rng.integers(1, len(PRIMITIVES)))
        return self.architecture(chosen)

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Change the operator or the source of a kept edge (Real et al., AAAI 2019)."""
        chosen = self.chosen(architecture)
        group = self.node_inputs()[int(rng.integers(2 * self.options.nodes))]
        kept = [row for row in group if chosen[row]]
        row = int(rng.choice(kept))
        if len(group) > KEPT_EDGES and rng.random() < 0.5:
            other = int(rng.choice([row for row in group if not chosen[row]]))
            chosen[other], chosen[row] = chosen[row], 0
        else:
            operators = len(PRIMITIVES) - 1
            chosen[row] = 1 + (chosen[row] - 1 + int(rng.integers(1, operators))) % operators
        return self.architecture(chosen)

    def cross(
        self, first: Architecture, second: Architecture, rng: np.random.Generator
    ) -> Architecture:
        """A child that takes all inputs of each node from one of two architectures at random."""
        parents = self.chosen(first), self.chosen(second)
        chosen = [0] * len(self.choices)
        for group in self.node_inputs():
            parent = parents[int(rng.integers(2))]
            for row in group:
                chosen[row] = parent[row]
        return self.architecture(chosen)

    def open_options(self, decided: Sequence[int]) -> tuple[int, ...]:
        """Allow `none` and operators while the node can still keep exactly two edges."""
        row = len(decided)
        group = next(group for group in self.node_inputs() if row in group)
        missing = KEPT_EDGES - sum(decided[i] != 0 for i in group if i < row)
        left = sum(i >= row for i in group)
        none = (0,) if left > missing else ()
        return none + (tuple(range(1, len(PRIMITIVES))) if missing else ())

    def to_genotype(self, architecture: Architecture) -> dict[str, Any]:
        """DARTS' notation: for each node two [operator, source], and the concatenated nodes."""
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
        """Read DARTS' notation, a mapping with `normal`, `reduce` and optional concat keys.

        NASLib's compact notation is read too: for both cells a list of [source, operator] with
        operators numbered from 0, in the order of `PRIMITIVES` without `none`.
        """
        if isinstance(genotype, list):
            genotype = _from_numbers(genotype)
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
                raise InputError("cell does not concatenate all nodes", where=where, actual=concat)
            for position, (name, source) in enumerate(pairs):
                choice = f"{cell_type}/{source}>{2 + position // KEPT_EDGES}"
                if chosen.get(choice) != "none":
                    raise InputError(
                        "no such edge, or edge given twice", where=where, actual=choice
                    )
                chosen[choice] = name
        return self.architecture(chosen)

    def supernet(self, partial_channels: int = 1) -> Supernet:
        require_divisible(self.options.channels, partial_channels)
        return DartsSupernet(self.stem, self.cells, self.edges, self.head, partial_channels)

    def network(self, architecture: Architecture) -> Network:
        self.validate(architecture)
        options = [option for _, option in architecture]
        kept = {
            cell_type: [
                (source, target, options[offset + i])
                for i, (source, target) in enumerate(self.edges)
                if options[offset + i] != "none"
            ]
            for cell_type, offset in zip(CELL_TYPES, (0, len(self.edges)), strict=True)
        }
        return DartsNetwork(self.stem, self.cells, kept, self.head)


def _from_numbers(cells: list[Any]) -> dict[str, list[list[Any]]]:
    """DARTS' notation of NASLib's compact one; InputError when it is malformed."""
    try:
        return {
            cell_type: [[PRIMITIVES[1:][_index(number)], _index(source)] for source, number in cell]
            for cell_type, cell in zip(CELL_TYPES, cells, strict=True)
        }
    except (TypeError, ValueError, IndexError):
        raise InputError(
            "malformed",
            where="genotype",
            expected="[[source, operator] ...] for the normal and for the reduction cell",
        ) from None


def _index(number: Any) -> int:
    """A number that is no truth value and not negative; ValueError for anything else."""
    if type(number) is not int or number < 0:
        raise ValueError(number)
    return number


def is_free(spec: OpSpec) -> bool:
    """Whether an operator has no cost at run time, as `none` and the identity."""
    return spec.name == "none" or (spec.name == "skip_connect" and spec.stride == 1)
