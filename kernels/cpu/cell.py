"""Both passes through a cell on a CPU, each one call of the compiled kernels.

This module is one of `hwnas.kernels.function.Passes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add, attrgetter, le, or_

import torch
from torch import Tensor, UntypedStorage

from hwnas.kernels.cpu.backend import CpuBackend
from hwnas.kernels.cpu.binding import load_library
from hwnas.kernels.cpu.compile_backward import compile_backward
from hwnas.kernels.cpu.compile_forward import compile_forward
from hwnas.kernels.cpu.compiler import Strides
from hwnas.kernels.cpu.memory import MEMORY, SMALLEST_BYTES
from hwnas.kernels.cpu.program import Program, Sizes
from hwnas.kernels.function import CellCall, split
from hwnas.kernels.held import Held
from hwnas.kernels.operator import (
    ALIGNMENT,
    aligned,
    backend_for,
    gradients_of,
    in_memory,
    kept_stages,
    readable,
)
from hwnas.kernels.plan import CellPlan

DTYPE = attrgetter("dtype")


def forward(
    call: CellCall,
    inputs: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    *,
    save: bool,
) -> tuple[list[Tensor], Tensor]:
    """Nodes, and the workspace that the backward pass reads; see `Passes`."""
    plan = CellPlan.of(call.description)
    backend, sizes = _sizes(inputs, weights, short_stages=save and call.storage == "bfloat16")
    given = [_as_read(x, sizes) for x in inputs]
    keeps = kept_stages(call.recompute, save)
    program, kept_bytes = compile_forward(
        call.description, sizes, tuple(s for _, s in given), call.training, keeps
    )
    kept = MEMORY.empty((kept_bytes // sizes.dtype.itemsize,), sizes.dtype)
    nodes = [_activation(sizes, size) for size in plan.sizes(sizes.inputs)[plan.inputs :]]
    weights = readable(weights)
    running = call.running
    assert running is not None
    held, element_bytes = [*parameters, *running.tensors], sizes.dtype.itemsize
    read, addresses = _readable(held, sizes.dtype)
    count = len(parameters)
    _run(
        program, backend, kept, weights, None, call.momentum if call.training else 0.0,
        [0, *_addresses([x for x, _ in given]), *_addresses(nodes), *[0] * plan.nodes,
         *[0] * plan.inputs, *call.places.addresses(addresses[:count], element_bytes),
         *running.places.addresses(addresses[count:], element_bytes)],
    )  # fmt: skip
    if call.training:
        if read is not held:
            _copy_back(running, read[count:], sizes.channels)
        torch.autograd.graph.increment_version(running.tensors)
    return nodes, kept


def backward(
    call: CellCall,
    counts: tuple[int, int],
    needed: Sequence[bool],
    saved: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of the inputs, the mixing weights and the parameters; see `Passes`."""
    plan, (inputs, count) = CellPlan.of(call.description), counts
    states, weights, rest = split(saved, inputs)
    parameters, nodes, kept = rest[:count], rest[count:-1], rest[-1]
    backend, sizes = _sizes(states, weights, short_stages=call.storage == "bfloat16")
    by_number = dict(zip((i for i in sorted(plan.sources) if i >= inputs), nodes, strict=True))
    state_sizes = plan.sizes(sizes.inputs)
    read: list[tuple[Tensor | None, Strides]] = [_as_read(x, sizes) for x in states]
    read += [
        _as_read(by_number[i], sizes) if i in by_number else (None, None)
        for i in range(inputs, len(state_sizes))
    ]
    given = [
        _as_read(_activation(sizes, size).zero_() if g is None else g, sizes)
        for g, size in zip(gradients, state_sizes[inputs:], strict=True)
    ]
    needs_input, needs_parameter = needed[:inputs], needed[inputs + 1 :]
    program = compile_backward(
        call.description, sizes, tuple(s for _, s in read), tuple(s for _, s in given),
        call.training, kept_stages(call.recompute, True), tuple(needs_input),
        bytes([needs_parameter[holder] for holder in call.places.holders]),
    )  # fmt: skip
    vector = MEMORY.empty((program.elements,), sizes.dtype)
    d_inputs = [
        _activation(sizes, size) if needs else None
        for size, needs in zip(sizes.inputs, needs_input, strict=True)
    ]
    weights, kept = readable(weights), aligned(kept)
    parameters, addresses = _readable(parameters, sizes.dtype)
    d_weights = torch.zeros_like(weights, memory_format=torch.contiguous_format)
    _run(
        program, backend, kept, weights, d_weights, 0.0,
        [vector.data_ptr(), *_addresses([x for x, _ in read]), *_addresses([g for g, _ in given]),
         *_addresses(d_inputs), *call.places.addresses(addresses, sizes.dtype.itemsize),
         *[0] * (2 * plan.norms)],
    )  # fmt: skip
    return [*d_inputs, d_weights, *gradients_of(parameters, needs_parameter, vector)]


def _sizes(
    inputs: Sequence[Tensor], weights: Tensor, *, short_stages: bool
) -> tuple[CpuBackend, Sizes]:
    """The backend, and the sizes that a program is compiled for.

    Only outputs in float32 are stored in bfloat16, whatever `short_stages` is.
    """
    images, channels, *_ = inputs[0].shape
    dtype = inputs[0].dtype
    backend = backend_for("cpu", dtype)
    assert isinstance(backend, CpuBackend)
    width = backend.width(channels)
    spatial = tuple((x.shape[2], x.shape[3]) for x in inputs)
    lanes = backend.lanes(width)
    return backend, Sizes(
        images, channels, width, lanes, dtype, spatial, weights.shape[1],
        short_stages=short_stages and dtype == torch.float32,
    )  # fmt: skip


def _as_read(x: Tensor, sizes: Sizes) -> tuple[Tensor, Strides]:
    """A tensor (N, C, H, W) whose channels lie side by side, and its strides unless it is packed.

    The kernels read it where it is if it needs neither padding nor another order.
    """
    x = in_memory(x)
    packed = x.is_contiguous(memory_format=torch.channels_last)
    address = x.data_ptr()
    if packed and sizes.width == sizes.channels and address % ALIGNMENT == 0:
        return x, None
    if address % x.element_size() or (x.stride(1) != 1 and sizes.channels > 1):
        x = x.clone(memory_format=torch.channels_last)
        return _as_read(x, sizes)
    return x, (x.stride(0), x.stride(2), x.stride(3))


def _activation(sizes: Sizes, size: tuple[int, int]) -> Tensor:
    """An uninitialised tensor (N, C, H, W) in channels_last.

    It is no view, since autograd forbids changes of views in place where an operator has several
    outputs.
    """
    (height, width_px), channels = size, sizes.channels
    shape = sizes.images, channels, height, width_px
    strides = height * width_px * channels, 1, width_px * channels, channels
    if math.prod(shape) * sizes.dtype.itemsize < SMALLEST_BYTES:
        return torch.empty_strided(shape, strides, dtype=sizes.dtype)
    memory = MEMORY.empty((math.prod(shape),), sizes.dtype)
    return memory.new_empty(0).set_(memory.untyped_storage(), 0, shape, strides)


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    """Addresses; 0 for None."""
    return [0 if t is None else t.data_ptr() for t in tensors]


def _readable(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Sequence[Tensor], list[int]]:
    """The tensors and their addresses, with copies of those that kernels cannot read.

    Kernels read element by element.
    """
    addresses = list(map(Tensor.data_ptr, tensors))
    ends = map(add, map(Tensor.storage_offset, tensors), map(Tensor.numel, tensors))
    storages = map(UntypedStorage.nbytes, map(Tensor.untyped_storage, tensors))
    if (
        all(map(Tensor.is_contiguous, tensors))
        and set(map(DTYPE, tensors)) <= {dtype}
        and reduce(or_, addresses, 0) % dtype.itemsize == 0
        and not any(map(Tensor.is_neg, tensors))
        and all(map(le, map(dtype.itemsize.__mul__, ends), storages))
    ):
        return tensors, addresses
    copies = [readable(in_memory(t).to(dtype)) for t in tensors]
    return copies, list(map(Tensor.data_ptr, copies))


def _copy_back(running: Held, copies: Sequence[Tensor], channels: int) -> None:
    """Copy the running statistics of a cell from copies of what holds them."""
    for place in running.places.listed:
        old, new = running.tensors[place.holder], copies[place.holder]
        if old is not new:
            part = slice(place.start, place.start + channels)
            old[part].copy_(new[part])


def _run(
    program: Program,
    backend: CpuBackend,
    kept: Tensor,
    weights: Tensor,
    d_weights: Tensor | None,
    momentum: float,
    bases: Sequence[int],
) -> None:
    """Run a program with scratch memory of its own; `bases` are those behind both workspaces."""
    dtype = kept.dtype
    scratch = MEMORY.empty((program.scratch.size // dtype.itemsize,), dtype)
    program.run(
        backend.instructions,
        load_library(),
        [0, kept.data_ptr(), scratch.data_ptr(), *bases],
        weights.data_ptr(),
        None if d_weights is None else d_weights.data_ptr(),
        momentum,
    )
