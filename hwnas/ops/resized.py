"""Operators that resize the network's input before they read it.

`resized_<height>x<width>_<operator>`, such as `resized_20x20_conv_bn_3x3_relu`, resizes its input
by bilinear interpolation and applies the operator. Its `OpSpec` has the size before resizing.
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
    """Bilinear resizing, (N, C, H, W) to (N, C, height, width)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width

    def forward(self, x: Tensor) -> Tensor:
        return _interpolate(x, self.size)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, C, H, W) at a (height, width), unchanged if they already have this size."""
    if x.shape[-2:] == size:
        return x
    return _interpolate(x, size)


def _interpolate(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def resized(operator: OpSpec, height: int, width: int) -> OpSpec:
    """An operator, preceded by resizing if its input has another size than it expects.

    Args:
        operator: the operator at the size that it expects.
        height: of the input before resizing.
        width: of the input before resizing.
    """
    if (operator.height, operator.width) == (height, width):
        return operator
    name = f"resized_{operator.height}x{operator.width}_{operator.name}"
    return replace(operator, name=name, height=height, width=width)


def read_operator(name: str) -> str:
    """The name of the operator without a resizing prefix."""
    match = _NAME.fullmatch(name)
    return match[3] if match else name


def resized_builder(name: str, builder: Builder) -> Builder:
    """The builder of an operator that may have a resizing prefix.

    The operator's submodules keep their names and follow a submodule `resize`.

    Args:
        name: with or without the prefix.
        builder: builds the operator without the prefix.
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
