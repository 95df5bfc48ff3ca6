"""The fused mixed operators as PyTorch operators: schema, shapes, gradients, running statistics.

`hwnas::mixed_cell` returns the nodes and, after them, what its backward pass needs: the tables of
batch norms, then the outputs of first and second stages unless they are recomputed. Only
first-order gradients are supported: the backward pass cannot be differentiated, and neither pass
can run under the transforms of `hwnas.kernels.transforms`.

Tensors may come from anywhere: strides and addresses that the kernels cannot read are mended by a
copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.kernels.backend import Backend
from hwnas.kernels.fused import FusedCell, GroupValues
from hwnas.kernels.norms import TABLE_ROWS, batch_statistics
from hwnas.kernels.plan import CellPlan
from hwnas.kernels.saved_tensors import SavedTensors, refuse_second_derivatives

ALIGNMENT = 64
"""Bytes that the kernels expect the address of an activation to be a multiple of."""


def backend_for(name: str, dtype: torch.dtype) -> Backend:
    """The backend `cpu` or `triton` for activations of a type.

    On a GPU products of float32 are rounded to TF32 where PyTorch's are
    (`torch.backends.cuda.matmul.fp32_precision`), which they are not unless it is asked for.

    Raises:
        ImportError: when Triton is not installed.
        RuntimeError: when the backend cannot be used here.
    """
    if name == "cpu":
        return _cpu_backend(dtype)
    short = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return _triton_backend("tf32" if short else "ieee")


@cache
def _cpu_backend(dtype: torch.dtype) -> Backend:
    from hwnas.kernels.cpu.backend import CpuBackend

    return CpuBackend(dtype)


@cache
def _triton_backend(precision: str) -> Backend:
    from hwnas.kernels.triton.backend import TritonBackend

    return TritonBackend(precision)


def to_layout(x: Tensor, width: int) -> Tensor:
    """Convert (N, C, H, W) with any strides to (N, H, W, width), contiguous and aligned."""
    x = x.permute(0, 2, 3, 1)
    return aligned(F.pad(x, (0, width - x.shape[-1])) if width > x.shape[-1] else x)


def aligned(x: Tensor) -> Tensor:
    """The tensor, or a copy of it that is contiguous and at an address that kernels can read."""
    x = in_memory(x).contiguous()
    return x.clone() if x.data_ptr() % ALIGNMENT else x


def from_layout(x: Tensor, channels: int) -> Tensor:
    """Convert (N, H, W, width) to (N, channels, H, W) in channels_last."""
    return x[..., :channels].contiguous().permute(0, 3, 1, 2)


def readable(x: Tensor) -> Tensor:
    """The tensor, or a copy of it whose elements can be read one by one.

    A file that is mapped into memory may hold them at any address.
    """
    x = in_memory(x).contiguous()
    return x.clone() if x.data_ptr() % x.element_size() else x


def in_memory(x: Tensor) -> Tensor:
    """The tensor, or a copy of it if its values are the negatives of those in memory.

    Raises:
        RuntimeError: when its storage has been freed or shrunk.
    """
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    if x.numel() and x.untyped_storage().nbytes() < (x.storage_offset() + last + 1) * x.itemsize:
        raise RuntimeError(
            f"a tensor of shape {tuple(x.shape)} reaches beyond its storage of "
            f"{x.untyped_storage().nbytes()} bytes: the storage was freed or shrunk"
        )
    return x.resolve_neg()


def without_base(x: Tensor) -> Tensor:
    """The same memory as a tensor that is no view, so that autograd lets callers change it.

    Autograd forbids changes of a view in place where an operator has several outputs.
    """
    return x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())


def kept_stages(recompute: str, save: bool) -> tuple[bool, bool]:
    """Whether the outputs of first and of second stages are returned for the backward pass."""
    return save and recompute == "nothing", save and recompute != "all"


def _running(statistics: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]] | None:
    """Split a list into means and variances, its two halves; None if it is empty."""
    if not statistics:
        return None
    half = len(statistics) // 2
    return statistics[:half], statistics[half:]


@torch.library.custom_op("hwnas::mixed_cell", mutates_args=())
def mixed_cell_op(
    inputs: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    running: Sequence[Tensor],
    description: str,
    backend: str,
    recompute: str,
    save: bool,
) -> list[Tensor]:
    """Evaluate a cell.

    Args:
        inputs: the cell's inputs, (N, C, H, W) each.
        weights: mixing weights, (edges, options).
        parameters: the cell's parameters in the plan's order.
        running: running means, then variances, in the plan's order; empty to use the batch's own
            statistics.
        description: the cell's structure, as `CellPlan.describe` returns it.
        backend: name of the backend.
        recompute: one of `RECOMPUTE`.
        save: whether to return what a backward pass needs.

    Returns:
        Nodes (N, C, OH, OW); the table of each group; the outputs of first stages, then of second
        stages, of the groups where they are kept.
    """
    plan = CellPlan.of(description)
    kernels = backend_for(backend, inputs[0].dtype)
    channels = inputs[0].shape[1]
    width = kernels.width(channels)
    cell = FusedCell(plan, kernels, [readable(p) for p in parameters], _running(running))
    states = [to_layout(x, width) for x in inputs]
    nodes, groups = cell.forward(states, weights.contiguous(), kept_stages(recompute, save))
    first = [g.first for g in groups if g.first is not None]
    second = [g.second for g in groups if g.second is not None]
    returned = [without_base(from_layout(x, channels)) for x in nodes]
    return [*returned, *(g.table for g in groups), *first, *second]


@mixed_cell_op.register_fake
def _(
    inputs: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    running: Sequence[Tensor],
    description: str,
    backend: str,
    recompute: str,
    save: bool,
) -> list[Tensor]:
    plan = CellPlan.of(description)
    images, channels, *_ = inputs[0].shape
    width = backend_for(backend, inputs[0].dtype).width(channels)
    like = inputs[0]
    sizes = [tuple(x.shape[2:]) for x in inputs]
    for source, stride in plan.origins:
        sizes.append((-(-sizes[source][0] // stride), -(-sizes[source][1] // stride)))
    nodes = [
        like.new_empty(images, *size, channels).permute(0, 3, 1, 2) for size in sizes[len(inputs) :]
    ]
    wide = torch.promote_types(like.dtype, torch.float32)
    tables = [like.new_empty(len(g.norms) + 1, TABLE_ROWS, width, dtype=wide) for g in plan.groups]
    keeps = kept_stages(recompute, save)
    stages = []
    for keep, name in zip(keeps, ("first", "second"), strict=True):
        for group in plan.groups:
            count = len(getattr(group, name))
            if keep and count:
                height, width_px = sizes[group.source]
                size = -(-height // group.stride), -(-width_px // group.stride)
                stages.append(like.new_empty(count, images, *size, width))
    return [*nodes, *tables, *stages]


@torch.library.custom_op("hwnas::mixed_cell_backward", mutates_args=())
def mixed_cell_backward_op(
    gradients: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    outputs: Sequence[Tensor],
    description: str,
    backend: str,
    recompute: str,
    batch: bool,
    needs_input: Sequence[bool],
    needs_parameter: Sequence[bool],
) -> list[Tensor]:
    """Gradients of the needed inputs, of the weights, and of all needed parameters in one vector.

    Args:
        gradients: gradients of the nodes, (N, C, OH, OW) each.
        inputs: as for `hwnas::mixed_cell`.
        weights: as for `hwnas::mixed_cell`.
        parameters: as for `hwnas::mixed_cell`.
        outputs: everything that `hwnas::mixed_cell` returned. A node that no edge reads may be
            replaced by any tensor of its shape.
        description: as for `hwnas::mixed_cell`.
        backend: as for `hwnas::mixed_cell`.
        recompute: as for `hwnas::mixed_cell`.
        batch: whether the cell was normalised with the batch's own statistics.
        needs_input: for each input, whether its gradient is needed.
        needs_parameter: for each parameter, whether its gradient is needed.
    """
    plan = CellPlan.of(description)
    kernels = backend_for(backend, inputs[0].dtype)
    channels = inputs[0].shape[1]
    width = kernels.width(channels)
    read = plan.sources
    states = [
        to_layout(x, width) if i < len(inputs) or i in read else x
        for i, x in enumerate((*inputs, *outputs[: plan.nodes]))
    ]
    elements = sum(p.numel() for p, n in zip(parameters, needs_parameter, strict=True) if n)
    flat = weights.new_zeros(elements)
    views = gradients_of(parameters, needs_parameter, flat)
    running: tuple[list[Tensor], list[Tensor]] | None = None if batch else ([], [])
    cell = FusedCell(plan, kernels, [readable(p) for p in parameters], running)
    d_inputs, d_weights = cell.backward(
        states,
        _groups(plan, outputs, recompute),
        weights.contiguous(),
        [to_layout(g, width) for g in gradients],
        views,
        needs_input,
    )
    kept = [
        from_layout(torch.zeros_like(x) if g is None else g, channels)
        for g, x, needed in zip(d_inputs, states, needs_input, strict=False)
        if needed
    ]
    return [*kept, d_weights, flat]


@mixed_cell_backward_op.register_fake
def _(
    gradients: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    outputs: Sequence[Tensor],
    description: str,
    backend: str,
    recompute: str,
    batch: bool,
    needs_input: Sequence[bool],
    needs_parameter: Sequence[bool],
) -> list[Tensor]:
    kept = [
        torch.empty_like(x, memory_format=torch.channels_last)
        for x, needed in zip(inputs, needs_input, strict=True)
        if needed
    ]
    total = sum(p.numel() for p, needed in zip(parameters, needs_parameter, strict=True) if needed)
    return [*kept, weights.new_empty(weights.shape), weights.new_empty(total)]


def gradients_of(
    parameters: Sequence[Tensor], needed: Sequence[bool], vector: Tensor
) -> list[Tensor | None]:
    """For each parameter its gradient, a view of the vector of all that are needed, or None."""
    sizes = [p.numel() for p, n in zip(parameters, needed, strict=True) if n]
    parts = iter(torch.split(vector, sizes))
    return [
        (next(parts) if p.dim() == 1 else next(parts).view(p.shape)) if n else None
        for p, n in zip(parameters, needed, strict=True)
    ]


def _groups(plan: CellPlan, outputs: Sequence[Tensor], recompute: str) -> list[GroupValues]:
    """The values of the groups, from the outputs of `hwnas::mixed_cell`."""
    kept = [aligned(t) for t in outputs[plan.nodes :]]
    tables, rest = kept[: len(plan.groups)], iter(kept[len(plan.groups) :])
    keeps_first, keeps_second = kept_stages(recompute, True)
    first = [next(rest) if keeps_first and g.first else None for g in plan.groups]
    second = [next(rest) if keeps_second and g.second else None for g in plan.groups]
    return [GroupValues(t, None, a, b) for t, a, b in zip(tables, first, second, strict=True)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.set_materialize_grads(False)
    states, weights, parameters, running, *settings = inputs
    ctx.description, ctx.backend, ctx.recompute, _ = settings
    ctx.batch = len(running) == 0
    ctx.counts = len(states), len(parameters), len(running)
    plan = CellPlan.of(ctx.description)
    nodes = [output[source - len(states)] for source in _sources_among_nodes(plan)]
    ctx.node_shapes = [node.shape for node in output[: plan.nodes]]
    saved = [*states, weights, *parameters, *nodes, *output[plan.nodes :]]
    ctx.saved = SavedTensors(ctx, saved, len(states))


def _sources_among_nodes(plan: CellPlan) -> list[int]:
    """Numbers of the nodes that edges read. Only these are saved: callers may change the others."""
    return sorted(source for source in plan.sources if source >= plan.inputs)


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    plan = CellPlan.of(ctx.description)
    inputs, parameters, running = ctx.counts
    saved = ctx.saved.of(ctx)
    states, weights = saved[:inputs], saved[inputs]
    tensors = saved[inputs + 1 : inputs + 1 + parameters]
    kept = saved[inputs + 1 + parameters :]
    needs_input, _, needs_parameter, *_ = ctx.needs_input_grad
    given = [
        states[0].new_zeros(shape) if g is None else g
        for g, shape in zip(gradients[: plan.nodes], ctx.node_shapes, strict=True)
    ]
    nodes = list(given)
    sources = _sources_among_nodes(plan)
    for source, node in zip(sources, kept, strict=False):
        nodes[source - inputs] = node
    results = mixed_cell_backward_op(
        given, list(states), weights, list(tensors), [*nodes, *kept[len(sources) :]],
        ctx.description, ctx.backend, ctx.recompute, ctx.batch, list(needs_input),
        list(needs_parameter),
    )  # fmt: skip
    *of_inputs, d_weights, flat = results
    needed_inputs = iter(of_inputs)
    d_inputs = [next(needed_inputs) if needed else None for needed in needs_input]
    d_parameters = gradients_of(tensors, needs_parameter, flat)
    return d_inputs, d_weights, d_parameters, [None] * running, None, None, None, None


mixed_cell_op.register_autograd(_backward, setup_context=_setup_context)
mixed_cell_backward_op.register_autograd(refuse_second_derivatives)


@torch.library.custom_op("hwnas::update_running_statistics", mutates_args=("running",))
def update_running_statistics(
    running: Sequence[Tensor],
    tables: Sequence[Tensor],
    description: str,
    counts: Sequence[int],
    momentum: float,
) -> None:
    """Move running means and variances towards the batch's own, as `torch.nn.BatchNorm2d` does.

    Args:
        running: running means, then variances, in the plan's order.
        tables: the tables of the plan's groups.
        description: the cell's structure, as `CellPlan.describe` returns it.
        counts: N OH OW of each group.
        momentum: weight of the batch's statistics.
    """
    plan = CellPlan.of(description)
    if not running:
        return
    means, variances = batch_statistics(plan, tables, len(running[0]), counts)
    batch = [new.to(old.dtype) for old, new in zip(running, (*means, *variances), strict=True)]
    torch._foreach_lerp_(list(running), batch, momentum)


@update_running_statistics.register_fake
def _(
    running: Sequence[Tensor],
    tables: Sequence[Tensor],
    description: str,
    counts: Sequence[int],
    momentum: float,
) -> None:
    return None
