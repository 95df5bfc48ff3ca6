"""The NAS-Bench-101 cell space.

Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019 (arXiv
1902.09635).

There is one type of cell, a graph of up to seven vertices and nine edges. Each inner vertex applies
one of three operators to the sum of the vertices before it, and the vertices before the output are
concatenated. A network has three stacks of cells, with a max pool before the second and third that
halves the size; the channels double there.

How many channels a vertex has depends on the whole graph, and so does the cost of its operator. An
operator therefore has a part of the cost for each width. There are few graphs without their
operators (6,472), so expectations and the decoder's program go over all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import out_size
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.cells import cell_edges
from hwnas.spaces.choices import Choice
from hwnas.spaces.decoding import DecodingProgram
from hwnas.spaces.nasbench101_graphs import (
    INPUT,
    OPERATORS,
    OUTPUT,
    Graph,
    skeletons,
    slot_channels,
    slots,
)
from hwnas.spaces.nasbench101_networks import (
    PRESENT,
    Cell,
    Frame,
    Layers,
    NasBench101Network,
    NasBench101Supernet,
)
from hwnas.spaces.nasbench101_parts import Parts
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import SpaceOptions

STACKS = 3
ABSENT = 0
EDGE_OPTIONS = ("none", "edge")
MUTATIONS = 1000
"""Attempts to find another valid graph."""


class NasBench101Options(SpaceOptions):
    """Sizes of the networks; the defaults are those of the benchmark."""

    cells: int = Field(3, ge=1, le=50, description="cells in each of the three stacks")
    channels: int = Field(
        128, ge=5, le=1024, description="channels of the first stack; each stack doubles them"
    )
    vertices: int = Field(
        7, ge=3, le=7, description="largest number of vertices of a cell, with input and output"
    )
    max_edges: int = Field(9, ge=2, le=21, description="largest number of edges of a cell")


class NasBench101Space(SearchSpace):
    """NAS-Bench-101 cells; the choices are the edges, `0>1` ... `5>6`, and `vertex1` ... `vertex5`.

    Vertex 0 is the input and the last one the output. Every edge lies on a path from the input to
    the output, and a cell with fewer vertices has the first of them. So the paper's pruned graphs
    are the architectures, up to the order of their vertices.

    Attributes:
        edges: (source, target) of each edge.
        sizes: the different numbers of channels that a vertex can have, one for each stack.
        size_of_slot: for each slot (see `Skeletons`) the index of its size.
    """

    name = "nasbench101"
    paper = (
        "Ying et al., NAS-Bench-101: Towards Reproducible Neural Architecture Search, ICML 2019, "
        "arXiv 1902.09635"
    )
    options_model = NasBench101Options
    options: NasBench101Options

    def __init__(self, options: NasBench101Options) -> None:
        self.inner = options.vertices - 2
        self.edges = cell_edges(1, options.vertices - 1)
        self.stacks = self._stacks(options)
        widths = [
            tuple(slot_channels(cell.channels, *slot) for cell, *_ in self.stacks)
            for slot in slots(options.vertices)
        ]
        known = np.unique(skeletons(options.vertices, options.max_edges).size)
        used = [widths[slot] for slot in known.tolist() if slot >= 0]
        self.sizes = sorted(set(used), reverse=True)
        self.size_of_slot = [self.sizes.index(w) if w in self.sizes else -1 for w in widths]
        super().__init__(options)
        self.stem = OpSpec(
            "conv_bn_3x3_relu",
            options.input_channels,
            options.channels,
            options.height,
            options.width,
        )
        last = self.stacks[-1][-1]
        self.head = OpSpec("classifier", last.channels, options.classes, last.height, last.width)

    def _choices(self) -> tuple[Choice, ...]:
        edges = [Choice(f"{source}>{target}", EDGE_OPTIONS) for source, target in self.edges]
        vertices = [Choice(f"vertex{number}", OPERATORS) for number in range(1, self.inner + 1)]
        return (*edges, *vertices)

    def _stacks(self, options: NasBench101Options) -> list[list[Cell]]:
        """The sizes of the cells of each stack."""
        height, width, c_in, stacks = options.height, options.width, options.channels, []
        for stack in range(STACKS):
            if stack:
                height, width = out_size(height, 2), out_size(width, 2)
            channels = options.channels * 2**stack
            cells = []
            for _ in range(options.cells):
                cells.append(Cell(c_in, channels, height, width))
                c_in = channels
            stacks.append(cells)
        return stacks

    @property
    def pools(self) -> list[OpSpec]:
        """The max pools before the second and the third stack."""
        cells = [stack[-1] for stack in self.stacks[:-1]]
        return [OpSpec("max_pool_2x2", c.channels, c.channels, c.height, c.width, 2) for c in cells]

    def _vertex(self, row: int) -> int:
        """The inner vertex whose operator a choice is, from 0."""
        return row - len(self.edges)

    def _parts(self) -> tuple[tuple[str, ...], ...]:
        """Operators and edges to inner vertices have a part for each size of the vertex."""
        widths = ["/".join(map(str, size)) for size in self.sizes]
        found = []
        for row, choice in enumerate(self.choices):
            if self._vertex(row) >= 0:
                names = [f"{option} {width}" for option in choice.options for width in widths]
            elif self.edges[row] == (0, self.inner + 1):
                names = ["projection", "addition"]
            elif self.edges[row][1] > self.inner:
                names = ["edge"]
            else:
                inner = self.edges[row][0] > 0
                kind = "addition" if inner else "projection"
                names = [f"{kind} {width}" for width in widths] + ["edge"] * inner
            found.append(tuple(names))
        return tuple(found)

    def operators(self, choice: int, part: int) -> Counter[OpSpec]:
        """The operator of a part in every cell.

        The input is projected to the channels of a vertex. An edge pays for an addition unless it
        is its vertex' first; then its part is `edge`, without operators. Concatenation, and that a
        wider vertex is cut, are not priced.
        """
        name, _, _ = self.parts[choice][part].partition(" ")
        if name == "edge":
            return Counter()
        counts: Counter[OpSpec] = Counter()
        for stack, cells in enumerate(self.stacks):
            for cell in cells:
                if self._vertex(choice) < 0 and self.edges[choice][1] > self.inner:
                    width = cell.channels
                else:
                    width = self.sizes[part % len(self.sizes)][stack]
                if name == "projection":
                    spec = cell.projection(width)
                elif name == "addition":
                    spec = OpSpec("add", width, width, cell.height, cell.width)
                else:
                    spec = cell.operator(name, width)
                counts[spec] += 1
        return counts

    def fixed_operators(self) -> Counter[OpSpec]:
        return Counter([self.stem, *self.pools, self.head])

    @cached_property
    def _of_graphs(self) -> Parts:
        graphs = skeletons(self.options.vertices, self.options.max_edges)
        return Parts.of(graphs, self.edges, self.size_of_slot)

    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """The expectation over all graphs; operators are independent of the graph.

        The rules do not differ, since all edges of a graph lie on a path to the output.
        """
        operators = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        columns = []
        for row, own in enumerate(self._of_graphs.expected_parts(weights)):
            if self._vertex(row) >= 0:
                taken = operators[..., row, : len(OPERATORS), None]
                own = (taken * own.unsqueeze(-2)).flatten(-2)
            columns.append(F.pad(own, (0, self.max_parts - own.shape[-1])))
        return torch.stack(columns, dim=-2)

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        taken = np.arange(self.mask.numel()).reshape(self.mask.shape)
        return self._of_graphs.program(taken, self.max_parts)

    def size(self) -> int:
        """Every full graph, with all operators of its vertices."""
        return int(self._ways.sum())

    @cached_property
    def _ways(self) -> np.ndarray:
        """The number of architectures of each graph without its operators, (skeletons,)."""
        graphs = skeletons(self.options.vertices, self.options.max_edges)
        ways: np.ndarray = len(OPERATORS) ** (graphs.size >= 0).sum(axis=1)
        return ways

    def idle(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """The operators of vertices without edges."""
        reached = {t for row, (_, t) in enumerate(self.edges) if chosen[row] == PRESENT}
        return tuple(len(self.edges) + v - 1 for v in range(1, self.inner + 1) if v not in reached)

    def open_options(self, decided: Sequence[int]) -> tuple[int, ...]:
        """Allow an edge while what is reached can still be led to the output.

        That takes one edge for each vertex that has none out of it.
        """
        row, output = len(decided), self.inner + 1
        if self._vertex(row) >= 0:
            return (0,) if row in self.idle(decided) else tuple(range(len(OPERATORS)))
        taken = [self.edges[i] for i, option in enumerate(decided[: len(self.edges)]) if option]
        sources, targets = {s for s, _ in taken}, {0, *(t for _, t in taken)}
        source, target = self.edges[row]
        # The first vertices are used, and the last edge of a vertex to the output is needed.
        known = source in targets and (target == output or set(range(target)) <= targets)
        pending = (targets | {target}) - sources - {source, output}
        present = known and len(taken) + 1 + len(pending) <= self.options.max_edges
        needed = target == output and source in targets - sources
        absent = () if needed else (ABSENT,)
        return (*absent, PRESENT) if present else absent

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)
        edges = self._edges_of(architecture)
        output = self.inner + 1
        targets, sources = {t for _, t in edges}, {s for s, _ in edges}
        expected = f"1 to {self.options.max_edges} edges"
        if not 1 <= len(edges) <= self.options.max_edges:
            raise InputError(
                "wrong number of edges", where="choices", expected=expected, actual=len(edges)
            )
        inner = sorted(targets - {output})
        if inner != list(range(1, len(inner) + 1)) or sources != {0, *inner}:
            raise InputError(
                "an edge lies on no path from the input to the output, or a vertex is left out",
                where="choices",
                expected="edges of the first vertices, each with one into it and one out of it",
                actual=", ".join(f"{s}>{t}" for s, t in edges),
            )
        self.validate_idle(architecture, "the vertex has no edges, so it takes the first operator")

    def _edges_of(self, architecture: Architecture) -> list[tuple[int, int]]:
        """(source, target) of each edge that an architecture has."""
        options = [option for _, option in architecture]
        return [edge for edge, option in zip(self.edges, options, strict=False) if option == "edge"]

    def graph(self, architecture: Architecture) -> Graph:
        """The graph of an architecture, with only the vertices that it has."""
        self.validate(architecture)
        edges, output = self._edges_of(architecture), self.inner + 1
        last = len({target for _, target in edges})
        matrix = [[0] * (last + 1) for _ in range(last + 1)]
        for source, target in edges:
            matrix[source][last if target == output else target] = 1
        operators = tuple(architecture[f"vertex{v}"] for v in range(1, last))
        return Graph(tuple(map(tuple, matrix)), operators)

    def _of_graph(self, graph: Graph) -> Architecture | None:
        """The architecture of a graph's pruned form; None if it is not in the space."""
        small = graph.pruned()
        if small is None or len(small.matrix) > self.options.vertices:
            return None
        edges = small.edges
        if len(edges) > self.options.max_edges:
            return None
        last = len(small.matrix) - 1
        placed = {(s, t if t < last else self.inner + 1) for s, t in edges}
        chosen = {f"{s}>{t}": EDGE_OPTIONS[(s, t) in placed] for s, t in self.edges}
        missing = self.inner - len(small.operators)
        operators = [*small.operators, *[OPERATORS[0]] * missing]
        chosen |= {f"vertex{v}": name for v, name in enumerate(operators, start=1)}
        return self.architecture(chosen)

    def identity(self, architecture: Architecture) -> str:
        """The benchmark's hash, which isomorphic graphs share.

        The order of a graph's vertices decides which of them have one channel more where the
        output's channels cannot be divided evenly; the benchmark disregards that, too.
        """
        return self.graph(architecture).hash()

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Uniformly distributed over the full graphs, not over the classes of isomorphic ones."""
        taken = int(rng.choice(len(self._ways), p=self._ways / self._ways.sum()))
        operators = rng.integers(len(OPERATORS), size=self.inner)
        return self.architecture([*map(int, self._of_graphs.has[taken]), *operators.tolist()])

    def _frame(self, architecture: Architecture, rng: np.random.Generator) -> tuple[Any, list[str]]:
        """Matrix and operators in a frame of all vertices, of which missing ones are drawn."""
        matrix = np.zeros((self.inner + 2, self.inner + 2), dtype=int)
        for source, target in self._edges_of(architecture):
            matrix[source, target] = 1
        operators = [architecture[f"vertex{v}"] for v in range(1, self.inner + 1)]
        for row in self.idle(self.chosen(architecture)):
            operators[self._vertex(row)] = str(rng.choice(OPERATORS))
        return matrix, operators

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """A random neighbour, as in the benchmark's evolution (section 4.2).

        Each edge is added or taken away with the probability 1 / V and each operator drawn anew
        with 1 / (V - 2), until that makes another valid graph.
        """
        vertices = self.inner + 2
        for _ in range(MUTATIONS):
            matrix, operators = self._frame(architecture, rng)
            for source, target in self.edges:
                matrix[source, target] ^= int(rng.random() < 1 / vertices)
            for vertex in range(self.inner):
                if rng.random() < 1 / self.inner:
                    operators[vertex] = str(rng.choice(OPERATORS))
            found = self._of_graph(Graph(tuple(map(tuple, matrix.tolist())), tuple(operators)))
            if found is not None and found != architecture:
                return found
        return architecture

    def cross(
        self, first: Architecture, second: Architecture, rng: np.random.Generator
    ) -> Architecture:
        """A child that takes each edge and each operator from one of two architectures at random.

        What lies on no path is left out; if no valid graph is found, it is one of the two.
        """
        for _ in range(MUTATIONS):
            frames = [self._frame(parent, rng) for parent in (first, second)]
            taken = rng.integers(2, size=frames[0][0].shape)
            matrix = np.where(taken == 0, frames[0][0], frames[1][0])
            pairs = zip(frames[0][1], frames[1][1], strict=True)
            operators = tuple(pair[int(rng.integers(2))] for pair in pairs)
            found = self._of_graph(Graph(tuple(map(tuple, matrix.tolist())), operators))
            if found is not None:
                return found
        return (first, second)[int(rng.integers(2))]

    def to_genotype(self, architecture: Architecture) -> dict[str, Any]:
        """The benchmark's `module_adjacency` and `module_operations`, as `matrix` and `ops`."""
        graph = self.graph(architecture)
        return {
            "matrix": [list(row) for row in graph.matrix],
            "ops": [INPUT, *graph.operators, OUTPUT],
        }

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read the benchmark's matrix and operators, also of a graph that is not pruned.

        NASLib's notation is read too: the matrix row by row, and then a number for each vertex.
        """
        graph = Graph.read(genotype, "genotype")
        found = self._of_graph(graph)
        if found is None:
            raise InputError(
                "the graph is not in the space",
                where="genotype",
                expected=f"a path from the input to the output, and after pruning at most "
                f"{self.options.vertices} vertices and {self.options.max_edges} edges",
                actual=[list(row) for row in graph.matrix],
            )
        return found

    def _layers(self) -> Layers:
        return Layers(self.stem, self.stacks, self.pools, self.head)

    def supernet(self, partial_channels: int = 1) -> Supernet:
        of_size = [self.size_of_slot.index(size) for size in range(len(self.sizes))]
        frame = Frame(self.edges, slots(self.options.vertices), of_size, self._of_graphs.widths)
        return NasBench101Supernet(frame, self._layers(), self.graph)

    def network(self, architecture: Architecture) -> Network:
        names = [choice.name for choice in self.choices[len(self.edges) :]]
        return NasBench101Network(self.graph(architecture), self._layers(), names)
