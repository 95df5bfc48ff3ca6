"""A cell of mixed operators as data: its convolutions, batch norms and weighted terms.

A cell is a small graph. Its states are its inputs and its nodes; every edge applies its candidates
to one state and adds their weighted sum to a later one. `CellPlan.of` groups the work by source
state, since all edges out of a state share its ReLU and its pools and can be run together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from hwnas.kernels.reference import Candidate
from hwnas.kernels.structure import EdgeStructure, read_structure, write_structure

POOLS = {"max_pool_3x3": 0, "avg_pool_3x3": 1}
SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_5x5": 5}
DILATED = {"dil_conv_3x3": 3, "dil_conv_5x5": 5}
DENSE = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
FUSED = frozenset({*POOLS, *SEPARABLE, *DILATED, *DENSE, "skip_connect"})
"""Operators that a plan can describe; a cell with any other operator runs in plain PyTorch."""


class Edge(NamedTuple):
    """One edge of a cell.

    Attributes:
        source: number of the state that is read; the cell's inputs come first, then its nodes.
        target: number of the node that the result is added to.
        candidates: the candidate operators.
        stride: 1 or 2.
        active: indices of the candidates to evaluate, None for all.
    """

    source: int
    target: int
    candidates: Sequence[Candidate]
    stride: int = 1
    active: Sequence[int] | None = None

    def chosen(self) -> Iterator[tuple[int, Candidate]]:
        """Index and candidate of all active candidates except `none`."""
        indices = range(len(self.candidates)) if self.active is None else self.active
        for k in indices:
            if self.candidates[k].name != "none":
                yield k, self.candidates[k]


ChosenTensors = tuple[Candidate, tuple[str, ...], tuple[str, ...]]
"""An active candidate, the names of its parameters and the prefixes of its norms."""


class Norm(NamedTuple):
    """A batch norm, as positions of its tensors in the cell's lists.

    Attributes:
        position: position of its running statistics.
        gamma: position of its scale among the parameters, None if it has none.
        beta: position of its shift among the parameters, None if it has none.
    """

    position: int
    gamma: int | None
    beta: int | None


class Convolution(NamedTuple):
    """ReLU, convolution, batch norm.

    Attributes:
        kind: `separable` (depthwise, then pointwise), `dense`, or `factorized` (FactorizedReduce).
        kernel: side of the spatial kernel.
        dilation: of the spatial kernel.
        stride: of the spatial kernel.
        weights: positions of its weight tensors among the parameters.
        norm: the batch norm of its output.
        reads: index of the first-stage convolution that it reads, None for the source state.
    """

    kind: str
    kernel: int
    dilation: int
    stride: int
    weights: tuple[int, ...]
    norm: Norm
    reads: int | None = None


@dataclass(frozen=True)
class Term:
    """One summand of a node: the mixing weight of a candidate times its output.

    Attributes:
        edge: index of the edge.
        option: index of the candidate on the edge.
        target: number of the node that the summand is added to.
        value: the tensor that is weighted: `identity`, `pool`, or the output of a convolution of
            the `first` or `second` stage.
        position: which pool (0 maximum, 1 mean), or the index of the convolution in its stage.
        norm: the batch norm of a pool; None for other values (see `Convolution.norm`).
    """

    edge: int
    option: int
    target: int
    value: str
    position: int
    norm: Norm | None = None


@dataclass(frozen=True)
class Group:
    """All edges that read the same state with the same stride.

    Attributes:
        source: number of the state.
        stride: 1 or 2.
        first: convolutions that read the state.
        second: convolutions that read the outputs of `first`.
        terms: the summands of all edges.
    """

    source: int
    stride: int
    first: tuple[Convolution, ...]
    second: tuple[Convolution, ...]
    terms: tuple[Term, ...]

    @cached_property
    def uses_pools(self) -> bool:
        """Whether any term is a pool."""
        return any(term.value == "pool" for term in self.terms)

    @cached_property
    def pooled(self) -> tuple[Term, ...]:
        """The terms that are a pool followed by a batch norm."""
        return tuple(t for t in self.terms if t.value == "pool" and t.norm is not None)

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """All batch norms, in the order of the rows of the group's table.

        First-stage convolutions come first, then pools, then second-stage convolutions. The table
        has one more row at its end, that of the identity.
        """
        pools = (t.norm for t in self.pooled if t.norm is not None)
        return (*(c.norm for c in self.first), *pools, *(c.norm for c in self.second))

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """For each term, the row of the group's table that normalises it."""
        return tuple(self._row(term) for term in self.terms)

    def _row(self, term: Term) -> int:
        if term.value == "first":
            return term.position
        if term.value == "second":
            return len(self.first) + len(self.pooled) + term.position
        return len(self.norms) if term.norm is None else len(self.first) + self.pooled.index(term)


@dataclass(frozen=True)
class CellPlan:
    """What a cell computes, grouped by source state.

    Attributes:
        inputs: number of input states.
        nodes: number of nodes.
        groups: the edges, in the order of their source.
        origins: for each node the source and the stride of one edge into it, which give its size.
        parameters: (candidate, name) of each parameter that positions index.
        norms: number of batch norms that positions index.
    """

    inputs: int
    nodes: int
    groups: tuple[Group, ...]
    origins: tuple[tuple[int, int], ...]
    parameters: tuple[tuple[str, str], ...]
    norms: int

    @cached_property
    def sources(self) -> frozenset[int]:
        """Numbers of the states that edges read."""
        return frozenset(group.source for group in self.groups)

    def sizes(self, inputs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """(height, width) of every state, given those of the inputs."""
        sizes = list(inputs)
        for source, stride in self.origins:
            height, width = sizes[source]
            sizes.append((-(-height // stride), -(-width // stride)))
        return sizes

    @staticmethod
    def describe(inputs: int, edges: Sequence[Edge]) -> str:
        """The structure of a cell as a string, an argument that PyTorch operators can take."""
        structures = []
        for edge in edges:
            chosen = [(k, c.name, _normalised(c), _affine(c)) for k, c in edge.chosen()]
            structures.append(EdgeStructure(edge.source, edge.target, edge.stride, chosen))
        return write_structure(inputs, structures)

    @staticmethod
    @lru_cache(maxsize=512)
    def of(description: str) -> CellPlan:
        """The plan of a cell that `describe` describes."""
        inputs, rows = read_structure(description)
        builder = _Builder(rows)
        sources = sorted({(row.source, row.stride) for row in rows})
        groups = tuple(builder.group(source, stride) for source, stride in sources)
        origin = {row.target: (row.source, row.stride) for row in reversed(rows)}
        origins = tuple(origin[target] for target in sorted(origin))
        names = {(i, k): name for i, row in enumerate(rows) for k, name, _, _ in row.chosen}
        parameters = tuple((names[i, k], tensor) for i, k, tensor in builder.tensors)
        return CellPlan(inputs, len(origins), groups, origins, parameters, builder.norms)


def tensors_of(
    edges: Sequence[Edge],
) -> tuple[list[tuple[Candidate, str]], list[tuple[Candidate, str]]]:
    """(candidate, name) of every parameter, and (candidate, prefix) of every norm, in plan order.

    The order is by edge, then by candidate. The positions in a `CellPlan` refer to it.
    """
    found = list(chosen_tensors(edges))
    return (
        [(candidate, name) for candidate, names, _ in found for name in names],
        [(candidate, prefix) for candidate, _, prefixes in found for prefix in prefixes],
    )


def chosen_tensors(edges: Sequence[Edge]) -> Iterator[ChosenTensors]:
    """The tensors of each active candidate, in plan order."""
    for edge in edges:
        for _, candidate in edge.chosen():
            yield (
                candidate,
                parameter_names(candidate.name, edge.stride, _affine(candidate)),
                norm_prefixes(candidate.name, edge.stride, _normalised(candidate)),
            )


def norm_prefixes(name: str, stride: int, normalised: bool) -> tuple[str, ...]:
    """Prefixes of the names of a candidate's batch norms, for example `bn1`."""
    if name in SEPARABLE:
        return ("bn1", "bn2")
    if name in POOLS:
        return ("bn",) if normalised else ()
    if name == "skip_connect" and stride == 1:
        return ()
    return ("bn",)


def parameter_names(name: str, stride: int, affine: bool) -> tuple[str, ...]:
    """Names of a candidate's parameters: weights, then scale and shift of each norm."""
    if name in SEPARABLE:
        weights: tuple[str, ...] = (
            "depthwise1.weight", "pointwise1.weight", "depthwise2.weight", "pointwise2.weight",
        )  # fmt: skip
    elif name in DILATED:
        weights = ("depthwise.weight", "pointwise.weight")
    elif name in DENSE:
        weights = ("conv.weight",)
    elif name == "skip_connect" and stride == 2:
        weights = ("conv1.weight", "conv2.weight")
    else:
        weights = ()
    if not affine:
        return weights
    scales = [f"{p}.{n}" for p in norm_prefixes(name, stride, True) for n in ("weight", "bias")]
    return (*weights, *scales)


def parameter_shape(candidate: str, parameter: str, channels: int) -> tuple[int, ...]:
    """The shape that the kernels expect of a candidate's parameter."""
    if parameter.startswith("bn"):
        return (channels,)
    if parameter.startswith("depthwise"):
        size = (SEPARABLE | DILATED)[candidate]
        return (channels, 1, size, size)
    if parameter == "conv.weight":
        return (channels, channels, DENSE[candidate], DENSE[candidate])
    out = {"conv1.weight": channels // 2, "conv2.weight": channels - channels // 2}
    return (out.get(parameter, channels), channels, 1, 1)


def sizes_of(inputs: Sequence[tuple[int, int]], edges: Sequence[Edge]) -> list[tuple[int, int]]:
    """(height, width) of every state, the inputs' first.

    Raises:
        ValueError: when edges into the same node produce different sizes.
    """
    sizes = list(inputs)
    for edge in sorted(edges, key=lambda edge: edge.target):
        height, width = sizes[edge.source]
        size = (-(-height // edge.stride), -(-width // edge.stride))
        if edge.target == len(sizes):
            sizes.append(size)
        elif sizes[edge.target] != size:
            raise ValueError(
                f"the edges that lead to node {edge.target} produce different sizes, "
                f"{sizes[edge.target]} and {size}"
            )
    return sizes


def _normalised(candidate: Candidate) -> bool:
    """Whether a candidate has a batch norm."""
    return "bn.running_mean" in candidate.tensors or "bn1.running_mean" in candidate.tensors


def _affine(candidate: Candidate) -> bool:
    """Whether a candidate's batch norms have scales and shifts."""
    return "bn.weight" in candidate.tensors or "bn1.weight" in candidate.tensors


class _Builder:
    """Numbers parameters and norms in plan order, then makes the groups.

    Args:
        rows: the cell's edges.
    """

    def __init__(self, rows: Sequence[EdgeStructure]) -> None:
        self.rows = rows
        self.tensors: dict[tuple[int, int, str], int] = {}
        self.norm_positions: dict[tuple[int, int, str], int] = {}
        for edge, (_, _, stride, chosen) in enumerate(rows):
            for k, name, normalised, affine in chosen:
                for tensor in parameter_names(name, stride, affine):
                    self.tensors[edge, k, tensor] = len(self.tensors)
                for prefix in norm_prefixes(name, stride, normalised):
                    self.norm_positions[edge, k, prefix] = len(self.norm_positions)
        self.norms = len(self.norm_positions)

    def norm(self, edge: int, k: int, prefix: str) -> Norm:
        """The batch norm of candidate k of an edge."""
        tensors = self.tensors
        gamma, beta = (tensors.get((edge, k, f"{prefix}.{n}")) for n in ("weight", "bias"))
        return Norm(self.norm_positions[edge, k, prefix], gamma, beta)

    def group(self, source: int, stride: int) -> Group:
        """All edges that read a state with a stride."""
        first: list[Convolution] = []
        second: list[Convolution] = []
        terms: list[Term] = []
        for edge, (origin, target, edge_stride, chosen) in enumerate(self.rows):
            if (origin, edge_stride) != (source, stride):
                continue
            for k, name, normalised, _ in chosen:
                value, position, norm = "identity", 0, None
                if name in POOLS:
                    value, position = "pool", POOLS[name]
                    norm = self.norm(edge, k, "bn") if normalised else None
                elif name in SEPARABLE:
                    size = SEPARABLE[name]
                    first.append(self.separable(edge, k, size, 1, stride, "1"))
                    second.append(self.separable(edge, k, size, 1, 1, "2", len(first) - 1))
                    value, position = "second", len(second) - 1
                elif name != "skip_connect" or stride == 2:
                    first.append(self.single(edge, k, name, stride))
                    value, position = "first", len(first) - 1
                terms.append(Term(edge, k, target, value, position, norm))
        return Group(source, stride, tuple(first), tuple(second), tuple(terms))

    def separable(
        self, edge: int, k: int, size: int, dilation: int, stride: int, stage: str,
        reads: int | None = None,
    ) -> Convolution:  # fmt: skip
        """One stage of a separable or dilated convolution; `stage` ends its tensors' names."""
        weights = tuple(
            self.tensors[edge, k, f"{part}{stage}.weight"] for part in ("depthwise", "pointwise")
        )
        norm = self.norm(edge, k, f"bn{stage}")
        return Convolution("separable", size, dilation, stride, weights, norm, reads)

    def single(self, edge: int, k: int, name: str, stride: int) -> Convolution:
        """The convolution of a candidate that has one stage."""
        if name in DILATED:
            return self.separable(edge, k, DILATED[name], 2, stride, "")
        norm = self.norm(edge, k, "bn")
        if name in DENSE:
            dense = (self.tensors[edge, k, "conv.weight"],)
            return Convolution("dense", DENSE[name], 1, stride, dense, norm)
        weights = tuple(self.tensors[edge, k, f"conv{i}.weight"] for i in (1, 2))
        return Convolution("factorized", 1, 1, stride, weights, norm)
