"""The weighted sum of batch-normalised branches, as one operator.

It serves search spaces whose candidates the fused kernels do not compute, such as the inverted
bottlenecks of mobile networks: each candidate is computed in plain PyTorch up to its last batch
norm, and the batch norms and the weighted sum are one operator, forward and backward. README.md has
the derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hwnas.kernels.choice import choose_implementation, compute_dtype
from hwnas.kernels.norms import MEAN, RESIDUAL, TABLE_ROWS, VARIANCE
from hwnas.kernels.operands import MixTerm, NormTerms
from hwnas.kernels.operator import aligned, backend_for, from_layout, to_layout, without_base
from hwnas.kernels.reference import BATCH_NORM_EPS, channels_last
from hwnas.kernels.saved_tensors import SavedTensors, refuse_second_derivatives


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
        branches: the K tensors to normalise, (N, C, H, W) each, in any memory format.
        mixing_weights: (K,); they need not sum to 1.
        running_means: K vectors (C,), updated in place in training.
        running_variances: K vectors (C,), updated in place in training.
        scales: K vectors (C,); None for ones.
        shifts: K vectors (C,); None for zeros.
        training: whether to use the batch's statistics, and update the running ones in place. If
            false the running statistics are used.
        momentum: momentum of the running statistics, as in `torch.nn.BatchNorm2d`.
        impl: as for `hwnas.kernels.mixed_op`.

    Returns:
        (N, C, H, W), in channels_last.

    Raises:
        ValueError: for branches that are empty or differ in shape, lists of different lengths, or
            training with a single value for each channel.
        RuntimeError: when the requested `impl` cannot be used here.
    """
    _validate(branches, mixing_weights, running_means, running_variances, scales, shifts, training)
    chosen = choose_implementation(impl, branches, convolutions=False)
    if chosen == "torch":
        return _reference(
            branches, mixing_weights, running_means, running_variances, scales, shifts, training,
            momentum,
        )  # fmt: skip
    affine: list[Tensor] = []
    if scales is not None or shifts is not None:
        affine = [
            *(scales or [torch.ones_like(mean) for mean in running_means]),
            *(shifts or [torch.zeros_like(mean) for mean in running_means]),
        ]
    dtype = compute_dtype(branches[0])
    running = [] if training else [*running_means, *running_variances]
    outputs: list[Tensor] = weighted_norms_op(
        [branch.to(dtype) for branch in branches],
        mixing_weights.to(torch.promote_types(dtype, torch.float32)),
        [vector.to(dtype) for vector in affine],
        [vector.to(dtype) for vector in running],
        chosen,
    )
    out, table = outputs
    if training:
        count = branches[0].numel() // branches[0].shape[1]
        _update_running(running_means, running_variances, table, count, momentum)
    return out.to(branches[0].dtype)


def _validate(
    branches: Sequence[Tensor],
    mixing_weights: Tensor,
    running_means: Sequence[Tensor],
    running_variances: Sequence[Tensor],
    scales: Sequence[Tensor] | None,
    shifts: Sequence[Tensor] | None,
    training: bool,
) -> None:
    """Raise a ValueError for arguments that are invalid for any implementation."""
    lengths = {
        "branches": len(branches),
        "mixing weights": len(mixing_weights),
        "running means": len(running_means),
        "running variances": len(running_variances),
        "scales": len(branches if scales is None else scales),
        "shifts": len(branches if shifts is None else shifts),
    }
    if len(set(lengths.values())) != 1 or not branches:
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"every branch needs one entry of each argument, got {found}")
    shapes = sorted({tuple(branch.shape) for branch in branches})
    if len(shapes) != 1:
        raise ValueError(f"the branches must have the same shape, got {shapes}")
    if branches[0].numel() == 0:
        raise ValueError(f"the branches are empty: their shape is {shapes[0]}")
    if training and branches[0].numel() // branches[0].shape[1] < 2:
        raise ValueError("batch statistics need more than one value for each channel, got one")


def _update_running(
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    table: Tensor,
    count: int,
    momentum: float,
) -> None:
    """Move running statistics towards the batch's own, as `torch.nn.BatchNorm2d` does.

    Args:
        means: K vectors (C,).
        variances: K vectors (C,).
        table: the table of the norms, (K, 6, width).
        count: N H W, the number of values of a channel.
        momentum: weight of the batch's statistics.
    """
    channels = len(means[0])
    mean = (table[:, MEAN] + table[:, RESIDUAL])[:, :channels]
    unbiased = table[:, VARIANCE, :channels] * (count / (count - 1))
    for old, new in ((means, mean), (variances, unbiased)):
        batch = [row.to(vector.dtype) for row, vector in zip(new, old, strict=True)]
        with torch.no_grad():
            torch._foreach_lerp_(list(old), batch, momentum)


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
    """`weighted_norms` in plain PyTorch."""
    total: Tensor | None = None
    for k, branch in enumerate(branches):
        y = torch.nn.functional.batch_norm(
            channels_last(branch),
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
    """The weighted sum (N, C, H, W), and the table of the norms (K, 6, width).

    Args:
        branches: the K branches, (N, C, H, W) each.
        weights: mixing weights, (K,).
        affine: K scales, then K shifts; empty for none.
        running: K running means, then K variances; empty to use the batch's own statistics.
        backend: name of the backend.
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
    return [without_base(from_layout(kernels.mix(terms, weights), channels)), table]


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
    """Gradients of the branches, of the weights (K,), and of scales and shifts (K, C).

    Args:
        gradient: gradient of the sum, (N, C, H, W).
        branches: as for `hwnas::weighted_norms`.
        weights: as for `hwnas::weighted_norms`.
        table: the table that `hwnas::weighted_norms` returned.
        backend: name of the backend.
        batch: whether the branches were normalised with the batch's own statistics.
    """
    kernels = backend_for(backend, branches[0].dtype)
    channels = branches[0].shape[1]
    width = kernels.width(channels)
    g, table = to_layout(gradient, width), aligned(table)
    terms = [
        (g, to_layout(branch, width), row)
        for branch, row in zip(branches, table.unbind(), strict=True)
    ]
    rows = range(len(table))
    norms = NormTerms(
        table, rows, g.numel() // width, None if batch else [False] * len(rows), weights
    )
    coefficients, d_weights, d_scale, d_shift = kernels.reduce_terms(
        [(g, z) for _, z, _ in terms], norms
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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    branches, weights, affine, running, ctx.backend = inputs
    ctx.counts = len(branches), len(affine), len(running)
    ctx.saved = SavedTensors(ctx, [*branches, weights, output[1]], len(branches))
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    k, affine, running = ctx.counts
    *branches, weights, table = ctx.saved.of(ctx)
    if gradients[0] is None:
        return [None] * k, None, [None] * affine, [None] * running, None
    results = weighted_norms_backward_op(
        gradients[0], branches, weights, table, ctx.backend, running == 0
    )
    *d_branches, d_weights, d_scale, d_shift = results
    d_affine = [*d_scale.unbind(), *d_shift.unbind()] if affine else []
    return d_branches, d_weights, d_affine, [None] * running, None


weighted_norms_op.register_autograd(_backward, setup_context=_setup_context)
weighted_norms_backward_op.register_autograd(refuse_second_derivatives)
