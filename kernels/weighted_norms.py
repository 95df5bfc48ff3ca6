"""The weighted sum of batch-normalised branches that were computed elsewhere, as one operator.

What any space can use whose candidates are made by other means, such as the inverted bottlenecks of
mobile networks: statistics, normalisation and the sum are one pass over the branches, and so is
their backward pass (README.md has the derivation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hwnas.kernels.backend import MEAN, RESIDUAL, TABLE_ROWS, VARIANCE, MixTerm
from hwnas.kernels.mixed_op import choose_implementation, compute_dtype
from hwnas.kernels.operator import backend_for, from_layout, to_layout
from hwnas.kernels.reference import BATCH_NORM_EPS


def weighted_norms(
    branches: Sequence[Tensor],
    mixing_weights: Tensor,
    running_means: Sequence[Tensor],
    running_variances: Sequence[Tensor],
    scales: Sequence[Tensor] | None = None,
    shifts: Sequence[Tensor] | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    impl: str = "auto",
) -> Tensor:
    """`sum_k mixing_weights[k] batch_norm_k(branches[k])`.

    Args:
        branches: K tensors (N, C, H, W), any memory format.
        mixing_weights: (K,), need not sum to 1.
        running_means, running_variances: K vectors (C,); updated in place when training.
        scales, shifts: K vectors (C,) each, or None for 1 and 0.
        training: batch statistics if true, else the running ones.
        momentum: of the running statistics, as in `torch.nn.BatchNorm2d`.
        impl: as for `hwnas.kernels.mixed_op`.

    Returns:
        (N, C, H, W), channels_last.

    Raises:
        ValueError: for branches of several shapes, lists of other lengths, or one value a channel
            when training.
        RuntimeError: when the `impl` that was asked for can't be used here.
    """
    if any(branch.numel() == 0 for branch in branches):
        raise ValueError("the branches are empty")
    lengths = {len(branches), len(mixing_weights), len(running_means), len(running_variances)}
    lengths |= {len(vectors) for vectors in (scales, shifts) if vectors is not None}
    if len(lengths) != 1 or not branches:
        raise ValueError(f"one weight, mean, variance, scale and shift a branch, got {lengths}")
    if len({branch.shape for branch in branches}) != 1:
        raise ValueError("branches of one shape expected")
    channels = branches[0].shape[1]
    count = branches[0].numel() // channels
    if training and count < 2:
        raise ValueError("batch statistics need more than one value a channel")
    chosen = choose_implementation(impl, branches, ())
    if chosen == "torch":
        return _reference(
            branches, mixing_weights, running_means, running_variances, scales, shifts, training,
            momentum,
        )  # fmt: skip
    dtype = compute_dtype(branches[0])
    affine: list[Tensor] = []
    if scales is not None or shifts is not None:
        affine = [
            *(scales or [torch.ones_like(mean) for mean in running_means]),
            *(shifts or [torch.zeros_like(mean) for mean in running_means]),
        ]
    running = [] if training else [*running_means, *running_variances]
    out, table = weighted_norms_op(
        [branch.to(dtype) for branch in branches],
        mixing_weights.to(torch.promote_types(dtype, torch.float32)),
        [vector.to(dtype) for vector in affine],
        [vector.to(dtype) for vector in running],
        chosen,
    )
    if training:
        with torch.no_grad():
            mean = (table[:, MEAN] + table[:, RESIDUAL])[:, :channels]
            variance = table[:, VARIANCE, :channels] * (count / (count - 1))
            for old, new in ((running_means, mean), (running_variances, variance)):
                batch = [row.to(vector.dtype) for row, vector in zip(new, old, strict=True)]
                torch._foreach_lerp_(list(old), batch, momentum)
    return out.to(branches[0].dtype)


def _reference(
    branches: Sequence[Tensor],
    mixing_weights: Tensor,
    running_means: Sequence[Tensor],
    running_variances: Sequence[Tensor],
    scales: Sequence[Tensor] | None,
    shifts: Sequence[Tensor] | None,
    training: bool,
    momentum: float,
) -> Tensor:
    total: Tensor | None = None
    for k, branch in enumerate(branches):
        y = torch.nn.functional.batch_norm(
            branch.contiguous(memory_format=torch.channels_last),
            running_means[k],
            running_variances[k],
            None if scales is None else scales[k],
            None if shifts is None else shifts[k],
            training,
            momentum,
            BATCH_NORM_EPS,
        )
        weight = mixing_weights[k].to(y.dtype)
        total = weight * y if total is None else torch.addcmul(total, weight, y)
    assert total is not None
    return total


@torch.library.custom_op("hwnas::weighted_norms", mutates_args=())
def weighted_norms_op(
    branches: Sequence[Tensor],
    weights: Tensor,
    affine: Sequence[Tensor],
    running: Sequence[Tensor],
    backend: str,
) -> list[Tensor]:
    """The sum (N, C, H, W), and the table of the norms (K, 6, width).

    Args:
        branches: (N, C, H, W) each.
        weights: (K,).
        affine: scales, then shifts; empty for none.
        running: means, then variances; empty for the batch's own.
        backend: name.
    """
    kernels = backend_for(backend, branches[0].dtype)
    channels, k = branches[0].shape[1], len(branches)
    width = kernels.width(channels)
    values = [to_layout(branch, width) for branch in branches]
    wide = torch.promote_types(values[0].dtype, torch.float32)
    table = values[0].new_empty(k, TABLE_ROWS, width, dtype=wide)
    if running:
        kept = torch.stack([torch.stack((running[i], running[k + i])) for i in range(k)])
        statistics = torch.nn.functional.pad(kept, (0, width - channels))
    else:
        statistics = kernels.statistics(values)
    scales, shifts = (affine[:k], affine[k:]) if affine else ([None] * k, [None] * k)
    kernels.normalise(statistics, scales, shifts, table)
    terms = [
        MixTerm(value, row, i)
        for i, (value, row) in enumerate(zip(values, table.unbind(), strict=True))
    ]
    return [from_layout(kernels.mix(terms, weights), channels), table]


@weighted_norms_op.register_fake
def _(
    branches: Sequence[Tensor],
    weights: Tensor,
    affine: Sequence[Tensor],
    running: Sequence[Tensor],
    backend: str,
) -> list[Tensor]:
    width = backend_for(backend, branches[0].dtype).width(branches[0].shape[1])
    out = torch.empty_like(branches[0], memory_format=torch.channels_last)
    wide = torch.promote_types(out.dtype, torch.float32)
    return [out, out.new_empty(len(branches), TABLE_ROWS, width, dtype=wide)]


@torch.library.custom_op("hwnas::weighted_norms_backward", mutates_args=())
def weighted_norms_backward_op(
    gradient: Tensor,
    branches: Sequence[Tensor],
    weights: Tensor,
    table: Tensor,
    backend: str,
    batch: bool,
) -> list[Tensor]:
    """Gradients of the branches, of the weights (K,), of scales and of shifts (K, C)."""
    kernels = backend_for(backend, branches[0].dtype)
    channels = branches[0].shape[1]
    width = kernels.width(channels)
    g = to_layout(gradient, width)
    terms = [
        (g, to_layout(branch, width), row)
        for branch, row in zip(branches, table.unbind(), strict=True)
    ]
    own = None if batch else table.new_zeros(len(table))
    coefficients, d_weights, d_scale, d_shift = kernels.normalise_backward(
        kernels.reduce(terms), table, weights, g.numel() // width, own
    )
    d_branches = kernels.apply(terms, coefficients.to(table.dtype))
    vectors = [d[:, :channels].to(weights.dtype) for d in (d_scale, d_shift)]
    return [
        *(from_layout(d, channels).clone(memory_format=torch.channels_last) for d in d_branches),
        d_weights.to(weights.dtype),
        *(vector.contiguous() for vector in vectors),
    ]


@weighted_norms_backward_op.register_fake
def _(
    gradient: Tensor,
    branches: Sequence[Tensor],
    weights: Tensor,
    table: Tensor,
    backend: str,
    batch: bool,
) -> list[Tensor]:
    vector = weights.new_empty(len(branches), branches[0].shape[1])
    d_branches = [torch.empty_like(b, memory_format=torch.channels_last) for b in branches]
    return [*d_branches, weights.new_empty(weights.shape), vector, torch.empty_like(vector)]


def _setup_context(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    branches, weights, affine, running, ctx.backend = inputs
    ctx.counts = len(branches), len(affine), len(running)
    ctx.save_for_backward(*branches, weights, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple:
    k, affine, running = ctx.counts
    *branches, weights, table = ctx.saved_tensors
    if gradients[0] is None:
        return [None] * k, None, [None] * affine, [None] * running, None
    results = weighted_norms_backward_op(
        gradients[0], branches, weights, table, ctx.backend, running == 0
    )
    *d_branches, d_weights, d_scale, d_shift = results
    d_affine = [*d_scale.unbind(), *d_shift.unbind()] if affine else []
    return d_branches, d_weights, d_affine, [None] * running, None


weighted_norms_op.register_autograd(_backward, setup_context=_setup_context)
