"""How the Triton kernels' work is split: tiles, grids, and tables of a stage's convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hwnas.kernels.plan import Convolution
from hwnas.kernels.triton.constants import kept_on_device

LARGEST_WIDTH = 128
LARGEST_TENSOR = 2**31
"""Limit of the elements of one activation, since offsets inside it are 32-bit integers."""


REGISTERS = 65536
"""Registers of a multiprocessor, since 2012."""


class Tile(NamedTuple):
    """How a kernel is split into tiles, and what it is compiled for.

    Attributes:
        pixels: pixels of a tile.
        block_k: input channels of one matrix product.
        warps: warps of a program.
        registers: limit of the registers of a thread. Without one the assembler aims at a higher
            occupancy and spills a few bytes.
    """

    pixels: int
    block_k: int
    warps: int
    registers: int = 128

    @property
    def resident(self) -> int:
        """Programs that a multiprocessor has registers for at once."""
        return REGISTERS // (self.registers * 32 * self.warps)


class Tiles(NamedTuple):
    """Tiles of `stage_forward`, `stage_backward_outputs` and `stage_backward_inputs`."""

    forward: Tile
    outputs: Tile
    inputs: Tile


TILES = {
    16: Tiles(Tile(64, 16, 4, 168), Tile(64, 16, 4), Tile(64, 16, 4)),
    32: Tiles(Tile(32, 16, 4, 168), Tile(32, 32, 4), Tile(32, 32, 4)),
    64: Tiles(Tile(32, 16, 4, 255), Tile(32, 32, 8), Tile(32, 64, 8)),
    128: Tiles(Tile(32, 32, 8, 255), Tile(16, 64, 8, 255), Tile(16, 64, 8, 255)),
}
"""Of float32, by width; 4 to 16 elements of a tile for each thread. Matrix products of a few input
channels at a time leave registers for at least eight warps on a multiprocessor."""
SHORT_TILES = {
    16: Tiles(Tile(64, 16, 4, 168), Tile(64, 16, 4, 168), Tile(64, 16, 4)),
    32: Tiles(Tile(32, 32, 4, 168), Tile(32, 32, 4, 168), Tile(32, 32, 4)),
    64: Tiles(Tile(32, 64, 8), Tile(32, 32, 4, 168), Tile(32, 64, 8)),
    128: Tiles(Tile(16, 128, 8, 255), Tile(32, 64, 8, 255), Tile(16, 64, 8, 255)),
}
"""Of 16-bit types, whose products are made by tensor cores from few registers."""

DEPTHWISE_SHAPES = ((), ((3, 1), (5, 1)), ((3, 1), (5, 1), (3, 2), (5, 2)))
"""Sets of (kernel size, dilation) of depthwise convolutions that kernels are compiled for."""

FORWARD_WAVES, WEIGHT_WAVES, INPUT_WAVES, REDUCE_WAVES = 8, 3, 4, 4
"""How often a launch fills a device with programs. Programs of unequal length need a few waves to
finish together; those that sum weight gradients are fewer, since each writes sums as large as the
weights."""
SUM_BLOCK = 256
"""Elements that one program of `sum_weight_gradients` adds up."""


def fits(channels: int, pixels: int, *, convolutions: bool = True) -> bool:
    """Whether the kernels, with or without those of convolutions, can run on `pixels` = N H W."""
    narrow = channels <= LARGEST_WIDTH or not convolutions
    return narrow and pixels * norm_width(channels) < LARGEST_TENSOR


def norm_width(channels: int) -> int:
    """Channels with padding, also of tensors too wide for convolutions: then a multiple of 16."""
    return padded_width(channels) if channels <= LARGEST_WIDTH else -(-channels // 16) * 16


def channel_block(width: int) -> int:
    """Channels that the kernels of norms compute at a time, a power of two that divides `width`."""
    return min(width & -width, LARGEST_WIDTH)


def padded_width(channels: int) -> int:
    """Channels with padding: a power of two, at least 16 because `tl.dot` needs as many.

    Raises:
        ValueError: when there are more channels than the kernels support.
    """
    width = max(16, 1 << (channels - 1).bit_length())
    if width > LARGEST_WIDTH:
        raise ValueError(
            f"the Triton kernels support at most {LARGEST_WIDTH} channels, got {channels} channels"
        )
    return width


def elementwise_pixels(pixels: int, width: int, processors: int) -> int:
    """Pixels of a tile of the elementwise kernels.

    Tiles are large if at least four remain for each of the device's multiprocessors.
    """
    for elements in (4096, 2048):
        if pixels * width >= 4 * processors * elements:
            return elements // width
    return max(1024 // width, 16)


def reduce_tile(pixels: int, channels: int, processors: int) -> Tile:
    """Tile of `reduce`, which has no products; with a lower limit of registers it spills."""
    registers = 128 if channels <= 64 else 192
    return Tile(elementwise_pixels(pixels, channels, processors), 0, 4, registers)


def groups_of(pixels: int, tile: Tile, waves: int, columns: int, processors: int) -> int:
    """Programs that share the tiles of one column of a grid, each about as many.

    Args:
        pixels: that the tiles of a column cover.
        tile: of the kernel.
        waves: how often the launch is to fill the device, if there are enough tiles.
        columns: of the grid, for example one for each convolution.
        processors: multiprocessors of the device.
    """
    tiles = -(-pixels // tile.pixels)
    programs = max(1, waves * tile.resident * processors // columns)
    return -(-tiles // -(-tiles // programs))


def tap_count(convolution: Convolution) -> int:
    """Spatial positions of a convolution's weights."""
    return 2 if convolution.kind == "factorized" else convolution.kernel**2


def block_size(convolution: Convolution, width: int) -> int:
    """Elements of a convolution's packed weights."""
    taps = tap_count(convolution)
    return taps * width + width**2 if convolution.kind == "separable" else taps * width**2


def kinds_of(convolutions: Sequence[Convolution]) -> str:
    """Which kinds of convolutions a kernel is compiled for: `separable`, `dense` or `both`."""
    kinds = {c.kind == "separable" for c in convolutions}
    return "both" if len(kinds) == 2 else "separable" if True in kinds else "dense"


def shapes_of(convolutions: Sequence[Convolution]) -> tuple[tuple[int, int], ...]:
    """(kernel size, dilation) of the depthwise convolutions that a kernel is compiled for.

    They are few sets, not the ones that are present, since each set is compiled by itself.

    Raises:
        ValueError: when there is no code for one of the convolutions.
    """
    found = {(c.kernel, c.dilation) for c in convolutions if c.kind == "separable"}
    for shapes in DEPTHWISE_SHAPES:
        if found <= set(shapes):
            return shapes
    raise ValueError(
        f"the Triton kernels have depthwise convolutions of {DEPTHWISE_SHAPES[-1]} (kernel size, "
        f"dilation), got {sorted(found)}"
    )


class StageTables(NamedTuple):
    """The convolutions of a stage, as int32 tensors that the kernels read.

    Attributes:
        convolutions: (B, 9); for each convolution the value that it reads, the offset of its packed
            weights in the cell's, their offset in the stage's, whether it is dense, the position of
            its kernel size and dilation in `shapes_of` (-1 if it is dense), the number of taps, and
            of a dense one rows, columns and skew: tap (i, j) is at row i - columns // 2 and column
            j - columns // 2 + skew i.
        read_values: (V,), the values that convolutions read.
        first_readers: (R + 1,); convolutions readers[first_readers[r]:first_readers[r + 1]] read
            value r.
        readers: (B,), convolutions in the order of the values that they read.
        parts: (P, 2), each part of the weight gradients that is summed by itself: a convolution,
            and a row of its taps if it is depthwise, or one tap if it is dense.
        weights: positions of the stage's weights among the cell's parameters.
        elements: number of the stage's packed elements.
    """

    convolutions: Tensor
    read_values: Tensor
    first_readers: Tensor
    readers: Tensor
    parts: Tensor
    weights: tuple[int, ...]
    elements: int


@kept_on_device(limit=256)
def divisors(height: int, width: int, device: torch.device) -> Tensor:
    """Multiplier and shift for divisions by the height, then by the width, as int32.

    For 0 <= n < 2**31, n // d is the upper half of 2 n m, shifted right by s, where 2**s is the
    smallest power of two that is at least d, and m = 2**(31 + s) // d + 1 (Granlund and Montgomery,
    Division by invariant integers using multiplication, 1994).
    """
    numbers = []
    for divisor in (height, width):
        shift = (divisor - 1).bit_length()
        multiplier = (1 << (31 + shift)) // divisor + 1
        numbers += [multiplier - (1 << 32) if multiplier >= 1 << 31 else multiplier, shift]
    return torch.tensor(numbers, dtype=torch.int32).to(device)


@kept_on_device(limit=1024)
def stage_tables(
    convolutions: tuple[Convolution, ...],
    offsets: tuple[int, ...],
    channels: int,
    width: int,
    values: int,
    device: torch.device,
) -> StageTables:
    """The tables of a stage.

    Args:
        convolutions: the B convolutions.
        offsets: for each convolution the offset of its packed weights in the cell's.
        channels: number of channels without padding.
        width: number of channels with padding.
        values: R, the number of values that the stage reads.
        device: where the tables are to be.
    """
    rows, parts, start = [], [], 0
    shapes = shapes_of(convolutions)
    for branch, (convolution, offset) in enumerate(zip(convolutions, offsets, strict=True)):
        count, kernel, dense = tap_count(convolution), convolution.kernel, 1
        shape, taps = -1, (kernel, kernel, 0)
        if convolution.kind == "factorized":
            taps = (2, 1, 1)
        elif convolution.kind == "separable":
            dense, shape = 0, shapes.index((kernel, convolution.dilation))
        rows.append((convolution.reads or 0, offset, start, dense, shape, count, *taps))
        parts += [(branch, part) for part in range(count if dense else kernel)]
        start += block_size(convolution, width)
    readers = [[b for b, row in enumerate(rows) if row[0] == value] for value in range(values)]
    first = [sum(len(r) for r in readers[:value]) for value in range(values + 1)]

    def table(entries: Sequence[int] | Sequence[tuple[int, ...]]) -> Tensor:
        return torch.tensor(entries, dtype=torch.int32).to(device)

    positions = tuple(position for c in convolutions for position in c.weights)
    return StageTables(
        table(rows), table([v for v, found in enumerate(readers) if found]), table(first),
        table([b for r in readers for b in r]), table(parts), positions, start,
    )  # fmt: skip
