"""Compiles the forward pass of a cell to a program.

The order of the steps is that of `hwnas.kernels.fused`, which describes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from hwnas.kernels.cpu.compiler import PROGRAMS, Compiler, Strides
from hwnas.kernels.cpu.program import Program, Sizes, reference
from hwnas.kernels.cpu.structures import MixEntry, NormEntry
from hwnas.kernels.plan import Group, Norm


@lru_cache(maxsize=PROGRAMS)
def compile_forward(
    description: str,
    sizes: Sizes,
    strides: tuple[Strides, ...],
    batch: bool,
    keeps: tuple[bool, bool],
) -> tuple[Program, int]:
    """The forward pass of a cell, and the bytes of the workspace that it fills.

    Args:
        description: of the cell, as `CellPlan.describe` returns it.
        sizes: of its tensors.
        strides: of the inputs.
        batch: whether to normalise with the batch's own statistics.
        keeps: whether the outputs of first and of second stages are kept.
    """
    compiler = _Forward(description, sizes, keeps, batch)
    compiler.compile(strides)
    return compiler.program, compiler.kept.size


class _Forward(Compiler):
    def compile(self, strides: tuple[Strides, ...]) -> None:
        """All steps: the groups in order, and each node as soon as all its terms are known."""
        plan, bases = self.plan, self.bases
        self.states = [
            self.read_in(reference(bases.inputs + i), self.state_sizes[i], s)
            for i, s in enumerate(strides)
        ]
        self.terms: dict[int, list[dict[str, Any]]] = {}
        # Scratch memory by the last node that reads it.
        self.until: dict[int, list[int]] = {}
        for index, group in enumerate(plan.groups):
            while group.source >= len(self.states):
                self.node()
            self.group(index, group)
        while len(self.states) < plan.inputs + plan.nodes:
            self.node()

    def node(self) -> None:
        """The weighted sum of the next node's terms."""
        number = len(self.states)
        size, terms = self.state_sizes[number], self.terms.pop(number, [])
        place = reference(self.bases.nodes + number - self.plan.inputs)
        state = self.activation(size) if self.padded else place
        if terms:
            self.program.step("mix", self.program.shape(size), MixEntry, terms, outputs=state)
        else:
            self.clear(state, size)
        if self.padded:
            self.write_out(state, size, place)
        for place in self.until.pop(number, []):
            self.program.scratch.give_back(place)
        self.states.append(state)

    def group(self, index: int, group: Group) -> None:
        """Convolutions and pools of a group, and the table of their norms."""
        program, kept, size = self.program, self.kept, self.size_of(group)
        source, table = self.states[group.source], kept.tables[index]
        last = max((term.target for term in group.terms), default=None)
        if last is None:
            return
        first, second = kept.first[index], kept.second[index]
        if group.first and not first:
            first = self.stage(size, len(group.first), group.stride)
            self.until.setdefault(last, []).append(first)
        if group.second and not second:
            second = self.stage(size, len(group.second), group.stride)
            self.until.setdefault(last, []).append(second)
        count = len(group.first)
        statistics = self.doubles(count + 2)
        if group.first:
            self.convolve(group, source, first, statistics)
        if group.uses_pools and self.batch:
            program.step(
                "pool_statistics", program.shape(size, group.stride), stride=group.stride,
                values=source, statistics=statistics + count * self.bytes_of_doubles,
            )  # fmt: skip
        rows = [*range(count), *(count + term.position for term in group.pooled)]
        self.normalise(group, group.norms[: len(rows)], table, statistics, rows)
        program.scratch.give_back(statistics)
        if group.second:
            found = self.convolve_second(group, table, first, second)
            split = len(rows)
            self.normalise(
                group, group.norms[split:], table + split * self.row, found,
                range(len(group.second)),
            )  # fmt: skip
            program.scratch.give_back(found)
        identity = table + len(group.norms) * self.row
        program.step("normalise", program.shape(size), NormEntry, [{"row": identity}])
        for term, row in zip(group.terms, group.rows, strict=True):
            entry = {
                "value": self.value(term, group, source, first, second),
                "row": table + row * self.row,
                "position": self.position(term),
            }
            self.terms.setdefault(term.target, []).append(entry)

    def normalise(
        self, group: Group, norms: Sequence[Norm], table: int, statistics: int, rows: Sequence[int]
    ) -> None:
        """Fill consecutive rows of a table, from the statistics at `rows` or the running ones."""
        entries = [
            {
                "row": table + i * self.row,
                "statistics": statistics + row * self.bytes_of_doubles if self.batch else 0,
                "gamma": self.parameter(norm.gamma),
                "beta": self.parameter(norm.beta),
                "mean": reference(self.bases.means + norm.position),
                "variance": reference(self.bases.variances + norm.position),
            }
            for i, (norm, row) in enumerate(zip(norms, rows, strict=True))
        ]
        if entries:
            shape = self.program.shape(self.size_of(group), group.stride)
            self.program.step("normalise", shape, NormEntry, entries)
