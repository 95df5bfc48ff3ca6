"""Dilated depthwise convolution, rewritten so that its backward pass is fast on CPUs.

PyTorch's CPU library has no fast backward pass for a dilated depthwise convolution: one such
layer can take longer than the rest of a network. Two identities avoid it; both are exact.

With dilation 2, an odd kernel and the padding that keeps the size,

- at stride 2 every tap of every output falls on an even pixel, so it is the convolution without
  dilation or stride of the even pixels alone;
- at stride 1 it is the convolution without dilation by the kernel with zeros put between its
  taps, which pays off on small images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL_IMAGE = 64
"""Pixels up to which a kernel with zeros beats a dilated one."""


def dilated_depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve each channel with its own kernel, taps two pixels apart.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k, k), k odd.
        stride: 1 or 2.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)).
    """
    channels, size = x.shape[1], weight.shape[-1]
    if x.device.type == "cpu" and stride == 2:
        even = x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return F.conv2d(even, weight, padding=size // 2, groups=channels)
    if x.device.type == "cpu" and x.shape[2] * x.shape[3] <= SMALL_IMAGE:
        spread = weight.new_zeros(channels, 1, 2 * size - 1, 2 * size - 1)
        spread[:, :, ::2, ::2] = weight
        return F.conv2d(x, spread, padding=size - 1, groups=channels)
    return F.conv2d(x, weight, None, stride, 2 * (size // 2), 2, channels)
