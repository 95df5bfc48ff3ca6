"""The forward kernel: the convolutions and pools that read the same states."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.triton.pools import pools
from hwnas.kernels.triton.statistics import (
    PARTIAL_ROWS,
    store_statistics,
    tile_mean,
)
from hwnas.kernels.triton.tiles import (
    DENSE,
    FIELDS,
    TABLE_ROWS,
    VALUE,
    WEIGHTS,
    depthwise,
    input_corner,
    load_shape,
    load_table,
    load_tap,
    pin,
    tap_offset,
    tile_of,
)


@triton.jit
def _separable_tile(
    values, table, weights, shape, image, row, column, inside, height, width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    NORMALISED: tl.constexpr, PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """One tile of a separable convolution; its weights are (taps, C), then (C in, C out)."""
    dtype = values.dtype.element_ty
    outputs = tl.arange(0, C)
    pointwise = weights + shape[0] * C
    z = tl.zeros([BLOCK, C], tl.float32)
    for start in range(0, C, BLOCK_K):
        channels = start + tl.arange(0, BLOCK_K)
        mean, scale, shift = load_table(table, channels, C, NORMALISED)
        corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
        y = depthwise(
            values, weights, shape, corner, inside, channels, mean, scale, shift, height, width,
            C, BLOCK, BLOCK_K, NORMALISED,
        )  # fmt: skip
        matrix = tl.load(pointwise + channels[:, None] * C + outputs[None, :]).to(dtype)
        z = tl.dot(pin(y, PIN).to(dtype), matrix, z, input_precision=PRECISION)
    return z


@triton.jit
def _dense_tile(
    values, table, weights, shape, image, row, column, inside, height, width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    NORMALISED: tl.constexpr, PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """One tile of a dense convolution, as matrix products; weights are (taps, C in, C out)."""
    dtype = values.dtype.element_ty
    outputs = tl.arange(0, C)
    z = tl.zeros([BLOCK, C], tl.float32)
    for start in range(0, C, BLOCK_K):
        channels = start + tl.arange(0, BLOCK_K)
        mean, scale, shift = load_table(table, channels, C, NORMALISED)
        corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
        for tap in range(0, shape[0]):
            down, right = tap_offset(shape, tap)
            u = load_tap(
                values, down, right, corner, inside, mean, scale, shift, height, width, C,
                NORMALISED,
            )  # fmt: skip
            offsets = (tap * C + channels[:, None]) * C + outputs[None, :]
            matrix = tl.load(weights + offsets).to(dtype)
            z = tl.dot(pin(u, PIN).to(dtype), matrix, z, input_precision=PRECISION)
    return z


@triton.jit
def _convolution(
    values, table, weights, convolution, output, partials, images, height, width, out_height,
    out_width, STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    KINDS: tl.constexpr, NORMALISED: tl.constexpr, PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """Outputs of one convolution for all tiles of a program, and their partial statistics."""
    channels = tl.arange(0, C)
    dense = tl.load(convolution + DENSE) != 0
    shape = load_shape(convolution)
    pixels = images * out_height * out_width
    shift = tl.zeros([C], tl.float32)
    first = tl.zeros([BLOCK, C], tl.float32)
    second = tl.zeros([BLOCK, C], tl.float32)
    total = 0.0
    for tile in range(tl.program_id(0), tl.cdiv(pixels, BLOCK), tl.num_programs(0)):
        pixel, inside, image, row, column = tile_of(tile, images, out_height, out_width, BLOCK)
        if KINDS == "separable":
            z = _separable_tile(
                values, table, weights, shape, image, row, column, inside, height, width,
                STRIDE, C, BLOCK, BLOCK_K, NORMALISED, PRECISION, PIN,
            )  # fmt: skip
        elif KINDS == "dense":
            z = _dense_tile(
                values, table, weights, shape, image, row, column, inside, height, width,
                STRIDE, C, BLOCK, BLOCK_K, NORMALISED, PRECISION, PIN,
            )  # fmt: skip
        else:
            if dense:
                z = _dense_tile(
                    values, table, weights, shape, image, row, column, inside, height,
                    width, STRIDE, C, BLOCK, BLOCK_K, NORMALISED, PRECISION, PIN,
                )  # fmt: skip
            else:
                z = _separable_tile(
                    values, table, weights, shape, image, row, column, inside, height,
                    width, STRIDE, C, BLOCK, BLOCK_K, NORMALISED, PRECISION, PIN,
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


@triton.jit
def stage_forward(
    values, table, weights, convolutions, outputs, maximum, mean, partials, images, height, width,
    out_height, out_width, value_stride, output_stride, COUNT_CONVOLUTIONS: tl.constexpr,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    KINDS: tl.constexpr, NORMALISED: tl.constexpr, PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """Convolutions that read the same states, and pools; grid (G, B), or (G, B + 1) with pools.

    Reads values (R, N, H, W, C), if NORMALISED with a table (R, 6, C); packed weights (see
    `layout`); and convolutions (B, 9) (see `layout.StageTables`). Programs (_, b) write
    outputs[b] of (B, N, OH, OW, C); programs (_, B) write both pools, maximum and mean
    (N, OH, OW, C). Partial statistics go to partials (B + 2, G, 4, C), the pools' last.
    """
    branch = tl.program_id(1)
    partial_stride = tl.num_programs(0) * PARTIAL_ROWS * C
    partial = partials + branch * partial_stride + tl.program_id(0) * PARTIAL_ROWS * C
    if COUNT_CONVOLUTIONS > 0:
        if branch < COUNT_CONVOLUTIONS:
            convolution = convolutions + branch * FIELDS
            value = tl.load(convolution + VALUE)
            _convolution(
                values + value.to(tl.int64) * value_stride, table + value * TABLE_ROWS * C,
                weights + tl.load(convolution + WEIGHTS), convolution,
                outputs + branch.to(tl.int64) * output_stride, partial, images, height, width,
                out_height, out_width, STRIDE, C, BLOCK, BLOCK_K, KINDS, NORMALISED, PRECISION,
                PIN,
            )  # fmt: skip
    if maximum is not None:
        if branch == COUNT_CONVOLUTIONS:
            pools(
                values, maximum, mean, partial, partial_stride, images, height, width, out_height,
                out_width, STRIDE, C, BLOCK,
            )  # fmt: skip
