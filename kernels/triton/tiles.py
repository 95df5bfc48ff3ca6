"""Device functions that forward and backward kernels share: tiles of pixels, taps, tables.

A tile is BLOCK pixels times C channels; pixels are numbered through the batch in row-major order.
Each of G programs takes every G-th tile, so that the order of its sums is fixed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

VALUE, WEIGHTS, PARTIAL, DENSE, TAPS, ROWS, COLUMNS, DILATION, PADDING = (
    tl.constexpr(i) for i in range(9)
)
"""Columns of the `convolutions` table (B, 9); see `layout.StageTables`."""
FIELDS = tl.constexpr(9)

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
def tile_of(tile, images, height, width, BLOCK: tl.constexpr):
    """Number of a tile's pixels, whether they exist, their image, row and column; (BLOCK,) each."""
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    column = pixel % width
    row = (pixel // width) % height
    return pixel, pixel < images * height * width, pixel // (width * height), row, column


@triton.jit
def load_shape(convolution):
    """Number of taps, and what `tap_offset` needs: rows, columns, dilation, padding."""
    return (
        tl.load(convolution + TAPS),
        tl.load(convolution + ROWS),
        tl.load(convolution + COLUMNS),
        tl.load(convolution + DILATION),
        tl.load(convolution + PADDING),
    )


@triton.jit
def tap_offset(shape, tap):
    """Rows and columns from the output pixel, times the stride, to the input pixel of a tap.

    The two taps of FactorizedReduce, at (0, 0) and (1, 1), are stored as one row and two columns.
    """
    return (tap // shape[1]) * shape[3] - shape[4], (tap % shape[2]) * shape[3] - shape[4]


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
def load_tap(
    values, down, right, corner, inside, mean, scale, shift, height, width, C: tl.constexpr,
    NORMALISED: tl.constexpr,
):  # fmt: skip
    """relu(scale (z - mean) + shift), (BLOCK, K) in float32, of the inputs that one tap reads.

    It is zero outside the image, since a convolution pads the normalised input with zeros.
    """
    y = corner[0] + down
    x = corner[1] + right
    valid = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    offsets = corner[2] + (down * width + right) * C
    z = tl.load(values + offsets, mask=valid[:, None], other=0.0).to(tl.float32)
    if NORMALISED:
        z = tl.where(valid[:, None], scale * (z - mean) + shift, 0.0)
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def depthwise(
    values, weights, shape, corner, inside, channels, mean, scale, shift, height, width,
    C: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr, NORMALISED: tl.constexpr,
):  # fmt: skip
    """A depthwise convolution of a tile, (BLOCK, K) in float32; weights are (taps, C)."""
    y = tl.zeros([BLOCK, K], tl.float32)
    for tap in range(0, shape[0]):
        down, right = tap_offset(shape, tap)
        u = load_tap(
            values, down, right, corner, inside, mean, scale, shift, height, width, C, NORMALISED
        )
        y += u * tl.load(weights + tap * C + channels).to(tl.float32)[None, :]
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
def output_pixel(h, w, down, right, inside, height, width, STRIDE: tl.constexpr):
    """The output pixel whose tap (down, right) reads input pixel (h, w), and whether it exists."""
    y = h - down
    x = w - right
    valid = inside & (y >= 0) & (x >= 0)
    if STRIDE > 1:
        valid = valid & (y % STRIDE == 0) & (x % STRIDE == 0)
        y = y // STRIDE
        x = x // STRIDE
    return y, x, valid & (y < height) & (x < width)
