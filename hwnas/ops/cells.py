"""Operators of the cells of DARTS and NAS-Bench-201.

The DARTS operators are those of Liu et al., ICLR 2019 (arXiv 1806.09055), the `nor_conv` ones
of Dong & Yang, "NAS-Bench-201", ICLR 2020 (arXiv 2001.00326). Submodules have the names that
`hwnas.kernels` expects of a candidate's tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.kernels import dilated_depthwise_conv2d
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, classifier, conv, sequential


class DilatedDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with dilation 2; while training it runs the fast identities."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(
            channels,
            channels,
            kernel,
            stride,
            padding=2 * (kernel // 2),
            dilation=2,
            groups=channels,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        if self.training:
            return dilated_depthwise_conv2d(x, self.weight, self.stride[0])
        return super().forward(x)


class ShiftByPixel(nn.Module):
    """All but the first row and column, padded to an even size: half of FactorizedReduce's input.

    Shapes: (N, C, H, W) -> (N, C, H' - 1, W' - 1), with H' and W' rounded up to even.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]


class FactorizedReduce(nn.Module):
    """Halve height and width: two strided 1x1 convolutions, one shifted by a pixel, joined.

    An odd side is padded with zeros at the right and the bottom, so the output side is
    ceil(side / 2). Shapes: (N, c_in, H, W) -> (N, c_out, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__()
        self.shift = ShiftByPixel()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, stride=2, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.bn(torch.cat((self.conv1(x), self.conv2(self.shift(x))), dim=1))


class ResidualReduction(nn.Module):
    """NAS-Bench-201's block between stages: two 3x3 convolutions beside a pooled 1x1 shortcut."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_bn(c_in, c_out, 3, 2, affine=True)
        self.conv_b = relu_conv_bn(c_out, c_out, 3, 1, affine=True)
        self.shortcut = sequential(
            pool=nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
            conv=conv(c_in, c_out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_b(self.conv_a(x)) + self.shortcut(x)


class Add(nn.Module):
    """Sum of two tensors: the join of a cell's node."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Concat(nn.Module):
    """Channels of several tensors, joined: the output of a DARTS cell."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, dim=1)


def relu_conv_bn(c_in: int, c_out: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """ReLU, dense convolution, batch norm."""
    return sequential(
        relu=nn.ReLU(),
        conv=conv(c_in, c_out, kernel, stride),
        bn=nn.BatchNorm2d(c_out, affine=affine),
    )


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Sequential:
    """The stem: a dense convolution and batch norm."""
    return sequential(conv=conv(c_in, c_out, kernel, stride), bn=nn.BatchNorm2d(c_out))


def bn_relu_classifier(c_in: int, classes: int) -> nn.Sequential:
    """NAS-Bench-201's head: batch norm and ReLU before the classifier."""
    return sequential(bn=nn.BatchNorm2d(c_in), relu=nn.ReLU(), classifier=classifier(c_in, classes))


def sep_conv(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Two rounds of ReLU, depthwise, pointwise, batch norm."""
    return sequential(
        relu1=nn.ReLU(),
        depthwise1=conv(channels, channels, kernel, stride, groups=channels),
        pointwise1=conv(channels, channels, 1),
        bn1=nn.BatchNorm2d(channels, affine=affine),
        relu2=nn.ReLU(),
        depthwise2=conv(channels, channels, kernel, groups=channels),
        pointwise2=conv(channels, channels, 1),
        bn2=nn.BatchNorm2d(channels, affine=affine),
    )


def dil_conv(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """One round of ReLU, depthwise with dilation 2, pointwise, batch norm."""
    return sequential(
        relu=nn.ReLU(),
        depthwise=DilatedDepthwiseConv2d(channels, kernel, stride),
        pointwise=conv(channels, channels, 1),
        bn=nn.BatchNorm2d(channels, affine=affine),
    )


def skip_connect(spec: OpSpec, affine: bool) -> nn.Module:
    """The identity, or FactorizedReduce at stride 2."""
    if spec.stride == 1:
        return nn.Identity()
    return FactorizedReduce(spec.c_in, spec.c_out, affine)


CELL_OPERATORS: dict[str, Builder] = {
    "max_pool_3x3": lambda s, affine: nn.MaxPool2d(3, s.stride, padding=1),
    "avg_pool_3x3": lambda s, affine: nn.AvgPool2d(3, s.stride, padding=1, count_include_pad=False),
    "relu": lambda s, affine: nn.ReLU(),
    "shift_by_pixel": lambda s, affine: ShiftByPixel(),
    "skip_connect": skip_connect,
    "sep_conv_3x3": lambda s, affine: sep_conv(s.c_in, 3, s.stride, affine),
    "sep_conv_5x5": lambda s, affine: sep_conv(s.c_in, 5, s.stride, affine),
    "dil_conv_3x3": lambda s, affine: dil_conv(s.c_in, 3, s.stride, affine),
    "dil_conv_5x5": lambda s, affine: dil_conv(s.c_in, 5, s.stride, affine),
    "nor_conv_1x1": lambda s, affine: relu_conv_bn(s.c_in, s.c_out, 1, s.stride, affine),
    "nor_conv_3x3": lambda s, affine: relu_conv_bn(s.c_in, s.c_out, 3, s.stride, affine),
    "conv_bn_3x3": lambda s, affine: conv_bn(s.c_in, s.c_out, 3, s.stride),
    "factorized_reduce": lambda s, affine: FactorizedReduce(s.c_in, s.c_out, affine),
    "residual_reduction": lambda s, affine: ResidualReduction(s.c_in, s.c_out),
    "add": lambda s, affine: Add(),
    "concat": lambda s, affine: Concat(),
    "classifier": lambda s, affine: classifier(s.c_in, s.c_out),
    "bn_relu_classifier": lambda s, affine: bn_relu_classifier(s.c_in, s.c_out),
}
