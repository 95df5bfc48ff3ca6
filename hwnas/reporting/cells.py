"""Cells of an architecture as graphs: nodes, and the selected operators on the edges between them.

A stage of layers or a block of a transformer is represented as a cell whose nodes form a chain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hwnas.architecture import Architecture
from hwnas.reporting.formatting import milliseconds
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.choices import Choice

_EMBEDDING, _NODES, _SIZES = "embedding", "nodes", "sizes"
"""Cell types that stand for choices whose names have no cell type before a slash."""
CELL_NAMES = {
    "normal": "Normal cell",
    "reduce": "Reduction cell",
    _NODES: "Recurrent cell",
    "": "Cell",
}

SKIP = "skip_connect"

_EDGE_NAME = re.compile(r"(?:([^/>]+)/)?(\d{1,3})>(\d{1,3})")
_LAYER_NAME = re.compile(r"(stage\d{1,3})/layer(\d{1,3})")
_HALF_NAME = re.compile(r"(block\d{1,3})/(attention|mlp)")
_NODE_NAME = re.compile(r"node(\d{1,3})")
_DEPTH_NAME = re.compile(r"stage(\d{1,3})/depth")
_VERTEX_NAME = re.compile(r"vertex(\d{1,3})")
_HALF_OF_BLOCK = re.compile(r"(normal|reduce)/(\d{1,3})([ab])/(input|operator)")
_STAGES = ("stage", "block", _EMBEDDING, _SIZES)


@dataclass(frozen=True)
class Edge:
    """A selected operator that leads from a node to a later one.

    Attributes:
        choice: name of the choice.
        source, target: numbers of the nodes.
        operator: name of the operator.
        latency_ms: predicted latency, summed over all cells of the network; None if not known.
        runs: False if the exported network leaves the operator out because its result is unused
            (dead-code elimination).
    """

    choice: str
    source: int
    target: int
    operator: str
    latency_ms: float | None
    runs: bool

    @property
    def cost(self) -> str:
        """The latency with its unit (empty if not known), or that the operator does not run."""
        if not self.runs:
            return "does not run"
        return "" if self.latency_ms is None else milliseconds(self.latency_ms, 3)


@dataclass(frozen=True)
class Cell:
    """The graph of one type of cell.

    Attributes:
        cell_type: the part of the choices' names before the slash.
        inputs: number of input nodes, which come first.
        nodes: number of nodes including the inputs.
        edges: the selected operators.
        has_vertices: whether operators are at the vertices of a graph, as in NAS-Bench-101. Then
            there are two nodes for a vertex, and its operator leads from the first, the sum of what
            the vertex reads, to the second.
    """

    cell_type: str
    inputs: int
    nodes: int
    edges: tuple[Edge, ...]
    has_vertices: bool = False

    @property
    def title(self) -> str:
        """The name of the cell, for example `Normal cell` or `Stage 1`."""
        if self.is_stage:
            return _spaced(self.cell_type)
        return CELL_NAMES.get(self.cell_type, f"Cell {self.cell_type}")

    @property
    def is_stage(self) -> bool:
        """Whether the edges form a chain of layers (or a list of sizes, see `is_list`)."""
        return self.cell_type.startswith(_STAGES)

    @property
    def is_list(self) -> bool:
        """Whether the edges stand for sizes (resolution, depths) rather than operators."""
        return self.cell_type == _SIZES

    @property
    def joins_nodes(self) -> bool:
        """Whether the output combines all nodes that are not inputs, as in DARTS.

        Convolutional cells with two inputs concatenate their nodes; recurrent cells average them.
        """
        return self.inputs == 2 or self.cell_type == _NODES

    @property
    def output(self) -> str:
        """How the output combines the nodes, in words."""
        if self.has_blocks:
            return "the output concatenates the nodes that no other reads"
        combined = "averages" if self.cell_type == _NODES else "concatenates"
        return f"the output {combined} all intermediate nodes"

    @property
    def has_blocks(self) -> bool:
        """Whether each node adds two operators of any earlier nodes, as in NASNet."""
        return any(_HALF_OF_BLOCK.fullmatch(edge.choice) for edge in self.edges)

    @property
    def summary(self) -> str:
        """The number of operators that run, and their predicted latency in total."""
        running = [edge for edge in self.edges if edge.runs]
        known = [edge.latency_ms for edge in running if edge.latency_ms is not None]
        total = f", predicted to take {milliseconds(sum(known), 3)} in total" if known else ""
        if self.is_list:
            return f"{len(running)} sizes{total}."
        words = "operator runs" if len(running) == 1 else "operators run"
        return f"{len(running)} {words}{total}."

    def node_name(self, node: int) -> str:
        """The name of a node in the paper that introduced the search space."""
        if self.cell_type == _NODES:
            return str(node)
        if self.joins_nodes:
            return ("c_{k-2}", "c_{k-1}")[node] if node < 2 else str(node - 2)
        if self.has_vertices and 0 < node < self.nodes - 1:
            return f"sum {(node + 1) // 2}" if node % 2 else str(node // 2)
        return {0: "input", self.nodes - 1: "output"}.get(node, str(node))

    def name_of(self, edge: Edge) -> str:
        """The name of the choice that an edge belongs to, see `choice_names`."""
        return self.name_between(edge.choice, edge.source, edge.target)

    def name_between(self, choice: str, source: int, target: int) -> str:
        """The name of a choice whose operator leads from one node to another."""
        if self.is_stage or self.cell_type == _NODES:
            return _spaced(choice)
        if _VERTEX_NAME.fullmatch(choice):
            return f"{self.title}, {choice.replace('vertex', 'vertex ')}"
        if half := _HALF_OF_BLOCK.fullmatch(choice):
            return f"{self.title}, node {self.node_name(target)}{half[3]}, {half[4]}"
        return f"{self.title}, {self.node_name(source)} to {self.node_name(target)}"

    def describe(self, edge: Edge) -> str:
        """An edge in words: its name, its operator and its cost."""
        reads = f" of node {edge.source}" if self.cell_type == _NODES else ""
        if self.has_blocks:
            reads = f" of {self.node_name(edge.source)}"
        return f"{self.name_of(edge)}: {edge.operator}{reads} {edge.cost}".rstrip()


def read_cells(
    space: SearchSpace, architecture: Architecture, latencies_ms: Mapping[str, float]
) -> list[Cell]:
    """Read the cells of an architecture from the names of its choices.

    The names state which nodes a choice connects:

    - `type/source>target` and `source>target`: an edge of a cell;
    - `stage1/layer1`: a layer of a stage;
    - `embedding`, `block1/attention`, `block1/mlp`: parts of a transformer;
    - `normal/2a/input`, `normal/2a/operator`: a half of a block, the node that it reads, and how;
    - `vertex1`: the operator of a vertex of a graph, whose edges are named `0>1`;
    - `node1`: a node of a recurrent cell, whose option names the node that it reads: `tanh~0`;
    - `resolution`, `stage1/depth`: sizes.

    Args:
        space: search space of the architecture.
        architecture: the architecture.
        latencies_ms: predicted latency of each choice, summed over the network.

    Returns:
        The cells, or nothing for a space whose choices have other names.
    """
    runs = space.run_probability(space.one_hot(architecture).weights).sum(dim=1) > 0.5
    edges = _parse_names(space.choices)
    if edges is None:
        return []
    kept: dict[str, list[Edge]] = {cell_type: [] for cell_type, _, _ in edges}
    for row, ((cell_type, source, target), (name, option)) in enumerate(
        zip(edges, architecture, strict=True)
    ):
        if option == "none":
            continue
        operator = option
        if _VERTEX_NAME.fullmatch(name) and not runs[row]:
            continue
        if half := _HALF_OF_BLOCK.fullmatch(name):
            if half[4] == "input":
                continue
            source = int(architecture[f"{half[1]}/{half[2]}{half[3]}/input"])
        if cell_type == _NODES:
            operator, _, node = option.partition("~")
            source = int(node)
        latency_ms = latencies_ms.get(name)
        kept[cell_type].append(Edge(name, source, target, operator, latency_ms, bool(runs[row])))
    return [
        replace(cell, edges=tuple(kept[cell_type]))
        for cell_type, cell in _empty_cells(edges, space.choices).items()
    ]


def choice_names(choices: Sequence[Choice]) -> dict[str, str]:
    """The readable name of each choice, by its name in the files.

    All parts of a report name choices in this way:

    - `normal/0>2` becomes `Normal cell, c_{k-2} to 0`, with the papers' names of the nodes;
    - `stage1/layer2` becomes `Stage 1, layer 2`, and `block1/mlp` becomes `Block 1, mlp`;
    - `node3` becomes `Node 3`, and `vertex3` becomes `Cell, vertex 3`.

    Names of another form stay as they are.
    """
    edges = _parse_names(choices)
    if edges is None:
        return {choice.name: choice.name for choice in choices}
    cells = _empty_cells(edges, choices)
    return {
        choice.name: cells[cell_type].name_between(choice.name, source, target)
        for choice, (cell_type, source, target) in zip(choices, edges, strict=True)
    }


def cell_titles(choices: Sequence[Choice]) -> dict[str, str]:
    """The title of the cell, stage or block of each choice, by its name in the files."""
    edges = _parse_names(choices)
    if edges is None:
        return {choice.name: choice.name.rpartition("/")[0] or "Choices" for choice in choices}
    cells = _empty_cells(edges, choices)
    return {
        choice.name: cells[cell_type].title
        for choice, (cell_type, _, _) in zip(choices, edges, strict=True)
    }


def _spaced(name: str) -> str:
    """A name with spaces before its numbers and commas in place of slashes, capitalised."""
    spaced = re.sub(r"(\d+)", r" \1", name.replace("/", ", "))
    return spaced[:1].upper() + spaced[1:]


def _parse_names(choices: Sequence[Choice]) -> list[tuple[str, int, int]] | None:
    """Cell type, source and target of each choice; None if a name has an unknown form."""
    vertices = {c.name for c in choices if _VERTEX_NAME.fullmatch(c.name)}
    edges = [_parse_name(choice.name) for choice in choices if choice.name not in vertices]
    if vertices and None not in edges:
        # A vertex is two nodes: what it reads leads to the first, and what reads it comes from the
        # second.
        doubled = [(kind, 2 * s, 2 * t - 1) for kind, s, t in (e for e in edges if e is not None)]
        return doubled + [("", 2 * n - 1, 2 * n) for n in range(1, len(vertices) + 1)]
    return None if None in edges else [edge for edge in edges if edge is not None]


def _empty_cells(
    edges: Sequence[tuple[str, int, int]], choices: Sequence[Choice]
) -> dict[str, Cell]:
    """The cells without their edges, by type."""
    has_vertices = any(_VERTEX_NAME.fullmatch(choice.name) for choice in choices)
    targets: dict[str, list[int]] = {}
    for cell_type, _, target in edges:
        targets.setdefault(cell_type, []).append(target)
    return {
        cell_type: Cell(
            cell_type, inputs=min(found), nodes=1 + max(found), edges=(), has_vertices=has_vertices
        )
        for cell_type, found in targets.items()
    }


def _parse_name(choice: str) -> tuple[str, int, int] | None:
    """Cell type, source and target from the name of a choice; None if it has an unknown form."""
    if layer := _LAYER_NAME.fullmatch(choice):
        return layer[1], int(layer[2]) - 1, int(layer[2])
    if block := _HALF_OF_BLOCK.fullmatch(choice):
        return block[1], int(block[2]) - 1, int(block[2])
    if half := _HALF_NAME.fullmatch(choice):
        return (half[1], 0, 1) if half[2] == "attention" else (half[1], 1, 2)
    if choice == _EMBEDDING:
        return choice, 0, 1
    if choice == "resolution":
        return _SIZES, 0, 1
    if depth := _DEPTH_NAME.fullmatch(choice):
        return _SIZES, int(depth[1]), int(depth[1]) + 1
    if node := _NODE_NAME.fullmatch(choice):
        return _NODES, int(node[1]) - 1, int(node[1])
    edge = _EDGE_NAME.fullmatch(choice)
    if edge is None or int(edge[2]) >= int(edge[3]):
        return None
    return edge[1] or "", int(edge[2]), int(edge[3])
