"""What the compilers of forward and backward passes have in common."""

from __future__ import annotations

import math
from typing import Any

from hwnas.kernels.cpu.program import KEPT, Bases, Memory, Program, Sizes, reference
from hwnas.kernels.cpu.structures import (
    KINDS,
    SHORT_TENSOR,
    TENSOR,
    ConvolutionEntry,
    ValueEntry,
)
from hwnas.kernels.norms import TABLE_ROWS
from hwnas.kernels.plan import CellPlan, Convolution, Group, Term

Strides = tuple[int, int, int] | None
"""Elements between images, rows and pixels; None for a tensor that kernels read where it is."""

PROGRAMS = 256
"""Programs of each direction that are kept."""


class Kept:
    """Where a cell's workspace has what the backward pass needs.

    Attributes:
        tables: for each group, the rows of its batch norms.
        first: for each group, the outputs of its first stages; 0 where they are not kept.
        second: the same for its second stages.
        size: bytes of the workspace.
    """

    def __init__(self, plan: CellPlan, sizes: Sizes, keeps: tuple[bool, bool]) -> None:
        memory = Memory(KEPT)
        states, row = plan.sizes(sizes.inputs), bytes_of_row(sizes)
        self.tables = [memory.take((len(g.norms) + 1) * row) for g in plan.groups]
        self.first, self.second = (
            [
                memory.take(len(stage) * bytes_of_output(sizes, states[g.source], g.stride))
                if keep and (stage := getattr(g, name))
                else 0
                for g in plan.groups
            ]
            for keep, name in zip(keeps, ("first", "second"), strict=True)
        )
        self.size = memory.size


def bytes_of_row(sizes: Sizes) -> int:
    """Bytes of the table of a batch norm, (6, width)."""
    return TABLE_ROWS * sizes.width * sizes.dtype.itemsize


def bytes_of(sizes: Sizes, size: tuple[int, int], stride: int = 1) -> int:
    """Bytes of a tensor (N, H, W, width) that is computed from one of a size with a stride."""
    pixels = math.prod(-(-side // stride) for side in size)
    return sizes.images * pixels * sizes.width * sizes.dtype.itemsize


def bytes_of_output(sizes: Sizes, size: tuple[int, int], stride: int = 1) -> int:
    """The same of what a convolution of a stage returns."""
    return bytes_of(sizes, size, stride) // (2 if sizes.short_stages else 1)


class Compiler:
    """What both passes have in common."""

    def __init__(
        self, description: str, sizes: Sizes, keeps: tuple[bool, bool], batch: bool
    ) -> None:
        self.plan = CellPlan.of(description)
        self.sizes = sizes
        self.batch = batch
        self.program = Program(sizes)
        self.bases = Bases(self.plan)
        self.kept = Kept(self.plan, sizes, keeps)
        self.state_sizes = self.plan.sizes(sizes.inputs)
        self.row = bytes_of_row(sizes)
        self.padded = sizes.width > sizes.channels

    def size_of(self, group: Group) -> tuple[int, int]:
        """(height, width) of the state that a group reads."""
        return self.state_sizes[group.source]

    def activation(self, size: tuple[int, int], count: int = 1, stride: int = 1) -> int:
        """Scratch memory for tensors (N, H, W, width)."""
        return self.program.scratch.take(count * bytes_of(self.sizes, size, stride))

    def stage(self, size: tuple[int, int], count: int, stride: int) -> int:
        """Scratch memory for the outputs of a stage."""
        return self.program.scratch.take(count * bytes_of_output(self.sizes, size, stride))

    def doubles(self, rows: int) -> int:
        """Scratch memory for statistics or sums, (rows, 2, width)."""
        return self.program.scratch.take(rows * self.bytes_of_doubles)

    @property
    def bytes_of_doubles(self) -> int:
        return 2 * self.sizes.width * 8

    def read_in(self, place: int, size: tuple[int, int], strides: Strides) -> int:
        """Where a tensor can be read by the kernels: a copy if it has strides."""
        if strides is None:
            return place
        copy = self.activation(size)
        self.program.step(
            "read_in", self.program.shape(size), values=place, outputs=copy, strides=strides
        )
        return copy

    def write_out(self, state: int, size: tuple[int, int], place: int) -> None:
        """Copy a state with padding to a tensor without."""
        self.program.step("write_out", self.program.shape(size), values=state, outputs=place)

    def clear(self, place: int, size: tuple[int, int]) -> None:
        """Set a tensor (N, H, W, width) to zero."""
        count = bytes_of(self.sizes, size)
        self.program.step("clear", self.program.shape(size), outputs=place, strides=(count, 0, 0))

    def parameter(self, position: int | None) -> int:
        """A reference to a parameter; 0 for None."""
        return 0 if position is None else reference(self.bases.parameters + position)

    def convolution(self, convolution: Convolution, **fields: int) -> dict[str, Any]:
        """The entry of a convolution."""
        weights = zip(("first", "second"), convolution.weights, strict=False)
        return {
            "kind": KINDS[convolution.kind],
            "kernel": convolution.kernel,
            "dilation": convolution.dilation,
            "stride": convolution.stride,
            "reads": convolution.reads or 0,
            **{field: self.parameter(position) for field, position in weights},
            **fields,
        }

    def convolve(self, group: Group, source: int, outputs: int, statistics: int) -> None:
        """The first stages of a group."""
        self.program.step(
            "convolve", self.program.shape(self.size_of(group), group.stride), ConvolutionEntry,
            [self.convolution(c) for c in group.first],
            values=source, outputs=outputs, statistics=statistics,
        )  # fmt: skip

    def convolve_second(self, group: Group, table: int, first: int, outputs: int) -> int:
        """The second stages of a group; returns their statistics."""
        statistics = self.doubles(len(group.second))
        self.program.step(
            "convolve", self.program.shape(self.target_size(group)), ConvolutionEntry,
            [self.convolution(c) for c in group.second],
            values=first, table=table, outputs=outputs, statistics=statistics,
        )  # fmt: skip
        return statistics

    def position(self, term: Term) -> int:
        """The position of a term's mixing weight."""
        return term.edge * self.sizes.options + term.option

    def target_size(self, group: Group) -> tuple[int, int]:
        """(height, width) of what a group computes."""
        height, width = self.size_of(group)
        return -(-height // group.stride), -(-width // group.stride)

    def value(self, term: Term, group: Group, source: int, first: int, second: int) -> ValueEntry:
        """The entry of a term's value before normalisation."""
        if term.value in ("identity", "pool"):
            kind = TENSOR if term.value == "identity" else term.position + 1
            return ValueEntry(source, *self.size_of(group), kind, group.stride)
        stage = first if term.value == "first" else second
        size = bytes_of_output(self.sizes, self.size_of(group), group.stride)
        kind = SHORT_TENSOR if self.sizes.short_stages else TENSOR
        return ValueEntry(stage + term.position * size, *self.target_size(group), kind, 1)
