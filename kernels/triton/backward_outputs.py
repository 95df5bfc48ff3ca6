"""The first launch of a stage's backward pass: gradients of the depthwise outputs.

`stage_backward_outputs` computes dz from the gradient g of the normalised outputs, multiplies it by
the pointwise weights to get the gradient dy of the depthwise outputs, and sums the gradient of the
pointwise weights. For pools it stores dz and the position of each window's maximum. The second
launch is in `backward_inputs.py`.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.triton.pools import pool_outputs
from hwnas.kernels.triton.tiles import (
    DENSE,
    FIELDS,
    PARTIAL,
    TABLE_ROWS,
    TAPS,
    UNSPECIALISED,
    VALUE,
    WEIGHTS,
    depthwise,
    input_corner,
    load_divisors,
    load_offset,
    load_output_gradient,
    load_table,
    pin,
    place,
    tile_of,
)


@triton.jit
def _convolution_outputs(
    values, table, weights, convolution, output, gradient, coefficients, norm, intermediate,
    partial, images, height, width, out_height, out_width, divisors, STRIDE: tl.constexpr,
    C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, KINDS: tl.constexpr,
    SHAPES: tl.constexpr, NORMALISED: tl.constexpr, NEEDS_WEIGHTS: tl.constexpr,
    PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """Write dy of a separable or dz of a dense convolution for all tiles of a program."""
    dtype = intermediate.dtype.element_ty
    channels = tl.arange(0, C)
    pointwise = tl.load(convolution + TAPS) * C
    dense = tl.load(convolution + DENSE) != 0
    d_pointwise = tl.zeros([C, C], tl.float32)
    tiles = tl.cdiv(images * out_height * out_width, BLOCK)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        pixel, inside, image, row, column = tile_of(
            tile, images, out_height, out_width, divisors, BLOCK
        )
        offsets = pixel[:, None] * C + channels[None, :]
        dz = load_output_gradient(
            gradient, output, offsets, inside[:, None], coefficients, norm, channels, C
        )
        if KINDS != "separable":
            if dense:
                tl.store(intermediate + offsets, dz.to(dtype), mask=inside[:, None])
        if KINDS != "dense":
            if not dense:
                dy = tl.zeros([BLOCK, C], tl.float32)
                for start in range(0, C, BLOCK_K):
                    some = start + tl.arange(0, BLOCK_K)
                    part = dz
                    if BLOCK_K < C:
                        near = pixel[:, None] * C + some[None, :]
                        part = load_output_gradient(
                            gradient, output, near, inside[:, None], coefficients, norm, some, C
                        )
                    matrix = tl.load(weights + pointwise + channels[:, None] * C + some[None, :])
                    dy = tl.dot(
                        part.to(dtype), tl.trans(matrix.to(dtype)), dy, input_precision=PRECISION
                    )
                tl.store(intermediate + offsets, dy.to(dtype), mask=inside[:, None])
                if NEEDS_WEIGHTS:
                    # Read anew for each tile, so that the product before has registers enough.
                    mean, scale, shift = load_table(table, channels, C, NORMALISED)
                    corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
                    y = depthwise(
                        values, weights, convolution, corner, inside, channels, mean, scale, shift,
                        height, width, SHAPES, C, BLOCK, C, NORMALISED,
                    )  # fmt: skip
                    d_pointwise = tl.dot(
                        tl.trans(pin(y, PIN).to(dtype)), dz.to(dtype), d_pointwise,
                        input_precision=PRECISION,
                    )  # fmt: skip
    if NEEDS_WEIGHTS and KINDS != "dense":
        if not dense:
            matrix = channels[:, None] * C + channels[None, :]
            tl.store(partial + pointwise + matrix, d_pointwise)


@triton.jit(do_not_specialize=UNSPECIALISED)
def stage_backward_outputs(
    values, table, weights, convolutions, outputs, gradients, gradient_places, coefficients,
    coefficient_places, norms, norm_places, intermediate, partials, edges, edge_places,
    edge_coefficients, edge_coefficient_places, edge_rows, edge_row_places, maxima, means, skips,
    d_maximum, d_mean, winners, images, height, width, out_height, out_width, divisors,
    value_stride, output_stride, partial_stride, count, STRIDE: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, KINDS: tl.constexpr, SHAPES: tl.constexpr,
    NORMALISED: tl.constexpr, NEEDS_WEIGHTS: tl.constexpr, PRECISION: tl.constexpr,
    PIN: tl.constexpr,
):  # fmt: skip
    """The first launch of a stage's backward pass; grid (G, B), or (G, B + 1) with pools.

    gradients, coefficients and norms with their places (see `arguments.Places`) are B pointers
    each, to (N, OH, OW, C), (3, C) and (6, C). Writes intermediate (B, N, OH, OW, C), which is dy
    or dz; if NEEDS_WEIGHTS the pointwise part of the partial weight gradients, partials (G, packed
    weights); with pools d_maximum, d_mean and winners, (N, OH, OW, C) each (see
    `pools.pool_outputs`).
    """
    branch = tl.program_id(1)
    numbers = load_divisors(divisors)
    if convolutions is not None:
        if branch < count:
            convolution = convolutions + branch * FIELDS
            value = tl.load(convolution + VALUE)
            output = branch.to(tl.int64) * output_stride
            partial = partials + tl.program_id(0).to(tl.int64) * partial_stride
            _convolution_outputs(
                values + value.to(tl.int64) * value_stride, table + value * TABLE_ROWS * C,
                weights + load_offset(convolution, WEIGHTS), convolution, outputs + output,
                place(gradients, gradient_places, branch),
                place(coefficients, coefficient_places, branch), place(norms, norm_places, branch),
                intermediate + output, partial + load_offset(convolution, PARTIAL), images, height,
                width, out_height, out_width, numbers, STRIDE, C, BLOCK, BLOCK_K, KINDS, SHAPES,
                NORMALISED, NEEDS_WEIGHTS, PRECISION, PIN,
            )  # fmt: skip
    if winners is not None:
        if branch == count:
            pool_outputs(
                values,
                (edges, edge_places, edge_coefficients, edge_coefficient_places, edge_rows,
                 edge_row_places),
                maxima, means, d_maximum, d_mean, winners, images, height, width, out_height,
                out_width, numbers, STRIDE, C, BLOCK,
            )  # fmt: skip
