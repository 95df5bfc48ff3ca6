"""What the graphs of NAS-Bench-101 run: expectations and the decoder's program.

Both go over all graphs without their operators (`Skeletons`), of which the published space has
6,472. So both are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.spaces.decoding import DecodingProgram
from hwnas.spaces.nasbench101_graphs import OPERATORS, Skeletons
from hwnas.spaces.nasbench101_networks import Widths

NEGLIGIBLE = 1e-9
"""A skeleton of smaller probability than this counts as impossible."""
LEAST, OUTSIDE = 1e-12, 0.05
"""Added to the weights of edges, and to those of a mixture that gives no graph a probability."""


@dataclass(frozen=True)
class Parts:
    """Which parts each graph runs.

    Attributes:
        has: (skeletons, edges), whether a graph has an edge.
        of_edge: for each edge (skeletons, parts), whether a graph runs each of its parts.
        of_size: for each inner vertex (skeletons, sizes), whether it has each size.
        of_slot: for each inner vertex (skeletons, slots), whether it has each slot.
    """

    has: np.ndarray
    of_edge: list[np.ndarray]
    of_size: list[np.ndarray]
    of_slot: list[np.ndarray]

    @classmethod
    def of(
        cls,
        graphs: Skeletons,
        edges: Sequence[tuple[int, int]],
        size_of_slot: Sequence[int],
    ) -> Parts:
        """Find the parts of all graphs.

        Args:
            graphs: the graphs.
            edges: (source, target) of each edge.
            size_of_slot: the index of each slot's size; -1 if no graph has it.
        """
        output = edges[-1][1]
        sizes = np.array([*size_of_slot, -1])[graphs.size]
        of_size = [sizes[:, [v]] == np.arange(max(size_of_slot) + 1) for v in range(output - 1)]
        of_slot = [graphs.slot[:, [v]] == np.arange(len(size_of_slot)) for v in range(output - 1)]
        of_edge = []
        for row, (source, target) in enumerate(edges):
            earlier = [edges.index((s, target)) for s in range(source)]
            has = graphs.edges[:, row]
            adds = has & graphs.edges[:, earlier].any(axis=1)
            if target < output:
                pays = adds if source else has
                of_sizes = pays[:, None] & of_size[target - 1]
                alone = [(has & ~adds)[:, None]] if source else []
                of_edge.append(np.concatenate([of_sizes, *alone], axis=1))
            elif source:
                of_edge.append(has[:, None])
            else:
                joins = (graphs.slot >= 0).any(axis=1)
                of_edge.append(np.stack([has, has & joins], axis=1))
        return cls(graphs.edges, of_edge, of_size, of_slot)

    @cached_property
    def _columns(self) -> dict[str, Tensor]:
        """What each graph has, (skeletons, columns) by kind, as numbers."""
        # A mixture may be on another device than the one that a context asks for.
        with torch.device("cpu"), torch.inference_mode(False):
            kinds = {
                "edges": self.has,
                "parts": np.concatenate([*self.of_edge, *self.of_size], axis=1),
                "sizes": np.concatenate(self.of_size, axis=1),
                "slots": np.concatenate(self.of_slot, axis=1),
            }
            return {kind: torch.from_numpy(has).float() for kind, has in kinds.items()}

    @cached_property
    def _moved(self) -> dict[tuple[str, torch.device, torch.dtype], Tensor]:
        """Columns on the devices and in the number formats that were asked for."""
        return {}

    def _column(self, kind: str, like: Tensor) -> Tensor:
        """Columns of one kind, on the device and in the number format of a tensor."""
        key = kind, like.device, like.dtype
        if key not in self._moved:
            with torch.inference_mode(False):
                moved = self._columns[kind].to(like.device, like.dtype)
            if type(moved) is not Tensor:
                return moved  # a fake tensor, whose mode ends
            self._moved[key] = moved
        return self._moved[key]

    def probabilities(self, weights: Tensor) -> Tensor:
        """The probability of each graph without its operators, differentiable.

        It is in proportion to the product of the weights of the edges that the graph has and of
        `none` for the others. A mixture may exclude every graph, such as one whose edges were drawn
        one by one; then the nearest graphs share the probability.

        Args:
            weights: (..., choices, max_options).

        Returns:
            (..., skeletons).
        """
        pairs = weights[..., : self.has.shape[1], :2].clamp_min(0.0)
        pairs = pairs / pairs.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        has = self._column("edges", pairs)
        logits = _logits(pairs, has, LEAST)
        outside = logits.detach().amax(dim=-1, keepdim=True) < math.log(NEGLIGIBLE)
        soft = torch.where(outside, _logits(pairs, has, OUTSIDE), logits).softmax(dim=-1)
        kept = soft.detach().where(soft.detach() > NEGLIGIBLE, 0.0)
        # What is negligible has a gradient, but no part in the result.
        return soft + (kept / kept.sum(dim=-1, keepdim=True) - soft.detach())

    def expected_parts(self, weights: Tensor) -> Sequence[Tensor]:
        """The probability of each part of the edges, then of each size of the inner vertices.

        Args:
            weights: (..., choices, max_options).

        Returns:
            (..., parts) of each edge, and (..., sizes) of each inner vertex.
        """
        graphs = self.probabilities(weights)
        counts = [table.shape[1] for table in (*self.of_edge, *self.of_size)]
        return torch.split(graphs @ self._column("parts", graphs), counts, dim=-1)

    def widths(self, mixture: Mixture) -> Widths:
        """How wide the vertices of a supernet's cells are."""
        graphs = self.probabilities(mixture.weights)
        sizes, slots = (
            (graphs @ self._column(kind, graphs)).reshape(len(self.of_size), -1)
            for kind in ("sizes", "slots")
        )
        # Which graphs the active options allow; if none, the nearest are of any kind.
        allowed = np.ones(len(self.has), dtype=bool)
        for edge, active in enumerate((mixture.active or ())[: self.has.shape[1]]):
            allowed &= np.isin(self.has[:, edge], active)
        if not allowed.any():
            allowed[:] = True
        possible = (
            [np.flatnonzero(table[allowed].any(axis=0)).tolist() for table in tables]
            for tables in (self.of_size, self.of_slot)
        )
        return Widths(sizes, slots, *possible)

    def program(self, taken: np.ndarray, max_parts: int) -> DecodingProgram:
        """The architectures as a linear program.

        There is a variable for each graph, which is 1 if exactly its edges are taken. The others
        follow from these: whether a part of an edge runs, and whether an operator runs at a size.

        Args:
            taken: (choices, max_options), the index of each option's variable. The choices are the
                edges with the options absent and present, and then the operators of the vertices.
            max_parts: the largest number of parts of any choice.
        """
        count = len(self.has)
        graphs = taken.size + np.arange(count)
        runs = np.full((len(taken), max_parts), -1)
        rows = _Rows(taken.size + count)
        for choice in taken:
            rows.add({int(variable): 1.0 for variable in choice}, 1, 1)
        rows.add(dict.fromkeys(graphs.tolist(), 1.0), 1, 1)
        for row, parts in enumerate(self.of_edge):
            rows.add_sum(graphs[self.has[:, row]], {int(taken[row, 1]): -1.0})
            for part in range(parts.shape[1]):
                runs[row, part] = rows.new_variable()
                rows.add_sum(graphs[parts[:, part]], {int(runs[row, part]): -1.0})
        for vertex, sizes in enumerate(self.of_size):
            row = len(self.of_edge) + vertex
            own = np.array([[rows.new_variable() for _ in sizes.T] for _ in OPERATORS])
            runs[row, : own.size] = own.ravel()
            for size, members in enumerate(sizes.T):
                rows.add_sum(graphs[members], dict.fromkeys(own[:, size].tolist(), -1.0))
            for option in range(len(OPERATORS)):
                at_most = dict.fromkeys(own[option].tolist(), 1.0)
                rows.add(at_most | {int(taken[row, option]): -1.0}, -np.inf, 0)
        return rows.program(taken.size, runs)


class _Rows:
    """Linear constraints, and the variables that they are about."""

    def __init__(self, variables: int) -> None:
        self.variables = variables
        self.terms: list[dict[int, float]] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def new_variable(self) -> int:
        self.variables += 1
        return self.variables - 1

    def add(self, terms: dict[int, float], lower: float, upper: float) -> None:
        self.terms.append(terms)
        self.lower.append(lower)
        self.upper.append(upper)

    def add_sum(self, variables: np.ndarray, others: dict[int, float]) -> None:
        """The sum of variables, and of other terms, is 0."""
        self.add(dict.fromkeys(variables.tolist(), 1.0) | others, 0, 0)

    def program(self, options: int, runs: np.ndarray) -> DecodingProgram:
        matrix = np.zeros((len(self.terms), self.variables))
        for row, terms in enumerate(self.terms):
            matrix[row, list(terms)] = list(terms.values())
        lower, upper = np.array(self.lower), np.array(self.upper)
        return DecodingProgram(self.variables - options, matrix, lower, upper, runs)


def _logits(pairs: Tensor, has: Tensor, added: float) -> Tensor:
    """The logarithms of the products of all edges' weights, (..., skeletons).

    Args:
        pairs: (..., edges, 2), the weights of absence and presence.
        has: (skeletons, edges), 1 where a graph has an edge.
        added: to the weights, so that the logarithms are finite.
    """
    absent, present = (pairs + added).log().unbind(dim=-1)
    return (present - absent) @ has.T + absent.sum(dim=-1, keepdim=True)
