"""Kernels of the weighted sum of batch norms, forward and backward.

`hwnas.kernels.norms` describes tables, sums and coefficients.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.triton.pools import pooled_tile
from hwnas.kernels.triton.statistics import differentiate, is_last
from hwnas.kernels.triton.tiles import (
    TABLE_MEAN,
    TABLE_ROWS,
    UNSPECIALISED,
    load_divisors,
    load_table,
    place,
)


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
    gradients, gradient_places, values, value_places, table, terms, partials, weights, coefficients,
    d_weights, d_gamma, d_beta, counters, images, height, width, out_height, out_width, divisors,
    POOLED: tl.constexpr, STRIDE: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums S = sum g and T = sum g (z - mean) of R weighted batch norms, and their gradients.

    Grid: R, G, and blocks of C channels. gradients and values with their places (see
    `arguments.Places`) are R pointers each, to (N, OH, OW, WIDTH). terms (R, 4): for each the kind
    of its value, its row of table (_, 6, WIDTH), the position of its weight, and whether its
    statistics are the batch's own. Where the kind is 1 or 2, the pointer is to (N, H, W, C) and the
    value is the maximum or the mean of its 3x3 windows. POOLED: whether there are such values; then
    C is WIDTH. Writes partial sums (R, G, 2, WIDTH), and if coefficients are not None what
    `statistics.differentiate` makes of them, and d_weights at the positions; weights None stands
    for ones, and counters (R,) are zero.
    """
    term = tl.program_id(0)
    gradient = place(gradients, gradient_places, term)
    value = place(values, value_places, term)
    kind = 0
    numbers = load_divisors(divisors)
    if POOLED:
        kind = tl.load(terms + 4 * term)
    channels = tl.program_id(2) * C + tl.arange(0, C)
    norm = table + tl.load(terms + 4 * term + 1) * TABLE_ROWS * WIDTH
    mean = tl.load(norm + TABLE_MEAN * WIDTH + channels).to(tl.float32)[None, :]
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
    groups = tl.num_programs(1)
    sums = partials + term.to(tl.int64) * groups * 2 * WIDTH
    target = sums + tl.program_id(1) * 2 * WIDTH + channels
    tl.store(target, tl.sum(first, 0))
    tl.store(target + WIDTH, tl.sum(second, 0))
    if coefficients is not None:
        if is_last(counters + term, groups * tl.num_programs(2)):
            position = tl.load(terms + 4 * term + 2)
            factor = 1.0
            if weights is not None:
                factor = tl.load(weights + position).to(tl.float64)
            d_weight = differentiate(
                sums, norm, factor, tl.load(terms + 4 * term + 3).to(tl.float64),
                coefficients + term * 3 * WIDTH, d_gamma + term * WIDTH, d_beta + term * WIDTH,
                groups, pixels, WIDTH, C,
            )  # fmt: skip
            if d_weights is not None:
                tl.store(d_weights + position, d_weight.to(d_weights.dtype.element_ty))
