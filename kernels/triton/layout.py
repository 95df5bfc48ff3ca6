"""How the Triton kernels find weights, and how their work is cut: plain functions of shapes.

Packed weights: one flat tensor, the channels padded with zeros to the width. A separable
convolution has its depthwise weights (taps, C), then its pointwise ones (C in, C out); a dense one
has (taps, C in, C out). FactorizedReduce is dense with two taps, (0, 0) and (1, 1), each of which
fills half of the output channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from hwnas.kernels.plan import Convolution

LARGEST_WIDTH = 128
LARGEST_TENSOR = 2**31
"""Elements of one activation: offsets inside it are 32-bit."""


class Tile(NamedTuple):
    """How a launch is cut.

    Attributes:
        pixels: of a tile.
        block_k: input channels of one matrix product.
        warps: of a program.
        registers: that a thread may have; the assembler alone would spill a few bytes for a
            higher occupancy.
    """

    pixels: int
    block_k: int
    warps: int
    registers: int = 128


class Tiles(NamedTuple):
    """Tiles of `stage_forward`, `stage_backward_outputs` and `stage_backward_inputs`."""

    forward: Tile
    outputs: Tile
    inputs: Tile


TILES = {
    16: Tiles(Tile(64, 16, 4, 168), Tile(64, 16, 4, 168), Tile(64, 16, 4)),
    32: Tiles(Tile(32, 32, 4, 168), Tile(32, 32, 4, 168), Tile(32, 32, 4)),
    64: Tiles(Tile(32, 64, 8, 255), Tile(32, 64, 8, 255), Tile(32, 64, 8)),
    128: Tiles(Tile(16, 128, 8, 255), Tile(16, 64, 8, 255), Tile(16, 64, 8, 255)),
}
"""By width: 4 to 8 elements a thread, which is what fits in registers beside the weights."""

FORWARD_GROUPS = 256
REDUCE_PROGRAMS = 2048
WEIGHT_PROGRAMS = 512
INPUT_PROGRAMS = 2048
SUM_BLOCK = 256


def fits(channels: int, pixels: int) -> bool:
    """Whether the kernels can run activations of `pixels` = N H W."""
    return channels <= LARGEST_WIDTH and pixels * padded_width(channels) < LARGEST_TENSOR


def padded_width(channels: int) -> int:
    """Channels of the internal layout: a power of two, at least the 16 that `tl.dot` needs."""
    width = max(16, 1 << (channels - 1).bit_length())
    if width > LARGEST_WIDTH:
        raise ValueError(f"{channels} channels; the Triton kernels have at most {LARGEST_WIDTH}")
    return width


def elementwise_pixels(pixels: int, width: int) -> int:
    """Pixels of a tile of the elementwise kernels: large tiles if there are enough of them."""
    for elements in (4096, 2048):
        if pixels * width >= 528 * elements:
            return elements // width
    return max(1024 // width, 16)


def forward_groups(pixels: int, width: int) -> int:
    """Programs that share the tiles of a convolution or of the pools."""
    return min(FORWARD_GROUPS, -(-pixels // TILES[width].forward.pixels))


def output_groups(pixels: int, width: int) -> int:
    """Programs that share the tiles of one output's gradient, if no weights need theirs."""
    return min(FORWARD_GROUPS, -(-pixels // TILES[width].outputs.pixels))


def weight_groups(pixels: int, width: int, convolutions: int) -> int:
    """Programs that share the sum of one weight's gradient: each costs a copy of the weights."""
    programs = WEIGHT_PROGRAMS if width < 64 else WEIGHT_PROGRAMS // 2
    return min(max(16, programs // max(convolutions, 1)), -(-pixels // TILES[width].outputs.pixels))


def input_groups(pixels: int, width: int, values: int) -> int:
    """Programs that share the tiles of one value's gradient."""
    return min(max(64, INPUT_PROGRAMS // values), -(-pixels // TILES[width].inputs.pixels))


def reduce_groups(pixels: int, width: int, terms: int) -> int:
    """Programs that share the sums of one term."""
    tiles = -(-pixels // elementwise_pixels(pixels, width))
    return min(max(16, REDUCE_PROGRAMS // terms), tiles)


def tap_count(convolution: Convolution) -> int:
    """Spatial positions of a convolution's weights."""
    return 2 if convolution.kind == "factorized" else convolution.kernel**2


def block_size(convolution: Convolution, width: int) -> int:
    """Elements of a convolution's packed weights."""
    taps = tap_count(convolution)
    return taps * width + width**2 if convolution.kind == "separable" else taps * width**2


def kinds_of(convolutions: Sequence[Convolution]) -> str:
    """Which branches a kernel needs: `separable`, `dense` or `both`."""
    kinds = {c.kind == "separable" for c in convolutions}
    return "both" if len(kinds) == 2 else "separable" if True in kinds else "dense"


class StageTables(NamedTuple):
    """Convolutions of a stage, as int32 tensors.

    Attributes:
        convolutions: (B, 9); which value is read, where its packed weights start, where they
            start among the stage's own, whether dense, number of taps; then tap t is at row
            (t // rows) dilation - padding and column (t % columns) dilation - padding.
        first_readers, readers: value r is read by readers[first_readers[r]:first_readers[r + 1]].
        taps: (T, 2), convolution and tap of the weight gradients that are summed tap by tap.
        destinations: where the element of a packed weight stands among the parameters, joined in
            the order of `weights`; -1 for padding.
        weights: positions of the parameters, in that order.
        elements: of the stage's packed weights.
    """

    convolutions: Tensor
    first_readers: Tensor
    readers: Tensor
    taps: Tensor
    destinations: Tensor
    weights: tuple[int, ...]
    elements: int


@lru_cache(maxsize=1024)
def stage_tables(
    convolutions: tuple[Convolution, ...],
    offsets: tuple[int, ...],
    channels: int,
    width: int,
    values: int,
    device: torch.device,
) -> StageTables:
    """Tables of a stage; `offsets` are those of its packed weights."""
    rows, taps, start = [], [], 0
    for branch, (convolution, offset) in enumerate(zip(convolutions, offsets, strict=True)):
        count, kernel = tap_count(convolution), convolution.kernel
        shape = (kernel, kernel, convolution.dilation, convolution.dilation * (kernel // 2))
        if convolution.kind == "factorized":
            shape = (1, 2, 1, 0)
        dense = int(convolution.kind != "separable")
        rows.append((convolution.reads or 0, offset, start, dense, count, *shape))
        taps += [(branch, tap) for tap in range(count)]
        start += block_size(convolution, width)
    readers = [[b for b, row in enumerate(rows) if row[0] == value] for value in range(values)]
    first = [sum(len(r) for r in readers[:value]) for value in range(values + 1)]

    def table(values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.int32).to(device)

    positions = tuple(position for c in convolutions for position in c.weights)
    destinations = packing_index(convolutions, channels, width)
    return StageTables(
        table(rows), table(first), table([b for r in readers for b in r]), table(taps),
        destinations.to(device, torch.int32), positions, start,
    )  # fmt: skip


def packing_index(
    convolutions: Sequence[Convolution], channels: int, width: int
) -> Tensor:  # fmt: skip
    """For each packed element its place among the convolutions' parameters joined, -1 for none."""
    blocks, start = [], 0
    for convolution in convolutions:
        count = tap_count(convolution)
        if convolution.kind == "separable":
            depthwise = start + torch.arange(channels * count).view(channels, count)
            start += channels * count
            pointwise = start + torch.arange(channels * channels).view(channels, channels)
            start += channels * channels
            blocks += [_padded(depthwise.T, (count, width)), _padded(pointwise.T, (width, width))]
        elif convolution.kind == "dense":
            size = (channels, channels, count)
            dense = start + torch.arange(channels * channels * count).view(size)
            start += dense.numel()
            blocks.append(_padded(dense.permute(2, 1, 0), (count, width, width)))
        else:
            half = channels // 2
            for first in (0, half):
                outputs = half if first == 0 else channels - half
                weight = start + torch.arange(outputs * channels).view(outputs, channels)
                start += weight.numel()
                tap = torch.full((width, width), -1)
                tap[:channels, first : first + outputs] = weight.T
                blocks.append(tap)
    return torch.cat([block.reshape(-1) for block in blocks])


def _padded(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    padded = torch.full(shape, -1)
    padded[tuple(slice(size) for size in index.shape)] = index
    return padded


class PackedParameters(list[Tensor]):
    """A cell's parameters, and the weights among them in the layout of the kernels.

    Attributes:
        flat: all packed weights.
        offsets: where a convolution's start, by its positions of weights.
        channels, width: without and with padding.
        pending: partial weight gradients that wait for `TritonBackend.finish`.
    """

    def __init__(
        self, parameters: Sequence[Tensor], convolutions: tuple[Convolution, ...], width: int
    ) -> None:
        super().__init__(parameters)
        self.pending: list = []
        self.width = width
        self.channels = channels_of(convolutions, parameters)
        starts, start = [], 0
        for convolution in convolutions:
            starts.append(start)
            start += block_size(convolution, width)
        self.offsets = {c.weights: s for c, s in zip(convolutions, starts, strict=True)}
        weights = [parameters[i].reshape(-1) for c in convolutions for i in c.weights]
        device, dtype = weights[0].device, weights[0].dtype
        joined = torch.cat([_zero(device, dtype), *weights])
        self.flat = joined.index_select(0, _gather(convolutions, self.channels, width, device))


@lru_cache(maxsize=64)
def _zero(device: torch.device, dtype: torch.dtype) -> Tensor:
    """What padding reads."""
    return torch.zeros(1, device=device, dtype=dtype)


@lru_cache(maxsize=256)
def _gather(
    convolutions: tuple[Convolution, ...], channels: int, width: int, device: torch.device
) -> Tensor:
    return (packing_index(convolutions, channels, width) + 1).to(device)


def channels_of(convolutions: Sequence[Convolution], parameters: Sequence[Tensor]) -> int:
    """Channels without padding: all convolutions have equally many in and out."""
    convolution = convolutions[0]
    weights = [parameters[i] for i in convolution.weights]
    return weights[0].shape[0 if convolution.kind == "separable" else 1]
