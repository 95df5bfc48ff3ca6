"""Cells as they are told and drawn: which states there are, and which operator leads from one to
another. A stage of a layer-wise space, or a block of a transformer, is a cell whose states follow
each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hwnas.architecture import Architecture
from hwnas.reporting.html import milliseconds
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.choices import Choice

_EMBEDDING, _NODES, _SIZES = "embedding", "nodes", "sizes"
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
_STAGES = ("stage", "block", _EMBEDDING, _SIZES)


@dataclass(frozen=True)
class Edge:
    """An operator that was kept, from a state to a later one.

    Attributes:
        choice: the name of the choice.
        source, target: the states.
        operator: its name.
        latency_ms: predicted, summed over the network's cells; None if not known.
        runs: whether the deployed network runs it, or drops it as a dead end.
    """

    choice: str
    source: int
    target: int
    operator: str
    latency_ms: float | None
    runs: bool

    @property
    def cost(self) -> str:
        """The latency in words, empty when it is not known."""
        if not self.runs:
            return "does not run"
        return "" if self.latency_ms is None else milliseconds(self.latency_ms, 3)


@dataclass(frozen=True)
class Cell:
    """The kept edges of one type of cell.

    Attributes:
        cell_type: the part of the choices' names before the slash.
        inputs: how many states are given; they are the first.
        states: how many states there are with the inputs.
        edges: those that were kept.
    """

    cell_type: str
    inputs: int
    states: int
    edges: tuple[Edge, ...]

    @property
    def title(self) -> str:
        """The cell's name in words."""
        if self.is_stage:
            return re.sub(r"(\d+)", r" \1", self.cell_type.capitalize())
        return CELL_NAMES.get(self.cell_type, f"Cell {self.cell_type}")

    @property
    def is_stage(self) -> bool:
        """Whether it is a stage of layers, one behind the other."""
        return self.cell_type.startswith(_STAGES)

    @property
    def is_list(self) -> bool:
        """Whether it is sizes, which are no operators behind each other."""
        return self.cell_type == _SIZES

    @property
    def joins_nodes(self) -> bool:
        """Whether all nodes lead to the output, as in DARTS: its cells with two inputs join their
        channels, recurrent ones take their mean.
        """
        return self.inputs == 2 or self.cell_type == _NODES

    @property
    def output(self) -> str:
        """What the output of all nodes is, in words."""
        return f"the output {'is the mean of' if self.cell_type == _NODES else 'joins'} all nodes"

    @property
    def summary(self) -> str:
        """How many operators run, and what they take together."""
        running = [edge for edge in self.edges if edge.runs]
        known = [edge.latency_ms for edge in running if edge.latency_ms is not None]
        total = f", predicted to take {milliseconds(sum(known), 3)} together" if known else ""
        words = "operator runs" if len(running) == 1 else "operators run"
        return f"{len(running)} {words}{total}."

    def state_name(self, state: int) -> str:
        """What the space's paper calls a state."""
        if self.cell_type == _NODES:
            return str(state)
        if self.joins_nodes:
            return ("c_{k-2}", "c_{k-1}")[state] if state < 2 else str(state - 2)
        return {0: "input", self.states - 1: "output"}.get(state, str(state))

    def route(self, edge: Edge) -> str:
        """Where an edge leads, in words; of a size its choice."""
        if self.is_list:
            return edge.choice
        return self.route_between(edge.source, edge.target)

    def route_between(self, source: int, target: int) -> str:
        """Where an edge between two states leads, in words."""
        return f"{self.state_name(source)} to {self.state_name(target)}"


def read_cells(
    space: SearchSpace, architecture: Architecture, latencies_ms: Mapping[str, float]
) -> list[Cell]:
    """The cells that an architecture's choices `type/source>target` or `source>target` describe, or
    the stages that its choices `stage1/layer1`, or `embedding` and `block1/attention`, do. Of the
    nodes of a recurrent cell, `node1`, the option says which state is read, `tanh~0`. The sizes
    `resolution` and `stage1/depth` are listed.

    Empty for a space whose choices have other names.

    Args:
        space: of the architecture.
        architecture: to be drawn.
        latencies_ms: predicted latency of each choice.
    """
    runs = space.run_probability(space.one_hot(architecture).weights).sum(dim=1) > 0.5
    edges = _edges_of(space.choices)
    if edges is None:
        return []
    kept: dict[str, list[Edge]] = {cell_type: [] for cell_type, _, _ in edges}
    for row, ((cell_type, source, target), (name, option)) in enumerate(
        zip(edges, architecture, strict=True)
    ):
        if option == "none":
            continue
        operator = option
        if cell_type == _NODES:
            operator, _, state = option.partition("~")
            source = int(state)
        latency_ms = latencies_ms.get(name)
        kept[cell_type].append(Edge(name, source, target, operator, latency_ms, bool(runs[row])))
    return [
        replace(cell, edges=tuple(kept[cell_type])) for cell_type, cell in _empty(edges).items()
    ]


def choice_routes(choices: Sequence[Choice]) -> dict[str, str]:
    """Where the edges that choices decide on lead, in words, by the choices' names.

    Empty where `read_cells` is, and for nodes whose option says it.
    """
    edges = _edges_of(choices)
    if edges is None or any(cell_type in (_NODES, _SIZES) for cell_type, _, _ in edges):
        return {}
    cells = _empty(edges)
    return {
        choice.name: cells[cell_type].route_between(source, target)
        for choice, (cell_type, source, target) in zip(choices, edges, strict=True)
    }


def _edges_of(choices: Sequence[Choice]) -> list[tuple[str, int, int]] | None:
    """Cell type, source and target of each choice's edge; None when a name says something else."""
    edges = [_place(choice.name) for choice in choices]
    return None if None in edges else [edge for edge in edges if edge is not None]


def _empty(edges: Sequence[tuple[str, int, int]]) -> dict[str, Cell]:
    """The cells without what they keep, by type."""
    targets: dict[str, list[int]] = {}
    for cell_type, _, target in edges:
        targets.setdefault(cell_type, []).append(target)
    return {
        cell_type: Cell(cell_type, inputs=min(found), states=1 + max(found), edges=())
        for cell_type, found in targets.items()
    }


def _place(choice: str) -> tuple[str, int, int] | None:
    """Cell type, source and target that the name of a choice states; None if it states none."""
    if layer := _LAYER_NAME.fullmatch(choice):
        return layer[1], int(layer[2]) - 1, int(layer[2])
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
