"""How raw inputs become the inputs of a network, which training, prediction and export share.

Images of integers are scaled by the largest value of their type to 0..1. Then the mean of each
channel over the training inputs is subtracted, and the result is divided by the standard deviation.

Shapes: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.errors import InputError

LARGEST = {"uint8": 255, "uint16": 65535, "float32": 1}
"""What raw inputs of each type are divided by."""
DECIMALS = {"uint8": 4, "uint16": 8}
"""Decimals of the moments of images, which are scaled to 0..1."""
CHUNK = 2**22
"""About how many values are widened at once."""


@dataclass(frozen=True)
class Normalisation:
    """(inputs / largest - mean) / std, by channel.

    Attributes:
        dtype: type of the raw inputs, a key of `LARGEST`.
        mean, std: of each channel of the training inputs, after division by the largest value.
    """

    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, inputs: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Normalise raw inputs exactly as training does.

        Args:
            inputs: (N, C, H, W) of type `dtype`.
            device: device on which the result is placed.

        Returns:
            (N, C, H, W) float32 in the channels_last memory format.

        Raises:
            InputError: another type or number of channels.
        """
        fits = inputs.ndim == 4 and inputs.shape[1] == len(self.mean)
        if not fits or inputs.dtype.name != self.dtype:
            raise InputError(
                "inputs that do not fit the training data cannot be normalised",
                where="inputs",
                expected=f"(N, {len(self.mean)}, H, W) {self.dtype}",
                actual=f"{inputs.shape} {inputs.dtype}",
            )
        if self.dtype == "uint16":  # of which PyTorch has few operators
            inputs = inputs.astype(np.float32)
        # Without a copy, torch.from_numpy rejects negative strides and warns of read-only arrays.
        values = torch.from_numpy(inputs.copy()).to(device)
        mean, std = (moment.to(device) for moment in self.moments())
        return channels_last(values.float().sub_(mean).div_(std))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation in the unit of the raw inputs, (C, 1, 1) float32."""
        scale = LARGEST[self.dtype]
        mean, std = (torch.tensor(m)[:, None, None] * scale for m in (self.mean, self.std))
        return mean, std


class Preprocessing(nn.Module):
    """A normalisation as a part of a network."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        mean, std = normalisation.moments()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Raw inputs (N, C, H, W) to normalised ones."""
        return (x.to(torch.float32) - self.mean) / self.std


class Preprocessed(nn.Module):
    """A network that reads raw inputs, of the type of the training data."""

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(normalisation)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Raw inputs (N, C, H, W) to the network's outputs."""
        outputs: Tensor = self.network(self.preprocessing(x))
        return outputs


def moments_of(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (C,) of inputs (N, C, H, W); see `Normalisation`."""
    if inputs.dtype.name in DECIMALS:
        return _moments_of_images(inputs)
    values = inputs.shape[0] * inputs[0, 0].size
    mean = inputs.sum(axis=(0, 2, 3), dtype=np.float64) / values
    squares = np.zeros_like(mean)
    step = max(1, CHUNK // inputs[0].size)
    for start in range(0, len(inputs), step):
        part = inputs[start : start + step].astype(np.float64) - mean[:, None, None]
        squares += np.square(part).sum(axis=(0, 2, 3))
    return mean, np.sqrt(squares / values)


def _moments_of_images(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments from the histogram of each channel, rounded."""
    channels, largest = images.shape[1], LARGEST[images.dtype.name]
    counts = np.zeros((channels, largest + 1), np.int64)
    step = max(1, CHUNK // images[0, 0].size)  # bincount widens to int64
    for start in range(0, len(images), step):
        for channel in range(channels):
            pixels = images[start : start + step, channel].ravel()
            counts[channel] += np.bincount(pixels, minlength=largest + 1)
    values = np.arange(largest + 1) / largest
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    decimals = DECIMALS[images.dtype.name]
    return np.round(mean, decimals), np.round(std, decimals)


def channels_last(images: Tensor) -> Tensor:
    """Copy to the channels_last memory format.

    Unlike `Tensor.contiguous`, this sets the strides of the format for a single channel as well.
    """
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)
