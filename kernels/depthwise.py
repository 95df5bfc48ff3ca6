"""Dilated depthwise convolution, rewritten so that its backward pass is fast on CPUs.

PyTorch's CPU library has no fast backward pass for a dilated depthwise convolution: one such
layer can take longer than the rest of a network. Two exact identities avoid it. With dilation 2, an
odd kernel and the padding that keeps the size,

- at stride 2 every tap of every output reads an even row and an even column, so the result is a
  convolution without dilation or stride over the even rows and columns alone;
- at stride 1 the result is a convolution without dilation by a larger kernel that has zeros between
  its taps, which is faster on small images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL_IMAGE = 64
"""Pixels of an image up to which the larger kernel with zeros is faster than the dilated one."""


def dilated_depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution with dilation 2 and the padding that keeps the size at stride 1.

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
