"""Both passes through a cell by the Triton kernels, each a program of prepared launches.

This module is one of `hwnas.kernels.function.Passes`. A program is recorded when a cell is first
called with some sizes, and kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from hwnas.kernels.function import CellCall, split
from hwnas.kernels.fused import FusedCell, GroupValues
from hwnas.kernels.held import Held
from hwnas.kernels.norms import MEAN, RESIDUAL, TABLE_ROWS, VARIANCE
from hwnas.kernels.operator import (
    aligned,
    backend_for,
    from_layout,
    gradients_of,
    kept_stages,
    to_layout,
    without_base,
)
from hwnas.kernels.plan import CellPlan, parameter_shape
from hwnas.kernels.triton.backend import TritonBackend
from hwnas.kernels.triton.constants import kept_on_device
from hwnas.kernels.triton.launch import counters_of
from hwnas.kernels.triton.packing import PackedParameters, joined, packed_positions
from hwnas.kernels.triton.program import ALIGNMENT, Program, Recorder

PROGRAMS = 512
"""Programs that are kept."""


class Sizes(NamedTuple):
    """What a program depends on beside the plan.

    Attributes:
        images: N.
        channels: C without padding.
        inputs: (height, width) of each input.
        options: number of options of each edge.
        dtype: of activations.
        device: of all tensors.
        precision: of float32 matrix products.
    """

    images: int
    channels: int
    inputs: tuple[tuple[int, int], ...]
    options: int
    dtype: torch.dtype
    device: torch.device
    precision: str


class ForwardProgram(NamedTuple):
    """A forward pass.

    Attributes:
        program: its launches; bases are the inputs, the mixing weights, the packed parameters and
            the counters, results are the nodes.
        nodes: shapes of the nodes, with padded channels.
        saved: shapes and types of what is kept for the backward pass.
        groups: for each group the positions of its table and of the outputs of its first and its
            second stage there; None where they are not kept.
        packed_elements: number of elements of the packed parameters.
        read: states that an operator reads; edges with `none` alone read nothing.
    """

    program: Program
    nodes: list[tuple[int, ...]]
    saved: list[tuple[tuple[int, ...], torch.dtype]]
    groups: list[tuple[int, int | None, int | None]]
    packed_elements: int
    read: frozenset[int]

    def workspace(self, sizes: Sizes) -> Tensor:
        """Memory for what is kept, and behind it for the packed parameters, as bytes."""
        packed = -(-self.packed_elements * sizes.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        size = self.program.saved_bytes + packed
        return torch.empty(size, dtype=torch.uint8, device=sizes.device)

    def packed(self, workspace: Tensor, sizes: Sizes) -> Tensor:
        """The place of the packed parameters."""
        return workspace[self.program.saved_bytes :].view(sizes.dtype)[: self.packed_elements]

    def values(self, workspace: Tensor) -> list[GroupValues]:
        """What `FusedCell.forward` returned, as views of what was kept."""
        views = [
            workspace[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
            for offset, (shape, dtype) in zip(self.program.saved, self.saved, strict=True)
        ]
        return [
            GroupValues(
                views[table], None, None if first is None else views[first],
                None if second is None else views[second],
            )
            for table, first, second in self.groups
        ]  # fmt: skip


def suits(plan: CellPlan) -> bool:
    """Whether a cell in training consists of launches alone.

    PyTorch copies gradients of scales and shifts, fills nodes that nothing leads to with zeros, and
    computes the edges out of a state that only the identity reads.
    """
    read = [group for group in plan.groups if group.terms]
    reached = {term.target for group in read for term in group.terms}
    return (
        any(group.first for group in read)
        and all(group.first or group.uses_pools for group in read)
        and len(reached) == plan.nodes
        and all(norm.gamma is None for group in plan.groups for norm in group.norms)
    )


def forward(
    call: CellCall,
    inputs: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    *,
    save: bool,
) -> tuple[list[Tensor], Tensor]:
    """Nodes, and the workspace that the backward pass reads; see `Passes`."""
    sizes, width = _sizes(inputs, weights)
    keeps = kept_stages(call.recompute, save)
    found = _forward_program(call.description, sizes, keeps)
    states, weights = [to_layout(x, width) for x in inputs], aligned(weights)
    workspace = found.workspace(sizes)
    packed = found.packed(workspace, sizes)
    gather = _gather(call.description, sizes.channels, width, sizes.device)
    torch.index_select(joined(parameters), 0, gather, out=packed)
    counters, _ = _zeros(call.description, weights)
    nodes = [weights.new_empty(shape, dtype=sizes.dtype) for shape in found.nodes]
    found.program.run([*states, weights, packed, counters, *nodes], workspace)
    if call.running is not None and call.running.tensors:
        _update_running(call, call.running, sizes, keeps, workspace)
    return [without_base(from_layout(x, sizes.channels)) for x in nodes], workspace


def backward(
    call: CellCall,
    counts: tuple[int, int],
    needed: Sequence[bool],
    saved: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of the inputs, the mixing weights and the parameters; see `Passes`."""
    inputs, count = counts
    given, weights, rest = split(saved, inputs)
    parameters, nodes, workspace = rest[:count], rest[count:-1], aligned(rest[-1])
    sizes, width = _sizes(given, weights)
    keeps = kept_stages(call.recompute, True)
    found = _forward_program(call.description, sizes, keeps)
    states, weights = [to_layout(x, width) for x in (*given, *nodes)], aligned(weights)
    of_nodes = [
        weights.new_zeros(shape, dtype=sizes.dtype) if g is None else to_layout(g, width)
        for g, shape in zip(gradients, found.nodes, strict=True)
    ]
    needs_input, holders = tuple(needed[:inputs]), needed[inputs + 1 :]
    needs_parameter = bytes([holders[holder] for holder in call.places.holders])
    program = _backward_program(call.description, sizes, keeps, needs_input, needs_parameter)
    counters, d_weights = _zeros(call.description, weights)
    elements = sum(p.numel() for p, n in zip(parameters, holders, strict=True) if n)
    vector = weights.new_empty(elements, dtype=sizes.dtype)
    computed = [n and i in found.read for i, n in enumerate(needs_input)]
    d_inputs = [torch.empty_like(x) for x, c in zip(states, computed, strict=False) if c]
    packed = found.packed(workspace, sizes)
    program.run(
        [*states, *of_nodes, weights, packed, workspace, counters, d_weights, vector, *d_inputs],
        workspace,
    )
    results = iter(d_inputs)
    filled = [
        (next(results) if c else torch.zeros_like(x)) if n else None
        for x, n, c in zip(states, needs_input, computed, strict=False)
    ]
    shown = [None if d is None else from_layout(d, sizes.channels) for d in filled]
    return [*shown, d_weights, *gradients_of(parameters, holders, vector)]


@lru_cache(maxsize=PROGRAMS)
def _forward_program(description: str, sizes: Sizes, keeps: tuple[bool, bool]) -> ForwardProgram:
    """Record a forward pass on zeros."""
    plan = CellPlan.of(description)
    stand_ins = _StandIns(plan, sizes)
    recorder = Recorder(sizes.precision, stand_ins.packed)
    cell = FusedCell(plan, recorder, stand_ins.parameters, None)
    nodes, values = cell.forward(stand_ins.states, stand_ins.weights, keeps)
    saved: list[Tensor] = []
    groups = []
    for value in values:
        places: list[int | None] = []
        for tensor in (value.table, value.first, value.second):
            places.append(None if tensor is None else len(saved))
            saved += [] if tensor is None else [tensor]
        table, first, second = places
        assert table is not None
        groups.append((table, first, second))
    bases = [*stand_ins.states, stand_ins.weights, stand_ins.packed.flat, stand_ins.counters]
    program = Program(recorder, bases, nodes, saved)
    kinds = [(tuple(t.shape), t.dtype) for t in saved]
    shapes = [tuple(node.shape) for node in nodes]
    read = frozenset(group.source for group in plan.groups if group.terms)
    return ForwardProgram(program, shapes, kinds, groups, stand_ins.packed.flat.numel(), read)


@lru_cache(maxsize=PROGRAMS)
def _backward_program(
    description: str,
    sizes: Sizes,
    keeps: tuple[bool, bool],
    needs_input: tuple[bool, ...],
    needs_parameter: bytes,
) -> Program:
    """Record a backward pass on zeros.

    Bases are the inputs, the nodes that edges read, the gradients of the nodes, the mixing weights,
    the packed parameters, what the forward pass kept, counters, the gradients of the mixing weights
    and of the parameters; results are the gradients of the inputs.
    """
    plan = CellPlan.of(description)
    stand_ins = _StandIns(plan, sizes)
    forward_program = _forward_program(description, sizes, keeps)
    shapes = forward_program.nodes
    gradients = [stand_ins.zeros(shape) for shape in shapes]
    nodes = [
        stand_ins.zeros(shape) if plan.inputs + i in plan.sources else gradients[i]
        for i, shape in enumerate(shapes)
    ]
    kept = stand_ins.zeros((forward_program.program.saved_bytes,), torch.uint8)
    d_weights = torch.zeros_like(stand_ins.weights)
    needed = [p for p, n in zip(stand_ins.parameters, needs_parameter, strict=True) if n]
    vector = stand_ins.zeros((sum(p.numel() for p in needed),))
    targets = gradients_of(stand_ins.parameters, list(map(bool, needs_parameter)), vector)
    recorder = Recorder(sizes.precision, stand_ins.packed)
    cell = FusedCell(plan, recorder, stand_ins.parameters, None)
    d_inputs, _ = cell.backward(
        [*stand_ins.states, *nodes], forward_program.values(kept), stand_ins.weights, gradients,
        targets, needs_input, d_weights,
    )  # fmt: skip
    read = [node for i, node in enumerate(nodes) if plan.inputs + i in plan.sources]
    bases = [
        *stand_ins.states, *read, *gradients, stand_ins.weights, stand_ins.packed.flat, kept,
        stand_ins.counters, d_weights, vector,
    ]  # fmt: skip
    wanted = zip(d_inputs, needs_input, strict=True)
    return Program(recorder, bases, [d for d, needed in wanted if needed and d is not None])


class _StandIns:
    """Zeros in place of the tensors of a call, each with memory of its own.

    Args:
        plan: the cell.
        sizes: of the tensors.
    """

    def __init__(self, plan: CellPlan, sizes: Sizes) -> None:
        self._sizes = sizes
        backend = TritonBackend(sizes.precision)
        width, channels = backend.width(sizes.channels), sizes.channels
        self.states = [self.zeros((sizes.images, *size, width)) for size in sizes.inputs]
        edges = 1 + max(term.edge for group in plan.groups for term in group.terms)
        self.weights = self.zeros((edges, sizes.options), torch.float32)
        self.counters = self.zeros((counters_of(plan),), torch.int32)
        self.parameters = [self.zeros(parameter_shape(*p, channels)) for p in plan.parameters]
        packed = backend.pack(plan, self.parameters)
        assert isinstance(packed, PackedParameters)
        packed.free_counters = self.counters
        self.packed = packed

    def zeros(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Zeros, of the activations' type by default."""
        return torch.zeros(
            tuple(shape), dtype=dtype or self._sizes.dtype, device=self._sizes.device
        )


@kept_on_device(limit=PROGRAMS)
def _gather(description: str, channels: int, width: int, device: torch.device) -> Tensor:
    """For each packed element its position among a zero and all parameters in the plan's order."""
    plan = CellPlan.of(description)
    convolutions = [c for group in plan.groups for c in (*group.first, *group.second)]
    sizes = [math.prod(parameter_shape(*names, channels)) for names in plan.parameters]
    zero, *parts = torch.split(torch.arange(1 + sum(sizes)), [1, *sizes])
    packed = torch.cat([zero, *(parts[i] for c in convolutions for i in c.weights)])
    return packed[packed_positions(convolutions, 0, channels, width)].to(device)


def _zeros(description: str, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Counters of a pass, and gradients of the mixing weights, in one piece of memory."""
    count = counters_of(CellPlan.of(description))
    start = -(-count // 4) * 4
    zeros = weights.new_zeros(start + weights.numel())
    return zeros[:count].view(torch.int32), zeros[start:].view(weights.shape)


def _sizes(inputs: Sequence[Tensor], weights: Tensor) -> tuple[Sizes, int]:
    """What a program depends on, and the number of channels with padding."""
    images, channels, *_ = inputs[0].shape
    backend = backend_for("triton", inputs[0].dtype)
    assert isinstance(backend, TritonBackend)
    spatial = tuple((x.shape[2], x.shape[3]) for x in inputs)
    sizes = Sizes(
        images, channels, spatial, weights.shape[1], inputs[0].dtype, inputs[0].device,
        backend.precision,
    )  # fmt: skip
    return sizes, backend.width(channels)


class Statistics(NamedTuple):
    """How new values of running statistics are read off what a forward pass kept.

    A value is `values * factor + errors * share`.

    Attributes:
        places: (2, rows, C), positions of means or variances, and of the rounding errors of means.
        factors: (rows, 1), 1 for means, M / (M - 1) for variances of M values of a channel.
        shares: (rows, 1), 1 for means, 0 for variances.
    """

    places: Tensor
    factors: Tensor
    shares: Tensor


@kept_on_device(limit=PROGRAMS)
def _statistics(
    description: str,
    sizes: Sizes,
    keeps: tuple[bool, bool],
    order: tuple[int, ...],
    device: torch.device,
) -> Statistics:
    """The rows are means and variances, of which `order` has the positions in the plan's order."""
    plan = CellPlan.of(description)
    found = _forward_program(description, sizes, keeps)
    places = torch.empty(2, 2, plan.norms, sizes.channels, dtype=torch.int64)
    factors, shares = torch.ones(2, plan.norms, 1), torch.zeros(2, plan.norms, 1)
    shares[0] = 1
    states = plan.sizes(sizes.inputs)
    for group, (table, _, _) in zip(plan.groups, found.groups, strict=True):
        if not group.norms:
            continue
        height, width_px = states[group.terms[0].target]
        pixels = sizes.images * height * width_px
        width = found.saved[table][0][-1]
        for row, norm in enumerate(group.norms):
            first = found.program.saved[table] // 4 + row * TABLE_ROWS * width
            channels = torch.arange(sizes.channels)
            for i, kind in enumerate((MEAN, VARIANCE)):
                places[0, i, norm.position] = first + kind * width + channels
            places[1, :, norm.position] = first + RESIDUAL * width + channels
            factors[1, norm.position] = pixels / (pixels - 1)
    index = torch.tensor(order)
    return Statistics(*(
        t.flatten(-3, -2).index_select(-2, index).to(device)
        for t in (places, factors, shares)
    ))  # fmt: skip


def _update_running(
    call: CellCall, running: Held, sizes: Sizes, keeps: tuple[bool, bool], workspace: Tensor
) -> None:
    """Move running statistics towards the batch's own, as `torch.nn.BatchNorm2d` does."""
    order = running.order or tuple(range(len(running.places.listed)))
    places, factors, shares = _statistics(call.description, sizes, keeps, order, sizes.device)
    values, errors = workspace.view(torch.float32).take(places)
    batch = torch.addcmul(values * factors, errors, shares)
    old = running.separate() if running.order is None else running.tensors
    new = torch.split(batch.view(-1), [len(tensor) for tensor in old])
    if set(map(attrgetter("dtype"), old)) != {torch.float32}:
        new = tuple(part.to(tensor.dtype) for part, tensor in zip(new, old, strict=True))
    torch._foreach_lerp_(old, new, call.momentum)
