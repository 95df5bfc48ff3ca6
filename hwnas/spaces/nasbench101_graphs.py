"""The graphs of NAS-Bench-101: which there are, which are equal, and their channels.

Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019 (arXiv
1902.09635).

A graph has V vertices, of which the first is the input and the last the output. Its edges lead to
later vertices, so its matrix is upper triangular. It is *full* if every vertex lies on a path from
the input to the output, which is so if only the output has no edge out of it and only the input has
none into it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from hwnas.errors import InputError

INPUT, OUTPUT = "input", "output"
OPERATORS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
"""The operators in the order in which the hash numbers them."""
NASLIB_LABELS = (INPUT, OUTPUT, "maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")
"""The labels in the order in which NASLib numbers them."""


@dataclass(frozen=True)
class Graph:
    """A labelled graph.

    Attributes:
        matrix: (V, V), 1 where an edge leads from the row's vertex to the column's.
        operators: of the inner vertices, V - 2 names.
    """

    matrix: tuple[tuple[int, ...], ...]
    operators: tuple[str, ...]

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(source, target) of each edge."""
        size = len(self.matrix)
        return [(s, t) for t in range(size) for s in range(t) if self.matrix[s][t]]

    def pruned(self) -> Graph | None:
        """Without the vertices that lie on no path from the input to the output.

        None if no path connects them.
        """
        size = len(self.matrix)
        reached, leads = {0}, {size - 1}
        for vertex in range(1, size):
            if any(self.matrix[source][vertex] for source in reached):
                reached.add(vertex)
        for vertex in reversed(range(size - 1)):
            if any(self.matrix[vertex][target] for target in leads):
                leads.add(vertex)
        kept = sorted(reached & leads)
        if len(kept) < 2:
            return None
        return Graph(
            tuple(tuple(self.matrix[s][t] for t in kept) for s in kept),
            tuple(self.operators[vertex - 1] for vertex in kept[1:-1]),
        )

    def hash(self) -> str:
        """The benchmark's hash, which is the same for isomorphic graphs (section 2.1).

        Each vertex begins with its numbers of edges and its operator, and is then hashed as often
        as there are vertices together with its neighbours in both directions.
        """
        size = len(self.matrix)
        before = [[s for s in range(size) if self.matrix[s][v]] for v in range(size)]
        behind = [[t for t in range(size) if self.matrix[v][t]] for v in range(size)]
        labels = [-1, *map(OPERATORS.index, self.operators), -2]
        hashes = [
            _md5(str((len(behind[vertex]), len(before[vertex]), labels[vertex])))
            for vertex in range(size)
        ]
        for _ in range(size):
            hashes = [
                _md5(
                    "".join(sorted(hashes[s] for s in before[vertex]))
                    + "|"
                    + "".join(sorted(hashes[t] for t in behind[vertex]))
                    + "|"
                    + hashes[vertex]
                )
                for vertex in range(size)
            ]
        return _md5(str(sorted(hashes)))

    def channels(self, width: int) -> list[int]:
        """The channels of each inner vertex of a full graph (appendix S1 and the authors' code).

        The channels of the output are divided among the vertices with an edge to it, of which the
        first take one more if there is a remainder. Every other vertex has as many as the largest
        vertex behind it.

        Args:
            width: channels of the output.
        """
        last = len(self.matrix) - 1
        joined = [vertex for vertex in range(1, last) if self.matrix[vertex][last]]
        found = {
            vertex: slot_channels(width, len(joined), rank) for rank, vertex in enumerate(joined)
        }
        for vertex in reversed(range(1, last)):
            if vertex not in found:
                behind = range(vertex + 1, last)
                found[vertex] = max(found[t] for t in behind if self.matrix[vertex][t])
        return [found[vertex] for vertex in range(1, last)]

    @classmethod
    def read(cls, notation: Any, where: str) -> Graph:
        """Read a graph in the benchmark's notation or in NASLib's.

        Args:
            notation: an object with `matrix` and with `ops`, the labels of all vertices; or a list
                of the matrix' numbers, row by row, and then a number for each label.
            where: its place for error messages.

        Raises:
            InputError: when it is neither.
        """
        if isinstance(notation, list):
            notation = _from_numbers(notation, where)
        if not isinstance(notation, dict) or not {"matrix", "ops"} <= notation.keys():
            raise InputError(
                "malformed", where=where, expected="an object of matrix and ops", actual=notation
            )
        matrix, expected = notation["matrix"], "an upper triangular matrix of 0 and 1, and labels"
        try:
            rows = tuple(tuple(_bit(value) for value in row) for row in matrix)
            labels = [str(label) for label in notation["ops"]]
        except (TypeError, ValueError):
            raise InputError("malformed", where=where, expected=expected) from None
        size = len(rows)
        square = 2 <= size == len(labels) and all(len(row) == size for row in rows)
        if not square or any(rows[s][t] for s in range(size) for t in range(s + 1)):
            raise InputError("malformed", where=where, expected=expected, actual=matrix)
        ends, operators = (labels[0], labels[-1]), tuple(labels[1:-1])
        if ends != (INPUT, OUTPUT) or not set(operators) <= set(OPERATORS):
            raise InputError(
                "unknown operator",
                where=where,
                expected=f"{INPUT}, then {', '.join(OPERATORS)}, then {OUTPUT}",
                actual=labels,
            )
        return cls(rows, operators)


def _from_numbers(numbers: list[Any], where: str) -> dict[str, Any]:
    """The benchmark's notation of NASLib's numbers; InputError when they are malformed."""
    vertices = (math.isqrt(1 + 4 * len(numbers)) - 1) // 2
    known = all(type(n) is int and n >= 0 for n in numbers)
    labels = numbers[vertices**2 :] if known else []
    if vertices * (vertices + 1) != len(numbers) or not labels or max(labels) >= len(NASLIB_LABELS):
        raise InputError(
            "malformed",
            where=where,
            expected="the numbers of a square matrix, and for each vertex one from 0 to 4",
            actual=numbers,
        )
    rows = [numbers[i * vertices : (i + 1) * vertices] for i in range(vertices)]
    return {"matrix": rows, "ops": [NASLIB_LABELS[label] for label in labels]}


def _bit(value: Any) -> int:
    """0 or 1; ValueError for anything else."""
    if type(value) is not int or value not in (0, 1):
        raise ValueError(value)
    return int(value)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def slot_channels(width: int, joined: int, rank: int) -> int:
    """The channels of one of the vertices that are concatenated to the output.

    Args:
        width: channels of the output.
        joined: number of these vertices.
        rank: of the vertex among them, from 0.
    """
    return width // joined + (rank < width % joined)


def full_matrices(vertices: int, max_edges: int) -> np.ndarray:
    """The matrices of all full graphs of exactly so many vertices, (graphs, V, V), bool."""
    cells = [(s, t) for t in range(1, vertices) for s in range(t)]
    codes = np.arange(2 ** len(cells), dtype=np.uint32)
    edges = [(codes >> number & 1).astype(bool) for number in range(len(cells))]
    full = np.sum(edges, axis=0) <= max_edges
    for vertex in range(vertices):
        into = [edge for edge, (_, t) in zip(edges, cells, strict=True) if t == vertex]
        out = [edge for edge, (s, _) in zip(edges, cells, strict=True) if s == vertex]
        for group in (into, out):
            if group:
                full &= np.any(group, axis=0)
    matrices = np.zeros((int(full.sum()), vertices, vertices), dtype=bool)
    for edge, (source, target) in zip(edges, cells, strict=True):
        matrices[:, source, target] = edge[full]
    return matrices


def full_graphs(vertices: int, max_edges: int) -> Iterator[Graph]:
    """Enumerate the full graphs of exactly so many vertices, with all their operators."""
    for matrix in full_matrices(vertices, max_edges).astype(int).tolist():
        rows = tuple(map(tuple, matrix))
        for operators in product(OPERATORS, repeat=vertices - 2):
            yield Graph(rows, operators)


@dataclass(frozen=True)
class Skeletons:
    """All full graphs of up to V vertices without their operators, in frames of V vertices.

    The inner vertices of a smaller graph are the first of the frame, and the last is the output.
    A *slot* is a place in the concatenation to the output: (joined, rank), the number of vertices
    that are concatenated and the place of one among them, numbered as in `slots`.

    Attributes:
        edges: (skeletons, E), the edges (source, target) sorted by target and then by source.
        slot: (skeletons, V - 2), the slot of each inner vertex; -1 if it is not concatenated.
        size: (skeletons, V - 2), the slot whose channels each inner vertex has; -1 if the graph
            does not have the vertex.
    """

    edges: np.ndarray
    slot: np.ndarray
    size: np.ndarray


def slots(vertices: int) -> list[tuple[int, int]]:
    """(joined, rank) of each slot that graphs of up to so many vertices can have."""
    return [(joined, rank) for joined in range(1, vertices - 1) for rank in range(joined)]


@cache
def skeletons(vertices: int, max_edges: int) -> Skeletons:
    """Enumerate the skeletons of graphs of up to so many vertices and edges."""
    edges, slot, size = [], [], []
    for count in range(2, vertices + 1):
        small = full_matrices(count, max_edges)
        frame = np.zeros((len(small), vertices, vertices), dtype=bool)
        places = [*range(count - 1), vertices - 1]
        frame[:, np.array(places)[:, None], places] = small
        edges.append(np.stack([frame[:, s, t] for t in range(vertices) for s in range(t)], axis=1))
        of_rank, joined = _ranks(frame)
        # The slots of j concatenated vertices begin behind those of fewer.
        first = joined * (joined - 1) // 2
        slot.append(np.where(frame[:, 1:-1, -1], first[:, None] + of_rank, -1))
        size.append(np.where(of_rank < vertices, first[:, None] + of_rank, -1))
    return Skeletons(np.concatenate(edges), np.concatenate(slot), np.concatenate(size))


def _ranks(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first rank in the concatenation that each inner vertex leads to, and their number.

    Args:
        matrices: (graphs, V, V).

    Returns:
        (graphs, V - 2) with V for vertices that the graph does not have, and (graphs,).
    """
    vertices = matrices.shape[1]
    joined = matrices[:, 1:-1, -1]
    ranks = np.where(joined, joined.cumsum(axis=1) - 1, vertices)
    for vertex in reversed(range(vertices - 2)):
        behind = np.where(matrices[:, vertex + 1, 1:-1], ranks, vertices)
        ranks[:, vertex] = np.minimum(ranks[:, vertex], behind.min(axis=1))
    return ranks, joined.sum(axis=1)
