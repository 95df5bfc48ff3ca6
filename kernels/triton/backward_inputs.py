"""The second launch of a stage's backward pass: gradients of the inputs and of the weights.

`stage_backward_inputs` gathers the gradient of the inputs from what the first launch stored: dy, or
dz for dense convolutions and pools. Further programs of it sum the gradients of the weights that
the first launch left out, each those of a row of taps of a depthwise or of one tap of a dense
convolution. `sum_weight_gradients` adds up the partial sums of both launches.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from hwnas.kernels.triton.pools import gather_pools
from hwnas.kernels.triton.statistics import differentiate, is_last
from hwnas.kernels.triton.tiles import (
    DENSE,
    FIELDS,
    PARTIAL,
    ROWS,
    SHAPE,
    TABLE_ROWS,
    UNSPECIALISED,
    VALUE,
    WEIGHTS,
    dense_shape,
    dense_tap,
    input_corner,
    load_divisors,
    load_offset,
    load_table,
    output_line,
    place,
    rectified,
    select,
    tile_of,
    within,
)


@triton.jit
def _gather_depthwise(
    du, weights, rows, intermediate, image, h, w, inside, out_height, out_width, SIZE: tl.constexpr,
    DILATION: tl.constexpr, STRIDE: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """`du` plus the part of a depthwise convolution, with rows = SIZE as in `tiles.depthwise`."""
    PADDING: tl.constexpr = DILATION * (SIZE // 2)
    channels = tl.arange(0, C)
    column = w // STRIDE
    for i in range(0, rows):
        y, on_line = output_line(h, i * DILATION - PADDING, inside, out_height, STRIDE)
        line = ((image * out_height + y) * out_width + column)[:, None] * C + channels[None, :]
        of_row = weights + i * SIZE * C + channels
        for j in tl.static_range(SIZE):
            ahead = (j * DILATION - PADDING) // STRIDE
            valid = on_line & within(column - ahead, out_width)
            if STRIDE > 1:
                valid = valid & (w % STRIDE == (j * DILATION - PADDING) % STRIDE)
            near = intermediate + line - ahead * C
            dy = tl.load(near, mask=valid[:, None], other=0.0).to(tl.float32)
            du += dy * tl.load(of_row + j * C).to(tl.float32)[None, :]
    return du


@triton.jit
def _gather_dense(
    du, weights, convolution, intermediate, image, h, w, inside, out_height, out_width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`du` plus the part of a dense convolution, as matrix products."""
    channels = tl.arange(0, C)
    dtype = intermediate.dtype.element_ty
    rows, columns, skew = dense_shape(convolution)
    for i in range(0, rows):
        for j in range(0, columns):
            down, right = dense_tap(i, j, columns, skew)
            y, valid = output_line(h, down, inside, out_height, STRIDE)
            x, valid = output_line(w, right, valid, out_width, STRIDE)
            pixel = (image * out_height + y) * out_width + x
            matrices = weights + (i * columns + j) * C * C + channels[:, None] * C
            for start in range(0, C, BLOCK_K):
                some = start + tl.arange(0, BLOCK_K)
                near = pixel[:, None] * C + some[None, :]
                dz = tl.load(intermediate + near, mask=valid[:, None], other=0.0)
                matrix = tl.load(matrices + some[None, :]).to(dtype)
                du = tl.dot(dz, tl.trans(matrix), du, input_precision=PRECISION)
    return du


@triton.jit
def _gather_convolution(
    du, weights, convolution, intermediate, image, h, w, inside, out_height, out_width,
    STRIDE: tl.constexpr, C: tl.constexpr, BLOCK_K: tl.constexpr, KINDS: tl.constexpr,
    SHAPES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient du (BLOCK, C) of a tile of rectified inputs, plus one convolution's part."""
    dense = tl.load(convolution + DENSE) != 0
    shape = tl.load(convolution + SHAPE)
    if KINDS != "separable":
        if dense:
            du = _gather_dense(
                du, weights, convolution, intermediate, image, h, w, inside, out_height,
                out_width, STRIDE, C, BLOCK_K, PRECISION,
            )  # fmt: skip
    if KINDS != "dense":
        for known in tl.static_range(len(SHAPES)):
            if shape == known:
                du = _gather_depthwise(
                    du, weights, tl.load(convolution + ROWS), intermediate, image, h, w, inside,
                    out_height, out_width, SHAPES[known][0], SHAPES[known][1], STRIDE, C,
                )  # fmt: skip
    return du


@triton.jit
def _input_gradient(
    program, programs, values, table, value, weights, convolutions, first_readers, readers,
    intermediate, before, dx, sums, d_maximum, d_mean, winners, edges, edge_places,
    edge_coefficients, edge_coefficient_places, first_skip, skips, images, height, width,
    out_height, out_width, divisors, output_stride, STRIDE: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    KINDS: tl.constexpr, SHAPES: tl.constexpr, NORMALISED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of one value before the ReLU, for all tiles of a program, and its sums."""
    channels = tl.arange(0, C)
    mean, scale, shift = load_table(table, channels, C, NORMALISED)
    first = tl.zeros([BLOCK, C], tl.float32)
    second = tl.zeros([BLOCK, C], tl.float32)
    for tile in range(program, tl.cdiv(images * height * width, BLOCK), programs):
        pixel, inside, image, h, w = tile_of(tile, images, height, width, divisors, BLOCK)
        offsets = pixel[:, None] * C + channels[None, :]
        du = tl.zeros([BLOCK, C], tl.float32)
        if convolutions is not None:
            last = tl.load(first_readers + value + 1)
            for reader in range(tl.load(first_readers + value), last):
                branch = tl.load(readers + reader)
                convolution = convolutions + branch * FIELDS
                du = _gather_convolution(
                    du, weights + load_offset(convolution, WEIGHTS), convolution,
                    intermediate + branch.to(tl.int64) * output_stride, image, h, w, inside,
                    out_height, out_width, STRIDE, C, BLOCK_K, KINDS, SHAPES, PRECISION,
                )  # fmt: skip
        z = tl.load(values + offsets, mask=inside[:, None], other=0.0).to(tl.float32) - mean
        du = tl.where(scale * z + shift > 0, du, 0.0)
        if winners is not None:
            du += gather_pools(
                d_maximum, d_mean, winners, image, h, w, inside, out_height, out_width, STRIDE,
                C, BLOCK,
            )  # fmt: skip
        if edges is not None:
            for edge in range(first_skip, first_skip + skips):
                coefficients = place(edge_coefficients, edge_coefficient_places, edge)
                a = tl.load(coefficients + channels).to(tl.float32)[None, :]
                near = place(edges, edge_places, edge) + offsets
                du += a * tl.load(near, mask=inside[:, None], other=0.0).to(tl.float32)
        if before is not None:
            du += tl.load(before + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
        stored = du.to(dx.dtype.element_ty)
        tl.store(dx + offsets, stored, mask=inside[:, None])
        if NORMALISED:
            du = stored.to(tl.float32)
            first += du
            second += du * z
    if NORMALISED:
        tl.store(sums + channels, tl.sum(first, 0))
        tl.store(sums + C + channels, tl.sum(second, 0))


@triton.jit
def _row_gradient(
    program, programs, i, values, table, intermediate, partial, images, height, width, out_height,
    out_width, divisors, SIZE: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr,
    C: tl.constexpr, BLOCK: tl.constexpr, NORMALISED: tl.constexpr,
):  # fmt: skip
    """The gradient of row i of a depthwise convolution's weights, over all tiles of a program.

    That of a tap is sum_p dy u, (C,), with u the rectified input that it reads for output pixel p.
    """
    PADDING: tl.constexpr = DILATION * (SIZE // 2)
    channels = tl.arange(0, C)
    down = i * DILATION - PADDING
    mean, scale, shift = load_table(table, channels, C, NORMALISED)
    zero = tl.zeros([BLOCK, C], tl.float32)
    products = (zero,) * SIZE
    tiles = tl.cdiv(images * out_height * out_width, BLOCK)
    for tile in range(program, tiles, programs):
        pixel, inside, image, row, column = tile_of(
            tile, images, out_height, out_width, divisors, BLOCK
        )
        offsets = pixel[:, None] * C + channels[None, :]
        dy = tl.load(intermediate + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
        top, left, corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
        line = values + corner + down * width * C
        valid = inside & within(top + down, height)
        added = ()
        for j in tl.static_range(SIZE):
            right = j * DILATION - PADDING
            u = rectified(
                line + right * C, valid & within(left + right, width), mean, scale, shift,
                NORMALISED,
            )  # fmt: skip
            added += (products[j] + dy * u,)  # type: ignore[assignment]  # Triton's have no length
        products = added
    for j in tl.static_range(SIZE):
        tl.store(partial + (i * SIZE + j) * C + channels, tl.sum(products[j], 0))


@triton.jit
def _dense_gradient(
    program, programs, tap, values, table, convolution, intermediate, partial, images, height,
    width, out_height, out_width, divisors, STRIDE: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr, NORMALISED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of one tap of a dense convolution, sum_p u dz (C in, C out), over all tiles."""
    channels = tl.arange(0, C)
    _, columns, skew = dense_shape(convolution)
    down, right = dense_tap(tap // columns, tap % columns, columns, skew)
    mean, scale, shift = load_table(table, channels, C, NORMALISED)
    total = tl.zeros([C, C], tl.float32)
    tiles = tl.cdiv(images * out_height * out_width, BLOCK)
    for tile in range(program, tiles, programs):
        pixel, inside, image, row, column = tile_of(
            tile, images, out_height, out_width, divisors, BLOCK
        )
        offsets = pixel[:, None] * C + channels[None, :]
        dz = tl.load(intermediate + offsets, mask=inside[:, None], other=0.0)
        top, left, corner = input_corner(image, row, column, height, width, channels, STRIDE, C)
        valid = inside & within(top + down, height) & within(left + right, width)
        near = values + corner + (down * width + right) * C
        u = rectified(near, valid, mean, scale, shift, NORMALISED)
        total = tl.dot(tl.trans(u.to(dz.dtype)), dz, total, input_precision=PRECISION)
    tl.store(partial + (tap * C + channels[:, None]) * C + channels[None, :], total)


@triton.jit
def _weight_gradient(
    program, programs, part, values, table, convolution, intermediate, partial, images, height,
    width, out_height, out_width, divisors, STRIDE: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr, KINDS: tl.constexpr, SHAPES: tl.constexpr, NORMALISED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of row `part` of a depthwise, or of tap `part` of a dense convolution."""
    dense = tl.load(convolution + DENSE) != 0
    shape = tl.load(convolution + SHAPE)
    if KINDS != "separable":
        if dense:
            _dense_gradient(
                program, programs, part, values, table, convolution, intermediate, partial, images,
                height, width, out_height, out_width, divisors, STRIDE, C, BLOCK, NORMALISED,
                PRECISION,
            )  # fmt: skip
    if KINDS != "dense":
        for known in tl.static_range(len(SHAPES)):
            if shape == known:
                _row_gradient(
                    program, programs, part, values, table, intermediate, partial, images, height,
                    width, out_height, out_width, divisors, SHAPES[known][0], SHAPES[known][1],
                    STRIDE, C, BLOCK, NORMALISED,
                )  # fmt: skip


@triton.jit(do_not_specialize=UNSPECIALISED)
def stage_backward_inputs(
    values, table, weights, convolutions, read_values, first_readers, readers, parts, intermediate,
    before, dx, sums, coefficients, d_gamma, d_beta, counters, batch, partials, d_maximum, d_mean,
    winners, edges, edge_places, edge_coefficients, edge_coefficient_places, first_skip, skips,
    images, height, width, out_height, out_width,
    input_divisors, output_divisors, value_stride, output_stride, partial_stride, input_programs,
    input_groups, part_groups, STRIDE: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, KINDS: tl.constexpr,
    SHAPES: tl.constexpr, NORMALISED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The second launch of a stage's backward pass: gradients of the values and of the weights.

    Grid: input_programs = V input_groups programs for the gradients of the V values that are read,
    then part_groups programs for each row of parts (see `layout.StageTables`, also for
    read_values, first_readers and readers). Writes dx (R, N, H, W, C), to which `before` and the
    gradients of skip connections are added; if NORMALISED the partial sums (R, input_groups, 2, C),
    and if coefficients are not None what `statistics.differentiate` makes of those of the V values,
    all with or without statistics of their `batch`, and with counters (V,) that are zero; and the
    depthwise and dense part of the partial weight gradients, partials (part_groups, packed
    weights).
    """
    program = tl.program_id(0)
    if dx is not None:
        if program < input_programs:
            index = program // input_groups
            value = index
            if convolutions is not None:
                value = tl.load(read_values + value)
            group = program % input_groups
            own = value.to(tl.int64) * value_stride
            _input_gradient(
                group, input_groups, values + own, table + value * TABLE_ROWS * C, value, weights,
                convolutions, first_readers, readers, intermediate, before, dx + own,
                sums + (value * input_groups + group) * 2 * C, d_maximum, d_mean, winners, edges,
                edge_places, edge_coefficients, edge_coefficient_places, first_skip, skips, images,
                height, width, out_height, out_width, load_divisors(input_divisors),
                output_stride, STRIDE, C, BLOCK, BLOCK_K, KINDS, SHAPES, NORMALISED, PRECISION,
            )  # fmt: skip
            if coefficients is not None:
                if is_last(counters + index, input_groups):
                    differentiate(
                        sums + value.to(tl.int64) * input_groups * 2 * C,
                        table + value * TABLE_ROWS * C, 1.0, batch.to(tl.float64),
                        coefficients + index * 3 * C, d_gamma + index * C, d_beta + index * C,
                        input_groups, images * height * width, C, C,
                    )  # fmt: skip
    if parts is not None:
        if program >= input_programs:
            index = (program - input_programs) // part_groups
            group = (program - input_programs) % part_groups
            branch = tl.load(parts + 2 * index)
            convolution = convolutions + branch * FIELDS
            read = tl.load(convolution + VALUE)
            partial = partials + group.to(tl.int64) * partial_stride
            _weight_gradient(
                group, part_groups, tl.load(parts + 2 * index + 1),
                values + read.to(tl.int64) * value_stride, table + read * TABLE_ROWS * C,
                convolution, intermediate + branch.to(tl.int64) * output_stride,
                partial + load_offset(convolution, PARTIAL), images, height, width, out_height,
                out_width, load_divisors(output_divisors), STRIDE, C, BLOCK, KINDS, SHAPES,
                NORMALISED, PRECISION,
            )  # fmt: skip


@triton.jit
def sum_weight_gradients(partials, destinations, stages, out, BLOCK: tl.constexpr):
    """Add up the partial weight gradients of S stages in a fixed order; grid (blocks, S).

    partials: tuple of S pointers, to (G, elements). stages (S, 2): G and the number of elements.
    destinations: tuple of S pointers, to the position of each element in `out`, -1 for none.
    """
    stage = tl.program_id(1)
    groups = tl.load(stages + 2 * stage)
    elements = tl.load(stages + 2 * stage + 1)
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = j < elements
    total = tl.zeros([BLOCK], tl.float32)
    source = select(partials, stage) + j
    for _ in range(0, groups):
        total += tl.load(source, mask=inside, other=0.0)
        source += elements
    destination = tl.load(select(destinations, stage) + j, mask=inside, other=-1)
    tl.store(out + destination, total.to(out.dtype.element_ty), mask=destination >= 0)
