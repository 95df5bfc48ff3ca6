"""Partial statistics and sums that each program of a launch writes, and how they are combined.

A program writes four statistics for each channel: the mean of its COUNT pixels is SHIFT + OFFSET,
and SQUARES is the sum of their squared deviations from it. SHIFT is the mean of the program's first
tile. Summing deviations from it, not the values, stays accurate where the mean is large.

The last program that writes its part combines all of them, always in the same order. Their number
is counted by an atomic addition (as in NVIDIA's sample threadFenceReduction), so that no launch of
its own is needed for the batch norms of a stage.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.reference import BATCH_NORM_EPS
from hwnas.kernels.triton.tiles import (
    TABLE_MEAN,
    TABLE_RESIDUAL,
    TABLE_ROWS,
    TABLE_RSTD,
    TABLE_SCALE,
    TABLE_SHIFT,
    TABLE_VARIANCE,
)

EPS = tl.constexpr(BATCH_NORM_EPS)
ELEMENTS = tl.constexpr(512)
"""Elements of a tile in which partial results are combined."""
SHIFT, OFFSET, SQUARES, COUNT = (tl.constexpr(i) for i in range(4))
PARTIAL_ROWS = tl.constexpr(4)


@triton.jit
def tile_mean(z, valid, count):
    """Mean (C,) over the valid pixels of a tile (BLOCK, C)."""
    return tl.sum(tl.where(valid[:, None], z, 0.0), 0) / count


@triton.jit
def store_statistics(partials, channels, shift, first, second, count, C: tl.constexpr):
    """Write a program's statistics from `first` and `second`, sums of z - shift and its square."""
    s = tl.sum(first, 0)
    tl.store(partials + SHIFT * C + channels, shift)
    tl.store(partials + OFFSET * C + channels, s / count)
    tl.store(partials + SQUARES * C + channels, tl.maximum(tl.sum(second, 0) - s * s / count, 0.0))
    tl.store(partials + COUNT * C + channels, tl.zeros([C], tl.float32) + count)


@triton.jit
def is_last(counter, programs):
    """Whether this is the last of some programs that come here; it may read what all have written.

    The counter must be zero at first. The barrier orders the writes of all threads before the
    addition, which releases and acquires memory for the whole device.
    """
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == programs - 1


@triton.jit
def _combine(partials, groups, C: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and biased variance (C,) in float64 from the partial statistics (G, 4, C) of G programs.

    The squared deviations from the common mean are those inside the programs plus those of the
    programs' means.
    """
    lanes = tl.arange(0, C)
    pixels = tl.zeros([C], tl.float64)
    total = tl.zeros([C], tl.float64)
    for start in range(0, groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        offsets = group[:, None] * PARTIAL_ROWS * C + lanes[None, :]
        inside = (group < groups)[:, None]
        count = tl.load(partials + COUNT * C + offsets, mask=inside, other=0.0).to(tl.float64)
        shift = tl.load(partials + SHIFT * C + offsets, mask=inside, other=0.0).to(tl.float64)
        offset = tl.load(partials + OFFSET * C + offsets, mask=inside, other=0.0).to(tl.float64)
        pixels += tl.sum(count, 0)
        total += tl.sum(count * (shift + offset), 0)
    mean = total / pixels
    squares = tl.zeros([C], tl.float64)
    for start in range(0, groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        offsets = group[:, None] * PARTIAL_ROWS * C + lanes[None, :]
        inside = (group < groups)[:, None]
        count = tl.load(partials + COUNT * C + offsets, mask=inside, other=0.0).to(tl.float64)
        shift = tl.load(partials + SHIFT * C + offsets, mask=inside, other=0.0).to(tl.float64)
        offset = tl.load(partials + OFFSET * C + offsets, mask=inside, other=0.0).to(tl.float64)
        within = tl.load(partials + SQUARES * C + offsets, mask=inside, other=0.0).to(tl.float64)
        between = shift + offset - mean[None, :]
        squares += tl.sum(within + count * between * between, 0)
    return mean, squares / pixels


@triton.jit
def fill_rows(partials, first, count, table, rows, row_count, affine, groups, C: tl.constexpr):
    """Fill the rows of a table (R, 6, C) that need the statistics first to first + count - 1.

    rows (R, 2): for each row its statistics among partials (R', G, 4, C), -1 for the identity,
    which the first statistics fill too; and the offset of scale and shift, which lie one after the
    other, from `affine`, -1 if there are none. The arithmetic is in float64, since the rounding
    error of the mean is one of the table's rows.
    """
    BLOCK: tl.constexpr = ELEMENTS // C
    lanes = tl.arange(0, C)
    dtype = table.dtype.element_ty
    for source in range(first, first + count):
        mean, variance = _combine(
            partials + tl.cast(source, tl.int64) * groups * PARTIAL_ROWS * C, groups, C, BLOCK
        )
        rstd = 1.0 / tl.sqrt(variance + EPS)
        rounded = mean.to(tl.float32).to(dtype)
        residual = mean - rounded.to(tl.float64)
        for row in range(0, row_count):
            wanted = tl.load(rows + 2 * row)
            target = table + row * TABLE_ROWS * C + lanes
            if wanted == source:
                scale = rstd
                shift = tl.zeros([C], tl.float64)
                if affine is not None:
                    offset = tl.load(rows + 2 * row + 1)
                    if offset >= 0:
                        scale *= tl.load(affine + offset + lanes).to(tl.float64)
                        shift += tl.load(affine + offset + C + lanes).to(tl.float64)
                shift -= scale * residual
                tl.store(target + TABLE_MEAN * C, rounded)
                tl.store(target + TABLE_SCALE * C, scale.to(tl.float32).to(dtype))
                tl.store(target + TABLE_SHIFT * C, shift.to(tl.float32).to(dtype))
                tl.store(target + TABLE_RSTD * C, rstd.to(tl.float32).to(dtype))
                tl.store(target + TABLE_VARIANCE * C, variance.to(tl.float32).to(dtype))
                tl.store(target + TABLE_RESIDUAL * C, residual.to(tl.float32).to(dtype))
            if (wanted < 0) & (source == 0):
                for index in tl.static_range(TABLE_ROWS):
                    one = (index == TABLE_SCALE) | (index == TABLE_RSTD)
                    tl.store(target + index * C, tl.zeros([C], tl.float32) + one)


@triton.jit
def _sums(partials, channels, groups, WIDTH: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """S and T of some channels, (C,) each, from partial sums (G, 2, WIDTH)."""
    s = tl.zeros([C], tl.float64)
    t = tl.zeros([C], tl.float64)
    for start in range(0, groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        offsets = group[:, None] * 2 * WIDTH + channels[None, :]
        inside = (group < groups)[:, None]
        s += tl.sum(tl.load(partials + offsets, mask=inside, other=0.0).to(tl.float64), 0)
        t += tl.sum(tl.load(partials + WIDTH + offsets, mask=inside, other=0.0).to(tl.float64), 0)
    return s, t


@triton.jit
def differentiate(
    partials, norm, factor, own, coefficients, d_gamma, d_beta, groups, pixels,
    WIDTH: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Combine the partial sums (G, 2, WIDTH) of a weighted batch norm, and differentiate it.

    norm is its row (6, WIDTH) of a table, factor its weight; own is 1 where its statistics are the
    batch's own. Writes coefficients (3, WIDTH), and d_gamma and d_beta (WIDTH,); returns the
    gradient of the weight. C channels are computed at a time, in float64.
    """
    BLOCK: tl.constexpr = ELEMENTS // C
    d_weight = tl.zeros([C], tl.float64)
    for begin in range(0, WIDTH, C):
        channels = begin + tl.arange(0, C)
        s, t = _sums(partials, channels, groups, WIDTH, C, BLOCK)
        scale = tl.load(norm + TABLE_SCALE * WIDTH + channels).to(tl.float64)
        shift = tl.load(norm + TABLE_SHIFT * WIDTH + channels).to(tl.float64)
        rstd = tl.load(norm + TABLE_RSTD * WIDTH + channels).to(tl.float64)
        residual = tl.load(norm + TABLE_RESIDUAL * WIDTH + channels).to(tl.float64)
        centred = t - residual * s
        weight = tl.full([C], 1.0, tl.float64) * factor
        a = weight * scale
        d_weight += scale * t + shift * s
        tl.store(d_gamma + channels, (weight * rstd * centred).to(tl.float32))
        tl.store(d_beta + channels, (weight * s).to(tl.float32))
        spread = a / pixels * own
        b = -spread * rstd * rstd * centred
        d = -spread * s - b * residual
        tl.store(coefficients + channels, a.to(tl.float32))
        tl.store(coefficients + WIDTH + channels, b.to(tl.float32))
        tl.store(coefficients + 2 * WIDTH + channels, d.to(tl.float32))
    return tl.sum(d_weight, 0)
