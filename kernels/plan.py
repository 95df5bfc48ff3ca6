"""What a cell of mixed operators computes, as data: its convolutions, norms and weighted terms.

A cell is a small graph: inputs and nodes are its states, and every edge adds the weighted sum of
its candidates, read from one state, to a later one. `CellPlan.of` sorts the work by source state,
since all edges out of a state share its ReLU and its pools and can be run together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from hwnas.kernels.reference import Candidate

POOLS = {"max_pool_3x3": 0, "avg_pool_3x3": 1}
SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_5x5": 5}
DILATED = {"dil_conv_3x3": 3, "dil_conv_5x5": 5}
DENSE = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
FUSED = frozenset({*POOLS, *SEPARABLE, *DILATED, *DENSE, "skip_connect"})
"""Operators that a plan can describe; a cell with any other runs in plain PyTorch."""


class Edge(NamedTuple):
    """One edge of a cell.

    Attributes:
        source, target: states; the cell's inputs are numbered first, then its nodes.
        candidates: the operators of the choice.
        stride: 1 or 2.
        active: indices of the candidates to evaluate, None for all.
    """

    source: int
    target: int
    candidates: Sequence[Candidate]
    stride: int = 1
    active: Sequence[int] | None = None

    def chosen(self) -> Iterator[tuple[int, Candidate]]:
        """Index and candidate of all active ones but `none`."""
        indices = range(len(self.candidates)) if self.active is None else self.active
        for k in indices:
            if self.candidates[k].name != "none":
                yield k, self.candidates[k]


@dataclass(frozen=True)
class Norm:
    """A batch norm: positions of its tensors in the cell's lists.

    Attributes:
        index: of its running statistics.
        gamma, beta: of scale and shift among the parameters, None without.
    """

    index: int
    gamma: int | None
    beta: int | None


@dataclass(frozen=True)
class Convolution:
    """ReLU, convolution, batch norm.

    Attributes:
        kind: `separable` (depthwise, then pointwise), `dense`, or `factorized` (FactorizedReduce).
        kernel, dilation, stride: of the spatial part.
        weights: positions of its weight tensors among the parameters.
        norm: what follows.
        reads: position of the first-stage convolution that it reads, None for the source state.
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
    """One weighted summand: candidate `option` of edge `edge`, added to state `target`.

    Attributes:
        value: `identity`, `pool`, `first` or `second`: what is weighted.
        position: which pool (0 maximum, 1 mean) or which convolution of that stage.
        norm: the batch norm of a pool; those of convolutions stand with them.
    """

    edge: int
    option: int
    target: int
    value: str
    position: int
    norm: Norm | None = None


@dataclass(frozen=True)
class Group:
    """All edges that read one state at one stride."""

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
        """The pools that are followed by a batch norm."""
        return tuple(t for t in self.terms if t.value == "pool" and t.norm is not None)

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """All batch norms, in the order of the rows of the group's table.

        First-stage convolutions come first, then pools, then second-stage convolutions; one more
        row, the last, is the identity's.
        """
        convolutions = tuple(c.norm for c in self.first), tuple(c.norm for c in self.second)
        pools = tuple(t.norm for t in self.pooled if t.norm is not None)
        return (*convolutions[0], *pools, *convolutions[1])

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """For each term the row of the group's table that normalises it."""
        return tuple(self._row(term) for term in self.terms)

    def _row(self, term: Term) -> int:
        if term.value == "first":
            return term.position
        if term.value == "second":
            return len(self.first) + len(self.pooled) + term.position
        return len(self.norms) if term.norm is None else len(self.first) + self.pooled.index(term)


@dataclass(frozen=True)
class CellPlan:
    """The work of a cell, by source.

    Attributes:
        inputs: number of states given.
        nodes: number of states computed.
        groups: in order of their source.
        origins: for each node a state and a stride that lead to it: what gives it its size.
        parameters, norms: lengths of the lists that positions refer to.
    """

    inputs: int
    nodes: int
    groups: tuple[Group, ...]
    origins: tuple[tuple[int, int], ...]
    parameters: int
    norms: int

    @staticmethod
    def describe(inputs: int, edges: Sequence[Edge]) -> str:
        """The structure of a cell as a string, from which `of` makes the plan."""
        parts = [str(inputs)]
        for edge in edges:
            chosen = [
                f"{k} {c.name} {int(_normalised(c))} {int(_affine(c))}" for k, c in edge.chosen()
            ]
            parts.append(f"{edge.source} {edge.target} {edge.stride}:" + ",".join(chosen))
        return ";".join(parts)

    @staticmethod
    @lru_cache(maxsize=512)
    def of(description: str) -> CellPlan:
        """The plan of `describe`'s string."""
        first, *parts = description.split(";")
        inputs, rows = int(first), [_parse_edge(part) for part in parts]
        builder = _Builder(rows)
        sources = sorted({(source, stride) for source, _, stride, _ in rows})
        groups = tuple(builder.group(source, stride) for source, stride in sources)
        origin = {target: (source, stride) for source, target, stride, _ in reversed(rows)}
        origins = tuple(origin[target] for target in sorted(origin))
        return CellPlan(inputs, len(origins), groups, origins, len(builder.tensors), builder.norms)


def tensors_of(edges: Sequence[Edge]) -> tuple[list[tuple[Candidate, str]], list]:
    """(candidate, name) of every parameter, and (candidate, prefix) of every norm, in plan order.

    The order is by edge, then candidate: the positions in a `CellPlan`.
    """
    parameters, norms = [], []
    for edge in edges:
        for _, candidate in edge.chosen():
            for name in parameter_names(candidate.name, edge.stride, _affine(candidate)):
                parameters.append((candidate, name))
            for prefix in norm_prefixes(candidate.name, edge.stride, _normalised(candidate)):
                norms.append((candidate, prefix))
    return parameters, norms


def norm_prefixes(name: str, stride: int, normalised: bool) -> tuple[str, ...]:
    """Prefixes of a candidate's batch norms."""
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
        ValueError: when the edges into a node don't agree.
    """
    sizes = list(inputs)
    for edge in sorted(edges, key=lambda edge: edge.target):
        height, width = sizes[edge.source]
        size = (-(-height // edge.stride), -(-width // edge.stride))
        if edge.target == len(sizes):
            sizes.append(size)
        elif sizes[edge.target] != size:
            raise ValueError(f"edges of {sizes[edge.target]} and {size} lead to node {edge.target}")
    return sizes


def _parse_edge(text: str) -> tuple[int, int, int, list[tuple[int, str, bool, bool]]]:
    """Source, target, stride, and (index, name, normalised, affine) of each candidate."""
    numbers, _, listed = text.partition(":")
    source, target, stride = (int(number) for number in numbers.split())
    chosen = []
    for candidate in filter(None, listed.split(",")):
        k, name, normalised, affine = candidate.split()
        chosen.append((int(k), name, normalised == "1", affine == "1"))
    return source, target, stride, chosen


def _normalised(candidate: Candidate) -> bool:
    return "bn.running_mean" in candidate.tensors or "bn1.running_mean" in candidate.tensors


def _affine(candidate: Candidate) -> bool:
    return "bn.weight" in candidate.tensors or "bn1.weight" in candidate.tensors


class _Builder:
    """Numbers tensors and norms in edge order, then cuts out groups."""

    def __init__(self, rows: list) -> None:
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
        tensors = self.tensors
        gamma, beta = (tensors.get((edge, k, f"{prefix}.{n}")) for n in ("weight", "bias"))
        return Norm(self.norm_positions[edge, k, prefix], gamma, beta)

    def group(self, source: int, stride: int) -> Group:
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
        weights = tuple(
            self.tensors[edge, k, f"{part}{stage}.weight"] for part in ("depthwise", "pointwise")
        )
        norm = self.norm(edge, k, f"bn{stage}")
        return Convolution("separable", size, dilation, stride, weights, norm, reads)

    def single(self, edge: int, k: int, name: str, stride: int) -> Convolution:
        """A candidate of one stage."""
        if name in DILATED:
            return self.separable(edge, k, DILATED[name], 2, stride, "")
        norm = self.norm(edge, k, "bn")
        if name in DENSE:
            dense = (self.tensors[edge, k, "conv.weight"],)
            return Convolution("dense", DENSE[name], 1, stride, dense, norm)
        weights = tuple(self.tensors[edge, k, f"conv{i}.weight"] for i in (1, 2))
        return Convolution("factorized", 1, 1, stride, weights, norm)
