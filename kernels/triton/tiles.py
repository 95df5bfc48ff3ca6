"""Device functions that forward and backward kernels share: tiles of pixels, taps, tables.

A tile is BLOCK pixels times C channels; pixels are numbered through the batch in row-major order.
Each of G programs takes every G-th tile, so that the order of its sums is fixed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

VALUE, WEIGHTS, PARTIAL, DENSE, SHAPE, TAPS, ROWS, COLUMNS, SKEW = (
    tl.constexpr(i) for i in range(9)
)
"""Columns of the `convolutions` table (B, 9); see `layout.StageTables`."""
FIELDS = tl.constexpr(9)
ALIGNMENT = tl.constexpr(16)
"""Offsets of packed weights and of rows are multiples of it, since it is the smallest width."""
UNSPECIALISED = (
    "images", "height", "width", "out_height", "out_width", "count", "groups", "pixels",
    "input_programs", "input_groups", "part_groups", "maxima", "means", "skips", "first_skip",
    "row_count", "batch",
)  # fmt: skip
"""Numbers for whose values, such as 1 or multiples of 16, no kernel is compiled anew."""

TABLE_MEAN, TABLE_SCALE, TABLE_SHIFT, TABLE_RSTD, TABLE_VARIANCE, TABLE_RESIDUAL = (
    tl.constexpr(i) for i in range(6)
)
"""Rows of a table (R, 6, C), as `hwnas.kernels.norms` numbers them."""
TABLE_ROWS = tl.constexpr(6)


@triton.jit
def select(tensors, index):
    """tensors[index] of a tuple of pointers, for an index that is known only at run time."""
    chosen = tensors[0]
    for i in tl.static_range(1, len(tensors)):
        chosen = tl.where(index == i, tensors[i], chosen)
    return chosen


@triton.jit
def place(bases, places, index):
    """Pointer number `index` of `arguments.Places`."""
    offset = tl.multiple_of(tl.load(places + 2 * index + 1), ALIGNMENT)
    return select(bases, tl.load(places + 2 * index)) + offset


@triton.jit
def load_divisors(divisors):
    """The four numbers of `layout.divisors`."""
    return tl.load(divisors), tl.load(divisors + 1), tl.load(divisors + 2), tl.load(divisors + 3)


@triton.jit
def _divide(number, multiplier, shift):
    """Floor division of numbers 0 <= number < 2**31 by a multiplication; see `layout.divisors`."""
    doubled = number.to(tl.uint32) * 2
    return (tl.umulhi(doubled, multiplier.to(tl.uint32)) >> shift.to(tl.uint32)).to(tl.int32)


@triton.jit
def tile_of(tile, images, height, width, divisors, BLOCK: tl.constexpr):
    """Number of a tile's pixels, whether they exist, their image, row and column; (BLOCK,) each.

    divisors: of height and width, as `load_divisors` returns them.
    """
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    line = _divide(pixel, divisors[2], divisors[3])
    image = _divide(line, divisors[0], divisors[1])
    return (
        pixel,
        pixel < images * height * width,
        image,
        line - image * height,
        pixel - line * width,
    )


@triton.jit
def load_offset(convolution, FIELD: tl.constexpr):
    """An offset of packed weights. It is aligned, so that weights are loaded 16 bytes at a time."""
    return tl.multiple_of(tl.load(convolution + FIELD), ALIGNMENT)


@triton.jit
def dense_shape(convolution):
    """Rows, columns and skew of a dense convolution's taps; see `dense_tap`."""
    return (
        tl.load(convolution + ROWS), tl.load(convolution + COLUMNS), tl.load(convolution + SKEW)
    )  # fmt: skip


@triton.jit
def dense_tap(i, j, columns, skew):
    """Rows and columns from the output pixel, times the stride, to the input of tap (i, j).

    The two taps of FactorizedReduce, at (0, 0) and (1, 1), are two rows of one column with a skew.
    """
    return i - columns // 2, j - columns // 2 + i * skew


@triton.jit
def within(index, size):
    """Whether 0 <= index < size, by one comparison: as unsigned, negative numbers are large."""
    return index.to(tl.uint32) < tl.cast(size, tl.uint32)


@triton.jit
def load_table(table, channels, C: tl.constexpr, NORMALISED: tl.constexpr):
    """Mean, scale and shift of a table row, (1, K) each; of the identity if not NORMALISED."""
    if NORMALISED:
        mean = tl.load(table + TABLE_MEAN * C + channels).to(tl.float32)
        scale = tl.load(table + TABLE_SCALE * C + channels).to(tl.float32)
        shift = tl.load(table + TABLE_SHIFT * C + channels).to(tl.float32)
    else:
        mean = tl.zeros_like(channels).to(tl.float32)
        scale = mean + 1.0
        shift = mean
    return mean[None, :], scale[None, :], shift[None, :]


@triton.jit
def input_corner(
    image, row, column, height, width, channels, STRIDE: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """Row and column (BLOCK,) and offset (BLOCK, K) of the input at tap (0, 0) of output pixels."""
    top = row * STRIDE
    left = column * STRIDE
    return top, left, ((image * height + top) * width + left)[:, None] * C + channels[None, :]


@triton.jit
def rectified(pointers, valid, mean, scale, shift, NORMALISED: tl.constexpr):
    """relu(scale (z - mean) + shift), (BLOCK, K) in float32; zero where not valid (BLOCK,).

    A convolution pads the normalised input with zeros.
    """
    z = tl.load(pointers, mask=valid[:, None], other=0.0).to(tl.float32)
    if NORMALISED:
        z = tl.where(valid[:, None], scale * (z - mean) + shift, 0.0)
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _depthwise(
    values, weights, rows, corner, inside, channels, mean, scale, shift, height, width,
    SIZE: tl.constexpr, DILATION: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
    K: tl.constexpr, NORMALISED: tl.constexpr,
):  # fmt: skip
    """`depthwise` with a kernel of SIZE x SIZE; rows is SIZE, as a number that is loaded.

    The compiler would unroll a loop of known length, and run out of registers.
    """
    PADDING: tl.constexpr = DILATION * (SIZE // 2)
    y = tl.zeros([BLOCK, K], tl.float32)
    for i in range(0, rows):
        down = i * DILATION - PADDING
        row = values + corner[2] + down * width * C
        of_row = weights + i * SIZE * C + channels
        valid = inside & within(corner[0] + down, height)
        for j in tl.static_range(SIZE):
            right = j * DILATION - PADDING
            weight = tl.load(of_row + j * C).to(tl.float32)[None, :]
            u = rectified(
                row + right * C, valid & within(corner[1] + right, width), mean, scale, shift,
                NORMALISED,
            )  # fmt: skip
            y += u * weight
    return y


@triton.jit
def depthwise(
    values, weights, convolution, corner, inside, channels, mean, scale, shift, height, width,
    SHAPES: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr,
    NORMALISED: tl.constexpr,
):  # fmt: skip
    """A depthwise convolution of a tile, (BLOCK, K) in float32; weights are (taps, C).

    Its kernel size and dilation are one of SHAPES. Each has code of its own, in which the offsets
    of the taps of a row are constants.
    """
    shape = tl.load(convolution + SHAPE)
    rows = tl.load(convolution + ROWS)
    y = tl.zeros([BLOCK, K], tl.float32)
    for known in tl.static_range(len(SHAPES)):
        if shape == known:
            y = _depthwise(
                values, weights, rows, corner, inside, channels, mean, scale, shift, height, width,
                SHAPES[known][0], SHAPES[known][1], C, BLOCK, K, NORMALISED,
            )  # fmt: skip
    return y


@triton.jit
def pin(x, PIN: tl.constexpr):
    """Return x, and keep the compiler from changing the layout in which it is computed.

    Without this the compiler computes a whole tap loop in the operand layout of the dot product
    that follows it, with three times as many instructions. PIN is false in the interpreter, which
    does not support inline assembly.
    """
    if PIN:
        return tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=False, pack=1
        )
    else:
        return x


@triton.jit
def load_output_gradient(gradient, output, offsets, valid, coefficients, table, channels,
                         C: tl.constexpr):  # fmt: skip
    """Dz = a g + b (z - mean) + d in float32, zero where not valid."""
    g = tl.load(gradient + offsets, mask=valid, other=0.0).to(tl.float32)
    z = tl.load(output + offsets, mask=valid, other=0.0).to(tl.float32)
    mean = tl.load(table + TABLE_MEAN * C + channels).to(tl.float32)[None, :]
    a = tl.load(coefficients + channels).to(tl.float32)[None, :]
    b = tl.load(coefficients + C + channels).to(tl.float32)[None, :]
    d = tl.load(coefficients + 2 * C + channels).to(tl.float32)[None, :]
    return tl.where(valid, a * g + b * (z - mean) + d, 0.0)


@triton.jit
def output_line(h, down, inside, height, STRIDE: tl.constexpr):
    """The output row whose taps `down` rows below it read input row h, and whether it exists."""
    y = h - down
    valid = inside
    if STRIDE > 1:
        valid = valid & (y % STRIDE == 0)
        y = y // STRIDE
    return y, valid & within(y, height)
