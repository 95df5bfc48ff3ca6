"""Operators that read the network's input at another size.

`resized_<height>x<width>_<operator>` interpolates between pixels (bilinear) and is then the
operator at that size: `resized_20x20_conv_bn_3x3_relu`. Its `OpSpec` has the size of the input.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder

_NAME = re.compile(r"resized_([1-9]\d{0,3})x([1-9]\d{0,3})_(\w+)")


class Resize(nn.Module):
    """(N, C, H, W) to (N, C, height, width)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width

    def forward(self, x: Tensor) -> Tensor:
        return resize(x, self.size)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, C, H, W) at another size, or as they are."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def resized(operator: OpSpec, height: int, width: int) -> OpSpec:
    """An operator that reads an input of the given size; itself where it has that size."""
    if (operator.height, operator.width) == (height, width):
        return operator
    name = f"resized_{operator.height}x{operator.width}_{operator.name}"
    return replace(operator, name=name, height=height, width=width)


def read_operator(name: str) -> str:
    """The operator that a name stands for at its size: what is behind the resizing, if any."""
    match = _NAME.fullmatch(name)
    return match[3] if match else name


def resized_builder(name: str, builder: Builder) -> Builder:
    """The builder of a name, given that of its `read_operator`.

    The operator's modules keep their names behind `resize`.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return builder
    height, width = int(match[1]), int(match[2])

    def build(spec: OpSpec, affine: bool) -> nn.Module:
        inner = builder(replace(spec, height=height, width=width), affine)
        return nn.Sequential(
            OrderedDict(resize=Resize(height, width), **dict(inner.named_children()))
        )

    return build
