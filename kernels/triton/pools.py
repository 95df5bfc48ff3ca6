"""Device functions of the 3x3 pools, forward and backward."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.triton.statistics import store_statistics, tile_mean
from hwnas.kernels.triton.tiles import (
    TABLE_MEAN,
    input_corner,
    output_line,
    place,
    tile_of,
    within,
)


@triton.jit
def _windows(
    x, image, row, column, inside, height, width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Maximum and sum (BLOCK, C) over the 3x3 windows of a tile, and their pixels (BLOCK,).

    Pixels outside the image do not count; the maximum is -inf where `inside` is false.
    """
    channels = tl.arange(0, C)
    largest = tl.full([BLOCK, C], float("-inf"), tl.float32)
    added = tl.zeros([BLOCK, C], tl.float32)
    window = tl.zeros([BLOCK], tl.float32)
    top, left, corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
    # Always 3. The compiler would unroll a loop of known length, and run out of registers.
    rows = tl.minimum(height + 2, 3)
    for i in range(0, rows):
        line = x + corner + (i - 1) * width * C
        on_line = inside & within(top + i - 1, height)
        for j in tl.static_range(3):
            valid = on_line & within(left + (j - 1), width)
            z = tl.load(line + (j - 1) * C, mask=valid[:, None], other=0.0).to(tl.float32)
            candidate = tl.where(valid[:, None], z, float("-inf"))
            largest = tl.maximum(largest, candidate, propagate_nan=tl.PropagateNan.ALL)
            added += z
            window += valid.to(tl.float32)
    return largest, added, window


@triton.jit
def pools(
    x, maximum, mean, partials, partial_stride, images, height, width, out_height, out_width,
    divisors, STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both pools and their partial statistics, for all tiles of a program.

    The mean is over the pixels of a window that are inside the image.
    """
    channels = tl.arange(0, C)
    pixels = images * out_height * out_width
    shift_largest = tl.zeros([C], tl.float32)
    first_largest = tl.zeros([BLOCK, C], tl.float32)
    second_largest = tl.zeros([BLOCK, C], tl.float32)
    shift_mean = tl.zeros([C], tl.float32)
    first_mean = tl.zeros([BLOCK, C], tl.float32)
    second_mean = tl.zeros([BLOCK, C], tl.float32)
    total = 0.0
    for tile in range(tl.program_id(0), tl.cdiv(pixels, BLOCK), tl.num_programs(0)):
        pixel, inside, image, row, column = tile_of(
            tile, images, out_height, out_width, divisors, BLOCK
        )
        largest, added, window = _windows(
            x, image, row, column, inside, height, width, STRIDE, C, BLOCK
        )
        largest = tl.where(inside[:, None], largest, 0.0)
        dtype = maximum.dtype.element_ty
        offsets = pixel[:, None] * C + channels[None, :]
        tl.store(maximum + offsets, largest.to(dtype), mask=inside[:, None])
        average = (added / tl.maximum(window, 1.0)[:, None]).to(dtype)
        tl.store(mean + offsets, average, mask=inside[:, None])
        average = average.to(tl.float32)
        count = tl.minimum(BLOCK, pixels - tile * BLOCK).to(tl.float32)
        if tile == tl.program_id(0):
            shift_largest = tile_mean(largest, inside, count)
            shift_mean = tile_mean(average, inside, count)
        centred = tl.where(inside[:, None], largest - shift_largest[None, :], 0.0)
        first_largest += centred
        second_largest += centred * centred
        centred = tl.where(inside[:, None], average - shift_mean[None, :], 0.0)
        first_mean += centred
        second_mean += centred * centred
        total += count
    store_statistics(partials, channels, shift_largest, first_largest, second_largest, total, C)
    store_statistics(
        partials + partial_stride, channels, shift_mean, first_mean, second_mean, total, C
    )


@triton.jit
def pooled_tile(
    x, kind, tile, images, height, width, out_height, out_width, divisors,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A tile (BLOCK, C) of the maximum (kind 1) or the mean (kind 2), rounded to the type of x."""
    _, inside, image, row, column = tile_of(tile, images, out_height, out_width, divisors, BLOCK)
    largest, added, window = _windows(
        x, image, row, column, inside, height, width, STRIDE, C, BLOCK
    )
    average = added / tl.maximum(window, 1.0)[:, None]
    chosen = tl.where(kind == 1, tl.where(inside[:, None], largest, 0.0), average)
    return chosen.to(x.dtype.element_ty).to(tl.float32)


@triton.jit
def _pool_gradient(pooled, edges, first, count, offsets, inside, channels, C: tl.constexpr):
    """The sum over some edges of dz = a g + b (z - mean) + d; `pooled`, which is z, is (BLOCK, C).

    edges: gradients, coefficients and rows with their places, of which `count` from `first` on.
    """
    total = tl.zeros_like(pooled)
    for edge in range(first, first + count):
        coefficients = place(edges[2], edges[3], edge) + channels
        row = place(edges[4], edges[5], edge)
        mean = tl.load(row + TABLE_MEAN * C + channels).to(tl.float32)[None, :]
        a = tl.load(coefficients).to(tl.float32)[None, :]
        b = tl.load(coefficients + C).to(tl.float32)[None, :]
        d = tl.load(coefficients + 2 * C).to(tl.float32)[None, :]
        near = place(edges[0], edges[1], edge) + offsets
        g = tl.load(near, mask=inside, other=0.0).to(tl.float32)
        total += a * g + b * (pooled - mean) + d
    return total


@triton.jit
def pool_outputs(
    x, edges, maxima, means, d_maximum, d_mean, winners, images, height, width, out_height,
    out_width, divisors, STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Dz of both pools, summed over edges, and the position of each maximum, for all tiles.

    The pools are recomputed, since the stored values do not tell the position of the maximum.
    edges, maxima, means: as `arguments.EdgeGradients` has them. Writes d_maximum; d_mean, divided
    by the number of pixels in the window; and winners, the tap (0 to 8) of the maximum,
    (N, OH, OW, C) each.
    """
    dtype = d_maximum.dtype.element_ty
    channels = tl.arange(0, C)
    tiles = tl.cdiv(images * out_height * out_width, BLOCK)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        pixel, inside, image, row, column = tile_of(
            tile, images, out_height, out_width, divisors, BLOCK
        )
        offsets = pixel[:, None] * C + channels[None, :]
        winner = tl.zeros([BLOCK, C], tl.int32)
        largest = tl.full([BLOCK, C], float("-inf"), tl.float32)
        added = tl.zeros([BLOCK, C], tl.float32)
        window = tl.zeros([BLOCK], tl.float32)
        top, left, corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
        for i in range(0, 3):
            line = x + corner + (i - 1) * width * C
            on_line = inside & within(top + i - 1, height)
            for j in tl.static_range(3):
                valid = on_line & within(left + (j - 1), width)
                z = tl.load(line + (j - 1) * C, mask=valid[:, None], other=0.0).to(tl.float32)
                candidate = tl.where(valid[:, None], z, float("-inf"))
                winner = tl.where(candidate > largest, i * 3 + j, winner)
                largest = tl.maximum(largest, candidate)
                added += z
                window += valid.to(tl.float32)
        tl.store(winners + offsets, winner.to(tl.int8), mask=inside[:, None])
        largest = tl.where(inside[:, None], largest, 0.0)
        window = tl.maximum(window, 1.0)[:, None]
        dz = _pool_gradient(largest, edges, 0, maxima, offsets, inside[:, None], channels, C)
        tl.store(d_maximum + offsets, dz.to(dtype), mask=inside[:, None])
        average = (added / window).to(dtype).to(tl.float32)
        dz = _pool_gradient(average, edges, maxima, means, offsets, inside[:, None], channels, C)
        tl.store(d_mean + offsets, (dz / window).to(dtype), mask=inside[:, None])


@triton.jit
def gather_pools(
    d_maximum, d_mean, winners, image, h, w, inside, out_height, out_width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient (BLOCK, C) that a tile of input pixels receives from both pools."""
    channels = tl.arange(0, C)
    dx = tl.zeros([BLOCK, C], tl.float32)
    column = w // STRIDE
    for i in range(0, 3):
        y, on_line = output_line(h, i - 1, inside, out_height, STRIDE)
        line = ((image * out_height + y) * out_width + column)[:, None] * C + channels[None, :]
        for j in tl.static_range(3):
            ahead = (j - 1) // STRIDE
            valid = on_line & within(column - ahead, out_width)
            if STRIDE > 1:
                valid = valid & (w % STRIDE == (j - 1) % STRIDE)
            near = line - ahead * C
            winner = tl.load(winners + near, mask=valid[:, None], other=-1)
            dz = tl.load(d_maximum + near, mask=valid[:, None], other=0.0).to(tl.float32)
            dx += tl.where(winner == i * 3 + j, dz, 0.0)
            dx += tl.load(d_mean + near, mask=valid[:, None], other=0.0).to(tl.float32)
    return dx
