"""Programs: what one pass through a cell computes, as a table that a single call runs.

A program is compiled once for each structure and size of a cell, by `hwnas.kernels.cpu.compiler`.
It holds no addresses: its steps refer to tensors by the number of a base and an offset. The bases
are the tensors of a call, and two workspaces: one is kept for the backward pass, the other is
scratch memory.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from hwnas.kernels.cpu.structures import (
    LISTS,
    STEPS,
    CallEntry,
    ConvolutionEntry,
    ProgramEntry,
    Shape,
    StepEntry,
)
from hwnas.kernels.plan import CellPlan

Entry = TypeVar("Entry", bound=ctypes.Structure)

ALIGNMENT = 64
"""Bytes that every offset into a workspace is a multiple of."""

KEPT, SCRATCH, VECTOR, FIRST_INPUT = 1, 2, 3, 4
"""Numbers of bases: both workspaces, the gradients of all parameters, the cell's first input."""


def reference(base: int, offset: int = 0) -> int:
    """The number by which a program refers to a place in memory; 0 stands for NULL."""
    return (base << 48) + offset


class Bases:
    """The numbers of a program's bases: each attribute is the first of consecutive ones."""

    def __init__(self, plan: CellPlan) -> None:
        self.inputs = FIRST_INPUT
        self.nodes = self.inputs + plan.inputs
        self.gradients = self.nodes + plan.nodes
        self.d_inputs = self.gradients + plan.nodes
        self.parameters = self.d_inputs + plan.inputs
        self.means = self.parameters + len(plan.parameters)
        self.variances = self.means + plan.norms


class Memory:
    """Places in a workspace. What is given back is used again for later steps.

    Args:
        base: number of the workspace.

    Attributes:
        size: bytes that the workspace must have.
    """

    def __init__(self, base: int) -> None:
        self._base = base
        self._taken: dict[int, int] = {}
        self.size = 0

    def take(self, size: int) -> int:
        """A reference to `size` bytes that nothing else uses until they are given back."""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        start = 0
        for taken in sorted(self._taken):
            if taken - start >= size:
                break
            start = taken + self._taken[taken]
        self._taken[start] = size
        self.size = max(self.size, start + size)
        return reference(self._base, start)

    def give_back(self, place: int) -> None:
        """Allow later steps to use a place that `take` returned; others are left alone."""
        if place >> 48 == self._base:
            del self._taken[place - reference(self._base)]


class Sizes(NamedTuple):
    """Sizes of a cell's tensors.

    Attributes:
        images: N.
        channels: C without padding.
        width: C with padding.
        lanes: of a vector.
        dtype: of activations.
        inputs: (height, width) of each input.
        options: number of options of each edge.
        short_stages: whether what stages return is stored in bfloat16.
    """

    images: int
    channels: int
    width: int
    lanes: int
    dtype: torch.dtype
    inputs: tuple[tuple[int, int], ...]
    options: int
    short_stages: bool


class Program:
    """The steps of a pass through a cell.

    Args:
        sizes: of the cell.

    Attributes:
        scratch: the scratch memory that the steps use.
        elements: number of elements of the parameters whose gradients are computed. One vector
            holds all gradients, in the plan's order.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._lists: dict[Any, Any] = {kind: [] for kind in LISTS}
        self._entry: ProgramEntry | None = None
        self.scratch = Memory(SCRATCH)
        self.elements = 0

    def shape(self, size: tuple[int, int], stride: int = 1) -> Shape:
        """The sizes of a step that reads tensors (N, *size, width)."""
        (height, width_px), given = size, self._sizes
        return Shape(
            images=given.images, height=height, width_px=width_px,
            out_height=-(-height // stride), out_width=-(-width_px // stride),
            channels=given.channels, width=given.width, lanes=given.lanes,
            is_double=given.dtype == torch.float64, threads=1,
            short_stages=given.short_stages,
        )  # fmt: skip

    def extend(self, kind: type[ctypes.Structure], entries: Sequence[dict[str, Any]]) -> int:
        """Append entries to a list of the program; returns the position of the first."""
        first = len(self._lists[kind])
        self._lists[kind] += [kind(**entry) for entry in entries]
        return first

    def step(
        self,
        name: str,
        shape: Shape,
        kind: type[ctypes.Structure] = ConvolutionEntry,
        entries: Sequence[dict[str, Any]] = (),
        **fields: Any,
    ) -> None:
        """Append a step.

        Args:
            name: one of `STEPS`.
            shape: sizes of the step.
            kind: of the entries.
            entries: what the step reads from a list of its own.
            fields: of `StepEntry`, references as integers.
        """
        first = self.extend(kind, entries)
        step = StepEntry(
            shape=shape, kind=STEPS.index(name), first=first, count=len(entries), **fields
        )
        self._lists[StepEntry].append(step)

    def run(
        self,
        instructions: str,
        library: ctypes.CDLL,
        bases: Sequence[int],
        weights: int,
        d_weights: int | None,
        momentum: float,
    ) -> None:
        """Run all steps.

        Args:
            instructions: the instruction set to use.
            library: the compiled kernels.
            bases: the address of each base, 0 for those that no step refers to.
            weights: address of the mixing weights.
            d_weights: address of their gradients.
            momentum: of running statistics; 0 leaves them as they are.

        Raises:
            MemoryError: when the kernels could not allocate memory.
            RuntimeError: when the kernels were not compiled for the number of lanes.
        """
        if self._entry is None:
            self._entry = self._assembled()
        addresses = array("Q", bases)
        call = CallEntry(
            addresses.buffer_info()[0], weights, d_weights, momentum, torch.get_num_threads()
        )
        run = getattr(library, f"hwnas_run_{instructions}")
        status = run(ctypes.byref(self._shape), ctypes.byref(self._entry), ctypes.byref(call))
        if status == 1:
            raise MemoryError("a fused cell ran out of memory")
        if status:
            raise RuntimeError(f"the kernels are not compiled for {self._sizes.lanes} lanes")

    def entries(self, kind: type[Entry]) -> Sequence[Entry]:
        """The entries of one kind, in the order of the steps that use them."""
        found: Sequence[Entry] = self._lists[kind]
        return found

    def _assembled(self) -> ProgramEntry:
        """The lists as arrays."""
        self._shape = self.shape((1, 1))
        for kind, entries in self._lists.items():
            self._lists[kind] = (kind * len(entries))(*entries)
        arrays: Any = self._lists.values()
        entry = ProgramEntry(*(ctypes.addressof(found) for found in arrays))
        entry.counts[:] = [len(found) for found in arrays]
        return entry
