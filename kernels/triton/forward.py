"""Forward kernels: convolutions and pools of a state, batch norms, and the weighted sum."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.triton.pools import pools
from hwnas.kernels.triton.statistics import (
    PARTIAL_ROWS,
    combine,
    store_statistics,
    tile_mean,
)
from hwnas.kernels.triton.tiles import (
    DENSE,
    FIELDS,
    TABLE_MEAN,
    TABLE_RESIDUAL,
    TABLE_ROWS,
    TABLE_RSTD,
    TABLE_SCALE,
    TABLE_SHIFT,
    TABLE_VARIANCE,
    VALUE,
    WEIGHTS,
    depthwise,
    input_corner,
    load_shape,
    load_table,
    load_tap,
    pin,
    select,
    tap_offset,
    tile_of,
)


@triton.jit
def _separable_tile(
    values, table, weights, shape, image, row, column, inside, height, width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    NORMALISED: tl.constexpr, PRECISION: tl.constexpr, PIN: tl.constexpr,
):  # fmt: skip
    """Depthwise, then pointwise: weights are (taps, C), then (C in, C out)."""
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
    """A sum of matrix products over the taps: weights are (taps, C in, C out)."""
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
    """All tiles of a program, for one convolution."""
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
    """Convolutions that read the same states, and pools; grid (G, B or B + 1).

    values (R, N, H, W, C) with a table (R, 6, C) if NORMALISED; packed weights; convolutions
    (B, 9); outputs (B, N, OH, OW, C); maximum and mean (N, OH, OW, C), written by the programs
    after the last convolution's; partials (B + 2, G, 4, C).
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


@triton.jit
def normalise(
    partials, rows, gammas, betas, table, groups, channels, EPS: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Combine partials[rows] (R', G, 4, C) and fill table rows (R, 6, C); grid (R,).

    rows (R,) is -1 where the table's row is the identity's. gammas, betas: tuples of R vectors of
    `channels` elements, or None. In float64, since what the mean loses by rounding is one of the
    table's rows.
    """
    row = tl.program_id(0)
    lanes = tl.arange(0, C)
    source = tl.load(rows + row)
    target = table + row * TABLE_ROWS * C + lanes
    if source < 0:
        for index in tl.static_range(TABLE_ROWS):
            one = (index == TABLE_SCALE) | (index == TABLE_RSTD)
            tl.store(target + index * C, tl.zeros([C], tl.float32) + one)
    else:
        mean, variance = combine(
            partials + source.to(tl.int64) * groups * PARTIAL_ROWS * C, groups, C, BLOCK
        )
        rstd = 1.0 / tl.sqrt(variance + EPS)
        scale = rstd
        shift = tl.zeros([C], tl.float64)
        if gammas is not None:
            known = lanes < channels
            gamma = tl.load(select(gammas, row) + lanes, mask=known, other=1.0)
            scale *= gamma.to(tl.float64)
            beta = tl.load(select(betas, row) + lanes, mask=known, other=0.0)
            shift += beta.to(tl.float64)
        dtype = table.dtype.element_ty
        rounded = mean.to(tl.float32).to(dtype)
        residual = mean - rounded.to(tl.float64)
        tl.store(target + TABLE_MEAN * C, rounded)
        tl.store(target + TABLE_SCALE * C, scale.to(tl.float32).to(dtype))
        tl.store(target + TABLE_SHIFT * C, (shift - scale * residual).to(tl.float32).to(dtype))
        tl.store(target + TABLE_RSTD * C, rstd.to(tl.float32).to(dtype))
        tl.store(target + TABLE_VARIANCE * C, variance.to(tl.float32).to(dtype))
        tl.store(target + TABLE_RESIDUAL * C, residual.to(tl.float32).to(dtype))


@triton.jit
def mix(values, tables, positions, weights, out, pixels, C: tl.constexpr, BLOCK: tl.constexpr):
    """Out (N, OH, OW, C) = sum_k weights[positions[k]] (scale_k (z_k - mean_k) + shift_k).

    values, tables: tuples of K pointers, to (N, OH, OW, C) and (6, C).
    """
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channels = tl.arange(0, C)
    inside = (pixel < pixels)[:, None]
    offsets = pixel[:, None] * C + channels[None, :]
    total = tl.zeros([BLOCK, C], tl.float32)
    for k in tl.static_range(len(values)):
        weight = tl.load(weights + tl.load(positions + k)).to(tl.float32)
        mean, scale, shift = load_table(tables[k], channels, C, True)
        z = tl.load(values[k] + offsets, mask=inside, other=0.0).to(tl.float32)
        total += (weight * scale) * (z - mean) + weight * shift
    tl.store(out + offsets, total.to(out.dtype.element_ty), mask=inside)
