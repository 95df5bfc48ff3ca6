"""The layout of weights for the Triton kernels.

Packed weights are one flat tensor, with channels padded to the width by zeros. A separable
convolution has its depthwise weights (taps, C), then its pointwise weights (C in, C out); a dense
convolution has (taps, C in, C out). FactorizedReduce is stored as a dense convolution with two
taps, at (0, 0) and (1, 1), each of which computes half of the output channels. Scales and shifts of
batch norms come last, each scale before its shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hwnas.kernels.plan import Convolution, Norm
from hwnas.kernels.triton.constants import kept_on_device
from hwnas.kernels.triton.layout import StageTables, block_size, tap_count


class WeightSums(NamedTuple):
    """The weight gradients of a stage before they are added up.

    Attributes:
        partials: (G, packed elements).
        tables: the tables of the stage.
        convolutions: of the stage.
        channels: number of channels without padding.
        width: number of channels with padding.
    """

    partials: Tensor
    tables: StageTables
    convolutions: tuple[Convolution, ...]
    channels: int
    width: int


@kept_on_device(limit=1024)
def weight_destinations(
    convolutions: tuple[Convolution, ...],
    offsets: tuple[int, ...],
    channels: int,
    width: int,
    device: torch.device,
) -> Tensor:
    """For each packed element where its gradient is written, -1 for nowhere, as int32.

    Args:
        convolutions: of a stage.
        offsets: where the gradients of their weights begin, in their order; -1 if not needed.
        channels: number of channels without padding.
        width: number of channels with padding.
        device: where the result is to be.
    """
    sizes = [size for c in convolutions for size in weight_sizes(c, channels)]
    moved = torch.cat([
        torch.full((size,), -1) if offset < 0 else offset + torch.arange(size)
        for size, offset in zip(sizes, offsets, strict=True)
    ])  # fmt: skip
    index = packing_index(convolutions, channels, width)
    return torch.where(index < 0, -1, moved[index.clamp_min(0)]).int().to(device)


def weight_sizes(convolution: Convolution, channels: int) -> tuple[int, ...]:
    """Elements of each of a convolution's weights."""
    if convolution.kind == "separable":
        return tap_count(convolution) * channels, channels**2
    if convolution.kind == "dense":
        return (tap_count(convolution) * channels**2,)
    return channels // 2 * channels, (channels - channels // 2) * channels


def packing_index(convolutions: Sequence[Convolution], channels: int, width: int) -> Tensor:
    """For each packed element its position among the concatenated weights; -1 for padding."""
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
    """The index in the corner of a tensor of -1."""
    padded = torch.full(shape, -1)
    padded[tuple(slice(size) for size in index.shape)] = index
    return padded


class PackedParameters(list[Tensor]):
    """A cell's parameters, with the weights among them also in the layout of the kernels.

    Args:
        parameters: of the cell.
        convolutions: of the cell, or of a stage.
        width: number of channels with padding.
        norms: batch norms of the cell, or of a stage.
        counters: how many are made at once, at least those that the kernels of one pass need.

    Attributes:
        flat: all packed weights, then scales and shifts, one vector.
        offsets: offset of a convolution's packed weights in `flat`, by its `Convolution.weights`.
        affine: offset of a norm's scale and shift in `flat`, by its `Norm.gamma`.
        order: positions of the parameters that are packed, one after the other.
        gather: for each packed element its position among a zero and these parameters.
        channels: number of channels without padding.
        width: number of channels with padding.
        free_counters: zeros that no launch uses yet.
        pending: partial weight gradients, to be added up by `TritonBackend.finish`.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        convolutions: tuple[Convolution, ...],
        width: int,
        norms: Sequence[Norm] = (),
        counters: int = 0,
    ) -> None:
        super().__init__(parameters)
        self.pending: list[WeightSums] = []
        self.width = width
        starts, start = [], 0
        for convolution in convolutions:
            starts.append(start)
            start += block_size(convolution, width)
        self.offsets = {c.weights: s for c, s in zip(convolutions, starts, strict=True)}
        pairs = [(n.gamma, n.beta) for n in norms if n.gamma is not None and n.beta is not None]
        self.affine = {gamma: start + 2 * i * width for i, (gamma, _) in enumerate(pairs)}
        self.order = tuple(i for c in convolutions for i in c.weights)
        self.order += tuple(i for pair in pairs for i in pair)
        weights = [parameters[i] for i in self.order]
        self.channels = (
            channels_of(convolutions, parameters) if convolutions else weights[-1].numel()
        )
        device = weights[0].device
        self.gather = gather(convolutions, len(pairs), self.channels, width, device)
        self.flat = joined(weights).index_select(0, self.gather)
        self._block = counters
        self.free_counters = self.flat.new_empty(0, dtype=torch.int32)

    def counters(self, count: int) -> Tensor:
        """Counters that are zero and that no other launch uses, (count,)."""
        if len(self.free_counters) < count:
            block = max(self._block, count)
            self.free_counters = torch.zeros(block, dtype=torch.int32, device=self.flat.device)
        taken, self.free_counters = self.free_counters[:count], self.free_counters[count:]
        return taken


def joined(parameters: Sequence[Tensor]) -> Tensor:
    """A zero and all elements of some parameters, one vector."""
    first = parameters[0]
    vector: Tensor = torch._C._nn.flatten_dense_tensors(
        [_zero(first.device, first.dtype), *parameters]
    )
    return vector


@kept_on_device(limit=64)
def _zero(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The element that padding is copied from."""
    return torch.zeros(1, dtype=dtype).to(device)


@kept_on_device(limit=256)
def gather(
    convolutions: tuple[Convolution, ...],
    norms: int,
    channels: int,
    width: int,
    device: torch.device,
) -> Tensor:
    """`packed_positions` on a device."""
    return packed_positions(convolutions, norms, channels, width).to(device)


def packed_positions(
    convolutions: Sequence[Convolution], norms: int, channels: int, width: int
) -> Tensor:
    """For each packed element its position among a zero and the concatenated parameters.

    Args:
        convolutions: whose weights come first.
        norms: number of batch norms, whose scales and shifts come last.
        channels: number of channels without padding.
        width: number of channels with padding.
    """
    sizes = [size for c in convolutions for size in weight_sizes(c, channels)]
    vectors = sum(sizes) + torch.arange(2 * norms * channels).view(2 * norms, channels)
    parts = [_padded(vectors, (2 * norms, width)).reshape(-1)]
    if convolutions:
        parts.insert(0, packing_index(convolutions, channels, width))
    return torch.cat(parts) + 1


def channels_of(convolutions: Sequence[Convolution], parameters: Sequence[Tensor]) -> int:
    """Number of channels without padding, the same for inputs and outputs of all convolutions."""
    convolution = convolutions[0]
    weights = [parameters[i] for i in convolution.weights]
    return weights[0].shape[0 if convolution.kind == "separable" else 1]
