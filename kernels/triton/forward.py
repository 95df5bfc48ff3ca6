"""The forward kernel: the convolutions and pools that read the same states."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.triton.pools import pools
from hwnas.kernels.triton.statistics import (
    PARTIAL_ROWS,
    fill_rows,
    is_last,
    store_statistics,
    tile_mean,
)
from hwnas.kernels.triton.tiles import (
    DENSE,
    FIELDS,
    TABLE_ROWS,
    TAPS,
    UNSPECIALISED,
    VALUE,
    WEIGHTS,
    dense_shape,
    dense_tap,
    depthwise,
    input_corner,
    load_divisors,
    load_offset,
    load_table,
    pin,
    rectified,
    tile_of,
    within,
)


@triton.jit
def _separable_tile(
    values, table, weights, convolution, image, row, column, inside, height, width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    SHAPES: tl.constexpr, NORMALISED: tl.constexpr, PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """One tile of a separable convolution; its weights are (taps, C), then (C in, C out)."""
    dtype = values.dtype.element_ty
    outputs = tl.arange(0, C)
    pointwise = weights + tl.load(convolution + TAPS) * C
    z = tl.zeros([BLOCK, C], tl.float32)
    for start in range(0, C, BLOCK_K):
        channels = start + tl.arange(0, BLOCK_K)
        mean, scale, shift = load_table(table, channels, C, NORMALISED)
        corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
        y = depthwise(
            values, weights, convolution, corner, inside, channels, mean, scale, shift, height,
            width, SHAPES, C, BLOCK, BLOCK_K, NORMALISED,
        )  # fmt: skip
        matrix = tl.load(pointwise + channels[:, None] * C + outputs[None, :]).to(dtype)
        z = tl.dot(pin(y, PIN).to(dtype), matrix, z, input_precision=PRECISION)
    return z


@triton.jit
def _dense_tile(
    values, table, weights, convolution, image, row, column, inside, height, width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    NORMALISED: tl.constexpr, PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """One tile of a dense convolution, as matrix products; weights are (taps, C in, C out)."""
    dtype = values.dtype.element_ty
    outputs = tl.arange(0, C)
    rows, columns, skew = dense_shape(convolution)
    z = tl.zeros([BLOCK, C], tl.float32)
    for start in range(0, C, BLOCK_K):
        channels = start + tl.arange(0, BLOCK_K)
        mean, scale, shift = load_table(table, channels, C, NORMALISED)
        corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
        matrices = weights + channels[:, None] * C + outputs[None, :]
        for i in range(0, rows):
            for j in range(0, columns):
                down, right = dense_tap(i, j, columns, skew)
                valid = inside & within(corner[0] + down, height)
                valid = valid & within(corner[1] + right, width)
                near = values + corner[2] + (down * width + right) * C
                u = rectified(near, valid, mean, scale, shift, NORMALISED)
                matrix = tl.load(matrices + (i * columns + j) * C * C).to(dtype)
                z = tl.dot(pin(u, PIN).to(dtype), matrix, z, input_precision=PRECISION)
    return z


@triton.jit
def _convolution(
    values, table, weights, convolution, output, partials, images, height, width, out_height,
    out_width, divisors, STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr, KINDS: tl.constexpr, SHAPES: tl.constexpr, NORMALISED: tl.constexpr,
    PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """Outputs of one convolution for all tiles of a program, and their partial statistics."""
    channels = tl.arange(0, C)
    dense = tl.load(convolution + DENSE) != 0
    pixels = images * out_height * out_width
    shift = tl.zeros([C], tl.float32)
    first = tl.zeros([BLOCK, C], tl.float32)
    second = tl.zeros([BLOCK, C], tl.float32)
    total = 0.0
    for tile in range(tl.program_id(0), tl.cdiv(pixels, BLOCK), tl.num_programs(0)):
        pixel, inside, image, row, column = tile_of(
            tile, images, out_height, out_width, divisors, BLOCK
        )
        if KINDS == "separable":
            z = _separable_tile(
                values, table, weights, convolution, image, row, column, inside, height, width,
                STRIDE, C, BLOCK, BLOCK_K, SHAPES, NORMALISED, PRECISION, PIN,
            )  # fmt: skip
        elif KINDS == "dense":
            z = _dense_tile(
                values, table, weights, convolution, image, row, column, inside, height, width,
                STRIDE, C, BLOCK, BLOCK_K, NORMALISED, PRECISION, PIN,
            )  # fmt: skip
        else:
            if dense:
                z = _dense_tile(
                    values, table, weights, convolution, image, row, column, inside, height,
                    width, STRIDE, C, BLOCK, BLOCK_K, NORMALISED, PRECISION, PIN,
                )  # fmt: skip
            else:
                z = _separable_tile(
                    values, table, weights, convolution, image, row, column, inside, height,
                    width, STRIDE, C, BLOCK, BLOCK_K, SHAPES, NORMALISED, PRECISION, PIN,
                )  # fmt: skip
        stored = z.to(output.dtype.element_ty)
        offsets = pixel[:, None] * C + channels[None, :]
        tl.store(output + offsets, stored, mask=inside[:, None])
        z = stored.to(tl.float32)
        count = tl.minimum(BLOCK, pixels - tile * BLOCK).to(tl.float32)
        if tile == tl.program_id(0):
            shift = tile_mean(z, inside, count)
        centred = tl.where(inside[:, None], z - shift[None, :], 0.0)
        first += centred
        second += centred * centred
        total += count
    store_statistics(partials, channels, shift, first, second, total, C)


@triton.jit(do_not_specialize=UNSPECIALISED)
def stage_forward(
    values, table, weights, convolutions, outputs, maximum, mean, partials, filled, rows, row_count,
    counters, images, height, width, out_height, out_width, divisors, value_stride, output_stride,
    count, STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    KINDS: tl.constexpr, SHAPES: tl.constexpr, NORMALISED: tl.constexpr, PRECISION: tl.constexpr,
    PIN: tl.constexpr,
):  # fmt: skip
    """Convolutions that read the same states, and pools; grid (G, B), or (G, B + 1) with pools.

    Reads values (R, N, H, W, C), if NORMALISED with a table (R, 6, C); packed weights (see
    `layout`); and convolutions (B, 9) (see `layout.StageTables`). divisors are those of the
    output. Programs (_, b) write
    outputs[b] of (B, N, OH, OW, C); programs (_, B) write both pools, maximum and mean
    (N, OH, OW, C). Partial statistics go to partials (B + 2, G, 4, C), the pools' last. If not
    None, the table `filled` (R, 6, C) is filled from them (see `statistics.fill_rows`); then
    counters, one for each column of the grid, are zero.
    """
    branch = tl.program_id(1)
    numbers = load_divisors(divisors)
    partial_stride = tl.num_programs(0) * PARTIAL_ROWS * C
    partial = partials + branch * partial_stride + tl.program_id(0) * PARTIAL_ROWS * C
    if convolutions is not None:
        if branch < count:
            convolution = convolutions + branch * FIELDS
            value = tl.load(convolution + VALUE)
            _convolution(
                values + value.to(tl.int64) * value_stride, table + value * TABLE_ROWS * C,
                weights + load_offset(convolution, WEIGHTS), convolution,
                outputs + branch.to(tl.int64) * output_stride, partial, images, height, width,
                out_height, out_width, numbers, STRIDE, C, BLOCK, BLOCK_K, KINDS, SHAPES,
                NORMALISED, PRECISION, PIN,
            )  # fmt: skip
    if maximum is not None:
        if branch == count:
            pools(
                values, maximum, mean, partial, partial_stride, images, height, width, out_height,
                out_width, numbers, STRIDE, C, BLOCK,
            )  # fmt: skip
    if filled is not None:
        groups = tl.num_programs(0)
        if is_last(counters + branch, groups):
            found = tl.where(branch == count, 2, 1)
            fill_rows(partials, branch, found, filled, rows, row_count, weights, groups, C)
