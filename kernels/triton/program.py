"""Programs: the launches of a pass through a cell, made again on other memory.

A pass runs once by the order of `hwnas.kernels.fused`, while a `Recorder` notes each launch. The
program that comes of it refers to memory by the number of a base and an offset. Bases are the
tensors of a call and a workspace, in which the memory that only the pass itself needs has its place
as long as a later launch reads it. So to run a pass again takes Python neither the order of the
kernels nor the preparation of their arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from hwnas.kernels.plan import CellPlan
from hwnas.kernels.triton.backend import TritonBackend
from hwnas.kernels.triton.constants import capturing, is_constant
from hwnas.kernels.triton.launch import interpreted, on_device_of
from hwnas.kernels.triton.packing import PackedParameters

CONSTANT = -1
"""Base of tensors that every call reads, and that stay where they are."""
ALIGNMENT = 256
"""Bytes that every offset into a workspace is a multiple of."""


CAPTURED: set[Program] = set()
"""Programs that a CUDA graph was captured with, since it reads their constants when replayed."""


class Place(NamedTuple):
    """Where an argument lies.

    Attributes:
        base: number of a base, or `CONSTANT`.
        offset: bytes from there.
        like: the constant, or an empty tensor of the same type.
    """

    base: int
    offset: int
    like: Tensor


class Step(NamedTuple):
    """A launch.

    Attributes:
        kernel: the kernel.
        grid: its programs, three numbers.
        arguments: those of the kernel in their order; a `Place` for each tensor.
        options: compile-time arguments and options of the compiler.
        compiled: what a launch returned; None in Triton's interpreter.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    compiled: Any


@dataclass
class Region:
    """Memory that a pass has allocated.

    Attributes:
        tensor: which has it while the pass is recorded.
        first: the first launch that has it as an argument.
        last: the last one.
    """

    tensor: Tensor
    first: int = -1
    last: int = -1

    def used_by(self, launch: int) -> None:
        """Note a launch that has the memory as an argument; they are noted in order."""
        self.first = launch if self.first < 0 else self.first
        self.last = launch

    @property
    def size(self) -> int:
        """Bytes, rounded up."""
        size = self.tensor.numel() * self.tensor.element_size()
        return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass
class Recorder(TritonBackend):
    """A backend that notes what it launches and allocates.

    Args:
        precision: of float32 matrix products.
        packed: the cell's packed parameters.
    """

    precision: str
    packed: PackedParameters
    steps: list[Step] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)

    def pack(self, plan: CellPlan, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        return self.packed

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        tensor = super().empty(shape, dtype, device)
        self.regions.append(Region(tensor))
        return tensor

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> Any:
        compiled = None
        if not interpreted():
            compiled = super()._launch(kernel, grid, *arguments, **options)
        full = (*grid, *(1,) * (3 - len(grid)))
        self.steps.append(Step(kernel, full, arguments, options, compiled))
        return compiled


class Program:
    """The launches of a pass.

    Args:
        recorder: which has seen the pass.
        bases: the tensors of the call, each with a storage of its own.
        results: memory that the pass has allocated and that gets bases of its own.
        saved: memory that the pass has allocated and that shares one base.

    Attributes:
        saved: offset of each of `saved` in their base.
        saved_bytes: size of that base.
        scratch_bytes: size of the workspace.
    """

    def __init__(
        self,
        recorder: Recorder,
        bases: Sequence[Tensor],
        results: Sequence[Tensor] = (),
        saved: Sequence[Tensor] = (),
    ) -> None:
        self._places = {_storage(t): (i, -_start(t)) for i, t in enumerate((*bases, *results))}
        count = len(bases) + len(results)
        regions = {_storage(r.tensor): r for r in recorder.regions}
        self.saved: list[int] = []
        self.saved_bytes = 0
        for tensor in saved:
            self.saved.append(self.saved_bytes)
            self._places[_storage(tensor)] = count, self.saved_bytes
            self.saved_bytes += regions[_storage(tensor)].size
        own = {key: region for key, region in regions.items() if key not in self._places}
        for number, step in enumerate(recorder.steps):
            for tensor in _tensors(step.arguments):
                if _storage(tensor) in own:
                    own[_storage(tensor)].used_by(number)
        offsets, self.scratch_bytes = arranged(list(own.values()))
        self._places |= {k: (count + 1, o) for k, o in zip(own, offsets, strict=True)}
        self.steps = [s._replace(arguments=self._placed(s.arguments)) for s in recorder.steps]

    def run(self, bases: Sequence[Tensor], saved: Tensor) -> None:
        """Make all launches.

        Args:
            bases: the tensors of the call, then the results, as when the program was made.
            saved: (saved_bytes,), bytes.
        """
        scratch = torch.empty(self.scratch_bytes, dtype=torch.uint8, device=saved.device)
        tensors = (*bases, saved, scratch)
        if interpreted():
            for step in self.steps:
                step.kernel[step.grid](*_moved(step.arguments, tensors), **step.options)
            return
        if capturing():
            CAPTURED.add(self)
        with on_device_of(saved):
            driver = triton.runtime.driver.active
            stream = driver.get_current_stream(driver.get_current_device())
            launches = zip(self._launches, self.arguments(tensors), strict=True)
            for (launch, x, y, z, function, metadata), arguments in launches:
                launch(x, y, z, stream, function, metadata, None, None, None, *arguments)

    def arguments(self, tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
        """The arguments of each launch, with addresses in place of tensors.

        Args:
            tensors: at the bases, those for `saved` and the workspace included.
        """
        return self._arguments.at([tensor.data_ptr() for tensor in tensors])

    @cached_property
    def _launches(self) -> list[tuple[Any, ...]]:
        """For each step its launcher, the grid, the function and its metadata."""
        compiled = [step.compiled for step in self.steps]
        return [
            (code.run, *step.grid, code.function, code.packed_metadata)
            for code, step in zip(compiled, self.steps, strict=True)
        ]

    @cached_property
    def _arguments(self) -> Arguments:
        """The arguments of all steps, those of compile time included."""
        lists = []
        for step in self.steps:
            rest = [parameter.name for parameter in step.kernel.params[len(step.arguments) :]]
            lists.append((*step.arguments, *(step.options[name] for name in rest)))
        return Arguments(lists)

    def _placed(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, with a `Place` for each tensor that is no constant."""
        return tuple(
            self._placed(value) if isinstance(value, tuple)
            else self._place(value) if isinstance(value, Tensor)
            else value
            for value in arguments
        )  # fmt: skip

    def _place(self, tensor: Tensor) -> Place:
        found = self._places.get(_storage(tensor))
        if found is None:
            if not is_constant(tensor):
                raise RuntimeError("a pass that is recorded uses memory from outside of it")
            return Place(CONSTANT, 0, tensor)
        return Place(found[0], found[1] + _start(tensor), tensor.new_empty(0))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _start(tensor: Tensor) -> int:
    """Bytes from the beginning of the storage."""
    return int(tensor.storage_offset()) * tensor.element_size()


def _tensors(arguments: tuple[Any, ...]) -> Iterator[Tensor]:
    for value in arguments:
        if isinstance(value, Place):
            yield value.like
        elif isinstance(value, tuple):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value


def _moved(arguments: tuple[Any, ...], tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """The arguments, with a tensor at each place."""
    moved: list[Any] = []
    for value in arguments:
        if isinstance(value, Place):
            moved.append(value.like if value.base == CONSTANT else _tensor_at(value, tensors))
        elif isinstance(value, tuple):
            moved.append(_moved(value, tensors))
        else:
            moved.append(value)
    return tuple(moved)


def _tensor_at(place: Place, tensors: Sequence[Tensor]) -> Tensor:
    """A tensor that begins at a place."""
    base = tensors[place.base]
    start = (_start(base) + place.offset) // place.like.element_size()
    return place.like.new_empty(0).set_(base.untyped_storage(), start, (1,), (1,))


class Arguments:
    """Lists of arguments whose places become addresses, all at once.

    A table has the addresses, then the constants, then the tuples among the arguments. Tuples and
    lists are taken from it by position, which takes Python one call for each.

    Args:
        lists: the arguments of each launch.
    """

    def __init__(self, lists: Sequence[Sequence[Any]]) -> None:
        self._addresses: dict[tuple[int, int], int] = {}
        self._constants: list[Any] = []
        self._tuples: list[list[tuple[int, int]]] = []
        found = [[self._entry(value) for value in arguments] for arguments in lists]
        places = np.array(list(self._addresses), dtype=np.int64).reshape(-1, 2)
        self._bases, self._offsets = places[:, 0], places[:, 1]
        starts = 0, len(places), len(places) + len(self._constants)
        self._of_tuples, self._of_lists = (
            [itemgetter(*(starts[kind] + i for kind, i in entries), 0) for entries in all_entries]
            for all_entries in (self._tuples, found)
        )

    def at(self, addresses: Sequence[int]) -> list[tuple[Any, ...]]:
        """All lists, for the addresses of the bases."""
        table = (np.array(addresses, dtype=np.int64)[self._bases] + self._offsets).tolist()
        table += self._constants
        # Each ends in an element more, since one element alone would be no tuple.
        table += [take(table)[:-1] for take in self._of_tuples]
        return [take(table)[:-1] for take in self._of_lists]

    def _entry(self, value: Any) -> tuple[int, int]:
        """Which part of the table a value is in, and its position there."""
        if isinstance(value, Place) and value.base != CONSTANT:
            key = value.base, value.offset
            return 0, self._addresses.setdefault(key, len(self._addresses))
        if isinstance(value, Place):
            value = value.like.data_ptr()
        elif isinstance(value, tuple) and any(isinstance(part, Place) for part in value):
            self._tuples.append([self._entry(part) for part in value])
            return 2, len(self._tuples) - 1
        self._constants.append(value)
        return 1, len(self._constants) - 1


def arranged(regions: Sequence[Region]) -> tuple[list[int], int]:
    """Offsets of regions, and the bytes of all: what is in use at once does not overlap."""
    offsets: list[int] = []
    for i, region in enumerate(regions):
        start = 0
        taken = sorted(
            (offsets[j], offsets[j] + other.size)
            for j, other in enumerate(regions[:i])
            if other.first <= region.last and region.first <= other.last
        )
        for first, end in taken:
            if first - start >= region.size:
                break
            start = max(start, end)
        offsets.append(start)
    ends = (offset + region.size for offset, region in zip(offsets, regions, strict=True))
    return offsets, max(ends, default=0)
