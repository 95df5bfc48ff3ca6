"""Cells, supernet and networks of NAS-Bench-101 (Ying et al., ICML 2019, arXiv 1902.09635)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.elastic_block import batch_norm
from hwnas.ops import build
from hwnas.spaces.cells import drop_path
from hwnas.spaces.nasbench101_graphs import OPERATORS, Graph, slot_channels
from hwnas.spaces.networks import Network
from hwnas.spaces.sharing import SharedSupernet

PRESENT = 1
"""The option of an edge that the graph has."""


@dataclass(frozen=True)
class Cell:
    """The sizes of one cell of the stack."""

    c_in: int
    channels: int
    height: int
    width: int

    def projection(self, channels: int) -> OpSpec:
        """What brings the cell's input to the channels of a vertex."""
        return OpSpec("conv1x1-bn-relu", self.c_in, channels, self.height, self.width)

    def operator(self, name: str, channels: int) -> OpSpec:
        """The operator of a vertex."""
        name = "max_pool_3x3" if name == "maxpool3x3" else name
        return OpSpec(name, channels, channels, self.height, self.width)


@dataclass(frozen=True)
class Layers:
    """What is around the cells: the stem, the pool before each stack but the first, the head."""

    stem: OpSpec
    stacks: Sequence[Sequence[Cell]]
    pools: Sequence[OpSpec]
    head: OpSpec

    @property
    def cells(self) -> list[Cell]:
        """The cells of all stacks."""
        return [cell for stack in self.stacks for cell in stack]

    def pool_before(self) -> dict[int, int]:
        """The number of the pool before each cell that has one."""
        length = len(self.stacks[0])
        return {length * (number + 1): number for number in range(len(self.pools))}


@dataclass(frozen=True)
class Widths:
    """How wide the vertices are in a mixture.

    Attributes:
        sizes: (inner vertices, sizes), the probability that a vertex has each size.
        slots: (inner vertices, slots), the probability that a vertex has each place in the
            concatenation to the output.
        possible_sizes: for each inner vertex the sizes whose probability is not 0.
        possible_slots: the same for its slots.
    """

    sizes: Tensor
    slots: Tensor
    possible_sizes: Sequence[Sequence[int]]
    possible_slots: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Frame:
    """What all cells of a supernet have in common.

    Attributes:
        edges: (source, target) of each edge, the first rows of a mixture.
        slots: (joined, rank) of each slot.
        slots_of_size: for each size a slot whose vertex has it.
        widths: of a mixture.
    """

    edges: Sequence[tuple[int, int]]
    slots: Sequence[tuple[int, int]]
    slots_of_size: Sequence[int]
    widths: Callable[[Mixture], Widths]

    @property
    def output(self) -> int:
        """The vertex that is the output."""
        return self.edges[-1][1]

    def rows_into(self, vertex: int, mixture: Mixture) -> list[tuple[int, int]]:
        """The row and the source of each edge into a vertex that is to be computed."""
        return [
            (row, source)
            for row, (source, target) in enumerate(self.edges)
            if target == vertex and (mixture.active is None or PRESENT in mixture.active[row])
        ]


class SupernetCell(nn.Module):
    """A cell with all edges and operators, each as wide as the cell.

    A vertex of a narrower graph uses the first channels of its operator. In a mixture, each channel
    of its input is weighted by the probability that the vertex has it, and each place of the
    vertex in the output by the probability of that place.
    """

    below: Tensor

    def __init__(self, frame: Frame, cell: Cell) -> None:
        super().__init__()
        self.frame = frame
        self.channels = cell.channels
        self.projections = nn.ModuleDict(
            {str(v): build(cell.projection(cell.channels)) for v in range(1, frame.output + 1)}
        )
        self.operators = nn.ModuleDict(
            {
                str(v): nn.ModuleList(
                    build(cell.operator(name, cell.channels)) for name in OPERATORS
                )
                for v in range(1, frame.output)
            }
        )
        self.size_channels = [
            slot_channels(cell.channels, *frame.slots[slot]) for slot in frame.slots_of_size
        ]
        below = torch.arange(cell.channels) < torch.tensor(self.size_channels)[:, None]
        self.register_buffer("below", below, persistent=False)

    def forward(self, x: Tensor, mixture: Mixture, widths: Widths) -> Tensor:
        """Compute the cell's output, (N, c_in, H, W) to (N, channels, H, W)."""
        weights = mixture.weights.to(x.dtype)
        states = {0: x}
        for vertex in range(1, self.frame.output):
            possible = widths.possible_sizes[vertex - 1]
            if possible:
                channels = max(self.size_channels[size] for size in possible)
                given = self._sum(states, vertex, channels, mixture, weights)
                mask = widths.sizes[vertex - 1].to(x.dtype) @ self.below[:, :channels].to(x.dtype)
                states[vertex] = self._operate(vertex, mask[:, None, None] * given, mixture)
        return self._join(states, mixture, widths)

    def _sum(
        self,
        states: dict[int, Tensor],
        vertex: int,
        channels: int,
        mixture: Mixture,
        weights: Tensor,
    ) -> Tensor:
        """The weighted sum of the states before a vertex, each cut to its channels."""
        n, _, height, width = states[0].shape
        total = states[0].new_zeros(n, channels, height, width)
        for row, source in self.frame.rows_into(vertex, mixture):
            if source == 0:
                y = narrow(self.projections[str(vertex)], states[0], channels)
            elif source in states:
                y = states[source][:, :channels]
                y = F.pad(y, (0, 0, 0, 0, 0, channels - y.shape[1]))
            else:
                continue
            total = total + weights[row, PRESENT] * y
        return total

    def _operate(self, vertex: int, x: Tensor, mixture: Mixture) -> Tensor:
        """The weighted sum of the operators of a vertex."""
        row = len(self.frame.edges) + vertex - 1
        active = mixture.active_options(row)
        modules = self.operators[str(vertex)]
        assert isinstance(modules, nn.ModuleList)
        results = [
            mixture.weights[row, option].to(x.dtype) * narrow(modules[option], x, x.shape[1])
            for option in (range(len(OPERATORS)) if active is None else active)
        ]
        return torch.stack(results).sum(dim=0)

    def _join(self, states: dict[int, Tensor], mixture: Mixture, widths: Widths) -> Tensor:
        """The concatenation to the output, and the projected input."""
        x, frame = states[0], self.frame
        out = x.new_zeros(x.shape[0], self.channels, *x.shape[2:])
        for vertex, possible in enumerate(widths.possible_slots, start=1):
            for slot in possible:
                joined, rank = frame.slots[slot]
                before = sum(slot_channels(self.channels, joined, r) for r in range(rank))
                own = slot_channels(self.channels, joined, rank)
                behind = self.channels - before - own
                y = F.pad(states[vertex][:, :own], (0, 0, 0, 0, before, behind))
                out = out + widths.slots[vertex - 1, slot].to(x.dtype) * y
        for row, source in frame.rows_into(frame.output, mixture):
            if source == 0:
                y = narrow(self.projections[str(frame.output)], x, self.channels)
                out = out + mixture.weights[row, PRESENT].to(x.dtype) * y
        return out

    @torch.no_grad()
    def weights_of(self, graph: Graph) -> dict[str, Tensor]:
        """The state dict of the cell of one graph."""
        state: dict[str, Tensor] = {}
        wide = dict(enumerate(graph.channels(self.channels), start=1))
        last = len(graph.matrix) - 1
        for vertex in range(1, last + 1):
            if graph.matrix[0][vertex]:
                # The output of a small graph is its last vertex, and that of the frame another.
                own = self.projections[str(vertex if vertex < last else self.frame.output)]
                for name, value in cut(own, None, wide.get(vertex, self.channels)).items():
                    state[f"projections.{vertex}.{name}"] = value
        for vertex, name in enumerate(graph.operators, start=1):
            modules = self.operators[str(vertex)]
            assert isinstance(modules, nn.ModuleList)
            own, channels = modules[OPERATORS.index(name)], wide[vertex]
            for key, value in cut(own, channels, channels).items():
                state[f"operators.{vertex}.{key}"] = value
        return state


def narrow(module: nn.Module, x: Tensor, channels: int) -> Tensor:
    """The first channels of an operator's output, computed from inputs with its first channels."""
    if isinstance(module, nn.MaxPool2d):
        y: Tensor = module(x)
        return y
    conv, bn = module.get_submodule("conv"), module.get_submodule("bn")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    assert not isinstance(conv.padding, str)
    y = F.conv2d(x, conv.weight[:channels, : x.shape[1]], padding=conv.padding)
    return F.relu(batch_norm(bn, y))


def cut(module: nn.Module, c_in: int | None, channels: int) -> dict[str, Tensor]:
    """The state dict of an operator's first channels; `c_in` of its inputs, None for all."""
    return {
        name: value[:channels, :c_in]
        if value.ndim > 1
        else value[:channels]
        if value.ndim
        else value
        for name, value in module.state_dict().items()
    }


class NasBench101Supernet(SharedSupernet):
    """The stacks of cells with all candidates; all cells share the mixture.

    Args:
        frame: what the cells have in common.
        layers: what is around them.
        graph_of: the graph of an architecture.
    """

    def __init__(
        self, frame: Frame, layers: Layers, graph_of: Callable[[Architecture], Graph]
    ) -> None:
        super().__init__()
        self.frame, self.graph_of = frame, graph_of
        self.pool_before = layers.pool_before()
        self.stem = build(layers.stem)
        self.cells = nn.ModuleList(SupernetCell(frame, cell) for cell in layers.cells)
        self.pools = nn.ModuleList(map(build, layers.pools))
        self.head = build(layers.head)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        widths = self.frame.widths(mixture)
        x = self.stem(x)
        for place, cell in enumerate(self.cells):
            if place in self.pool_before:
                x = self.pools[self.pool_before[place]](x)
            x = cell(x, mixture, widths)
        outputs: Tensor = self.head(x)
        return outputs

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        graph = self.graph_of(architecture)
        state = {
            f"{part}.{name}": value
            for part in ("stem", "head")
            for name, value in getattr(self, part).state_dict().items()
        }
        for place, cell in enumerate(self.cells):
            assert isinstance(cell, SupernetCell)
            for name, value in cell.weights_of(graph).items():
                state[f"cells.{place}.{name}"] = value
        return state


class NetworkCell(nn.Module):
    """The cell of one graph."""

    def __init__(self, graph: Graph, cell: Cell) -> None:
        super().__init__()
        self.matrix = graph.matrix
        self.wide = [cell.c_in, *graph.channels(cell.channels), cell.channels]
        self.projections = nn.ModuleDict(
            {
                str(vertex): build(cell.projection(channels))
                for vertex, channels in enumerate(self.wide)
                if graph.matrix[0][vertex]
            }
        )
        self.operators = nn.ModuleDict(
            {
                str(vertex): build(cell.operator(name, self.wide[vertex]))
                for vertex, name in enumerate(graph.operators, start=1)
            }
        )

    def forward(self, x: Tensor, drop_probability: float) -> Tensor:
        """Compute the cell's output, (N, c_in, H, W) to (N, channels, H, W)."""
        states, last = [x], len(self.matrix) - 1
        for vertex in range(1, last):
            channels = self.wide[vertex]
            given = [states[s][:, :channels] for s in range(1, vertex) if self.matrix[s][vertex]]
            if self.matrix[0][vertex]:
                given.append(self.projections[str(vertex)](x))
            y = self.operators[str(vertex)](_sum(given))
            if self.training and drop_probability > 0:
                y = drop_path(y, drop_probability)
            states.append(y)
        joined = [states[s] for s in range(1, last) if self.matrix[s][last]]
        outputs = [torch.cat(joined, dim=1)] if len(joined) > 1 else joined
        if self.matrix[0][last]:
            outputs.append(self.projections[str(last)](x))
        return _sum(outputs)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total, *others = tensors
    for other in others:
        total = total + other
    return total


class NasBench101Network(Network):
    """The stacks of cells of one graph.

    Args:
        graph: of all cells.
        layers: what is around them.
        names: the choices of the inner vertices' operators.
    """

    def __init__(self, graph: Graph, layers: Layers, names: Sequence[str]) -> None:
        super().__init__()
        self.pool_before = layers.pool_before()
        self.stem = build(layers.stem)
        self.cells = nn.ModuleList(NetworkCell(graph, cell) for cell in layers.cells)
        self.pools = nn.ModuleList(map(build, layers.pools))
        self.head = build(layers.head)
        self.choice_modules = {
            f"cells.{place}.operators.{vertex}": names[vertex - 1]
            for place in range(len(self.cells))
            for vertex in range(1, len(graph.operators) + 1)
        }
        last = len(graph.matrix) - 1
        for place in range(len(self.cells)):
            for vertex in range(1, last):
                if graph.matrix[0][vertex]:
                    name = f"0>{vertex}"
                    self.choice_modules[f"cells.{place}.projections.{vertex}"] = name

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for place, cell in enumerate(self.cells):
            if place in self.pool_before:
                x = self.pools[self.pool_before[place]](x)
            x = cell(x, self.drop_path)
        outputs: Tensor = self.head(x)
        return outputs
