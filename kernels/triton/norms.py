"""Kernels of batch norms and of the weighted sum, forward and backward.

`hwnas.kernels.norms` describes tables, sums and coefficients.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.triton.pools import pooled_tile
from hwnas.kernels.triton.statistics import PARTIAL_ROWS, combine
from hwnas.kernels.triton.tiles import (
    TABLE_MEAN,
    TABLE_RESIDUAL,
    TABLE_ROWS,
    TABLE_RSTD,
    TABLE_SCALE,
    TABLE_SHIFT,
    TABLE_VARIANCE,
    UNSPECIALISED,
    load_divisors,
    load_table,
    place,
    select,
)


@triton.jit(do_not_specialize=UNSPECIALISED)
def normalise(
    partials, rows, gammas, betas, table, groups, channels, EPS: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Combine partial statistics and fill the rows of a table (R, 6, C); grid (R,).

    Row r is filled from partials[rows[r]], of partials (R', G, 4, C); rows[r] = -1 makes it the
    identity. gammas, betas: tuples of R vectors of `channels` elements, or None. The arithmetic is
    in float64, since the rounding error of the mean is one of the table's rows.
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


@triton.jit(do_not_specialize=UNSPECIALISED)
def mix(
    values, tables, positions, weights, out, pixels, WIDTH: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Out (N, OH, OW, WIDTH) = sum_k weights[positions[k]] (scale_k (z_k - mean_k) + shift_k).

    values, tables: tuples of K pointers, to (N, OH, OW, WIDTH) and (6, WIDTH). Grid: tiles of
    `pixels`, and blocks of C channels.
    """
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channels = tl.program_id(1) * C + tl.arange(0, C)
    inside = (pixel < pixels)[:, None]
    offsets = pixel[:, None] * WIDTH + channels[None, :]
    total = tl.zeros([BLOCK, C], tl.float32)
    for k in tl.static_range(len(values)):
        weight = tl.load(weights + tl.load(positions + k)).to(tl.float32)
        mean, scale, shift = load_table(tables[k], channels, WIDTH, True)
        z = tl.load(values[k] + offsets, mask=inside, other=0.0).to(tl.float32)
        total += (weight * scale) * (z - mean) + weight * shift
    tl.store(out + offsets, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=UNSPECIALISED)
def reduce(
    gradients, gradient_places, values, value_places, tables, table_places, kinds, partials, images,
    height, width, out_height, out_width, divisors, POOLED: tl.constexpr, STRIDE: tl.constexpr,
    WIDTH: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums (R, G, 2, WIDTH) of S = sum g and T = sum g (z - mean).

    Grid: R, G, and blocks of C channels. gradients, values and tables with their places (see
    `arguments.Places`) are R pointers each, to (N, OH, OW, WIDTH) twice and (6, WIDTH). Where kinds
    (R,) is 1 or 2, the pointer is to (N, H, W, C) and the value is the maximum or the mean of its
    3x3 windows. POOLED: whether there are such values; then C is WIDTH.
    """
    term = tl.program_id(0)
    gradient = place(gradients, gradient_places, term)
    value = place(values, value_places, term)
    kind = 0
    numbers = load_divisors(divisors)
    if POOLED:
        kind = tl.load(kinds + term)
    channels = tl.program_id(2) * C + tl.arange(0, C)
    mean = tl.load(place(tables, table_places, term) + TABLE_MEAN * WIDTH + channels).to(
        tl.float32
    )[None, :]
    first = tl.zeros([BLOCK, C], tl.float32)
    second = tl.zeros([BLOCK, C], tl.float32)
    pixels = images * out_height * out_width
    for tile in range(tl.program_id(1), tl.cdiv(pixels, BLOCK), tl.num_programs(1)):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        inside = (pixel < pixels)[:, None]
        offsets = pixel[:, None] * WIDTH + channels[None, :]
        g = tl.load(gradient + offsets, mask=inside, other=0.0).to(tl.float32)
        if kind == 0:
            z = tl.load(value + offsets, mask=inside, other=0.0).to(tl.float32)
        else:
            z = pooled_tile(
                value,
                kind,
                tile,
                images,
                height,
                width,
                out_height,
                out_width,
                numbers,
                STRIDE,
                C,
                BLOCK,
            )
        first += g
        second += g * (z - mean)
    target = partials + (term * tl.num_programs(1) + tl.program_id(1)) * 2 * WIDTH + channels
    tl.store(target, tl.sum(first, 0))
    tl.store(target + WIDTH, tl.sum(second, 0))


@triton.jit(do_not_specialize=UNSPECIALISED)
def normalise_backward(
    partials, sum_rows, table, table_rows, weights, positions, batch, coefficients, d_weights,
    d_gamma, d_beta, groups, pixels, WIDTH: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Combine partial sums and differentiate R weighted batch norms; grid (R,).

    sum_rows, table_rows, positions (R,) are the indices of the terms in partials (R', G, 2, WIDTH),
    in table (R'', 6, WIDTH), and in weights and d_weights; weights None stands for ones. batch (R,)
    is 1 where the statistics are the batch's own; None stands for ones. Writes coefficients
    (R, 3, WIDTH), d_weights, and d_gamma and d_beta (R, WIDTH). C channels are computed at a time.
    """
    row = tl.program_id(0)
    source = partials + tl.load(sum_rows + row).to(tl.int64) * groups * 2 * WIDTH
    norm = table + tl.load(table_rows + row) * TABLE_ROWS * WIDTH
    position = tl.load(positions + row)
    factor = 1.0
    if weights is not None:
        factor = tl.load(weights + position).to(tl.float64)
    own = 1.0
    if batch is not None:
        own = tl.load(batch + row).to(tl.float64)
    d_weight = tl.zeros([C], tl.float64)
    for begin in range(0, WIDTH, C):
        channels = begin + tl.arange(0, C)
        s, t = _sums(source, channels, groups, WIDTH, C, BLOCK)
        scale = tl.load(norm + TABLE_SCALE * WIDTH + channels).to(tl.float64)
        shift = tl.load(norm + TABLE_SHIFT * WIDTH + channels).to(tl.float64)
        rstd = tl.load(norm + TABLE_RSTD * WIDTH + channels).to(tl.float64)
        residual = tl.load(norm + TABLE_RESIDUAL * WIDTH + channels).to(tl.float64)
        centred = t - residual * s
        weight = tl.full([C], 1.0, tl.float64) * factor
        a = weight * scale
        d_weight += scale * t + shift * s
        tl.store(d_gamma + row * WIDTH + channels, (weight * rstd * centred).to(tl.float32))
        s_weighted = weight * s
        tl.store(d_beta + row * WIDTH + channels, s_weighted.to(tl.float32))
        spread = a / pixels * own
        b = -spread * rstd * rstd * centred
        d = -spread * s - b * residual
        target = coefficients + row * 3 * WIDTH + channels
        tl.store(target, a.to(tl.float32))
        tl.store(target + WIDTH, b.to(tl.float32))
        tl.store(target + 2 * WIDTH, d.to(tl.float32))
    tl.store(d_weights + position, tl.sum(d_weight, 0).to(d_weights.dtype.element_ty))


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
