"""Operators of the cells of DARTS, NASNet, NAS-Bench-101 and NAS-Bench-201.

The DARTS operators are those of Liu et al., ICLR 2019 (arXiv 1806.09055), the `nor_conv` operators
those of Dong & Yang, "NAS-Bench-201", ICLR 2020 (arXiv 2001.00326). `hwnas.kernels` finds a
candidate's tensors by the names of its submodules.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.kernels import dilated_depthwise_conv2d
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, classifier, conv, is_untouched, sequential


class DilatedDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with dilation 2.

    In training it runs `hwnas.kernels.dilated_depthwise_conv2d`, which is faster on a CPU.
    """

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
    """Drop the first row and column: the input of FactorizedReduce's second convolution.

    An odd side is first padded with a zero at the end.
    Shapes: (N, C, H, W) -> (N, C, H' - 1, W' - 1), where H' and W' are rounded up to even numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]


class FactorizedReduce(nn.Module):
    """Halve height and width by two strided 1x1 convolutions, the second shifted by one pixel.

    The outputs of both are concatenated. An odd side is padded with a zero at the end, so that the
    output side is ceil(side / 2). Shapes: (N, c_in, H, W) -> (N, c_out, ceil(H / 2), ceil(W / 2)).

    In training the pixels that the convolutions read are taken out first, which gives the same with
    a faster backward pass. Runtimes of exported models are faster with the strides.
    """

    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__()
        self.shift = ShiftByPixel()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, stride=2, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        differentiated = self.training and x.requires_grad
        if differentiated and all(is_untouched(c, nn.Conv2d) for c in (self.conv1, self.conv2)):
            even, odd = F.relu(_diagonal_pixels(x)).unbind()
            parts = F.conv2d(even, self.conv1.weight), F.conv2d(odd, self.conv2.weight)
        else:
            x = F.relu(x)
            parts = self.conv1(x), self.conv2(self.shift(x))
        y: Tensor = self.bn(torch.cat(parts, dim=1))
        return y


def _diagonal_pixels(x: Tensor) -> Tensor:
    """The upper left and the lower right pixel of each block of 2 x 2 pixels.

    Shapes: (N, C, H, W) -> (2, N, C, ceil(H / 2), ceil(W / 2)).
    """
    batch, channels, height, width = x.shape
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    # The gradient gets the order of dimensions that is chosen here: channels_last.
    sizes = (batch, -(-height // 2), 2, -(-width // 2), 2, channels)
    blocks = x.permute(0, 2, 3, 1).reshape(sizes)
    return torch.diagonal(blocks, dim1=2, dim2=4).permute(4, 0, 3, 1, 2)


class ResidualReduction(nn.Module):
    """NAS-Bench-201's block between stages: two 3x3 convolutions and a pooled 1x1 shortcut.

    Shapes: (N, c_in, H, W) -> (N, c_out, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_bn(c_in, c_out, 3, 2, affine=True)
        self.conv_b = relu_conv_bn(c_out, c_out, 3, 1, affine=True)
        self.shortcut = sequential(
            pool=nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
            conv=conv(c_in, c_out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_b(self.conv_a(x)) + self.shortcut(x)
        return y


class Add(nn.Module):
    """The sum of two tensors, of which a cell's node is made."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Concat(nn.Module):
    """Concatenate tensors along the channels: the output of a DARTS cell."""

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
    """A dense convolution and batch norm: the stem of cell networks."""
    return sequential(conv=conv(c_in, c_out, kernel, stride), bn=nn.BatchNorm2d(c_out))


def conv_bn_relu(c_in: int, c_out: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Dense convolution, batch norm and ReLU, as in NAS-Bench-101."""
    return sequential(
        conv=conv(c_in, c_out, kernel, stride),
        bn=nn.BatchNorm2d(c_out, affine=affine),
        relu=nn.ReLU(),
    )


def bn_relu_classifier(c_in: int, classes: int) -> nn.Sequential:
    """Batch norm, ReLU and classifier: the head of NAS-Bench-201's networks."""
    return sequential(bn=nn.BatchNorm2d(c_in), relu=nn.ReLU(), classifier=classifier(c_in, classes))


def relu_classifier(c_in: int, classes: int, *, bias: bool) -> nn.Sequential:
    """ReLU, global average pooling and a linear layer, (N, c_in, H, W) to (N, classes)."""
    pool, fc = nn.AdaptiveAvgPool2d(1), nn.Linear(c_in, classes, bias=bias)
    return sequential(relu=nn.ReLU(), pool=pool, flat=nn.Flatten(), fc=fc)


def sep_conv(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Twice: ReLU, depthwise convolution, pointwise convolution, batch norm."""
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
    """ReLU, depthwise convolution with dilation 2, pointwise convolution, batch norm."""
    return sequential(
        relu=nn.ReLU(),
        depthwise=DilatedDepthwiseConv2d(channels, kernel, stride),
        pointwise=conv(channels, channels, 1),
        bn=nn.BatchNorm2d(channels, affine=affine),
    )


def bottleneck(
    channels: int, kernels: list[tuple[int, int]], stride: int, affine: bool
) -> nn.Module:
    """Convolutions of a quarter of the channels between two 1x1 convolutions.

    Each follows a ReLU and is followed by a batch norm, as in the code of AmoebaNet (Real et al.,
    AAAI 2019, arXiv 1802.01548).

    Args:
        channels: of input and output.
        kernels: (height, width) of the kernel of each convolution between the two.
        stride: along each side, taken by the first kernel that is longer than 1 along it.
        affine: whether the batch norms have a learned scale and shift.
    """
    narrow = max(1, channels // 4)
    layers: dict[str, nn.Module] = {"reduce": relu_conv_bn(channels, narrow, 1, 1, affine)}
    left = [stride, stride]
    for number, kernel in enumerate(kernels, start=1):
        strides = [left[axis] if kernel[axis] > 1 else 1 for axis in (0, 1)]
        left = [1 if kernel[axis] > 1 else left[axis] for axis in (0, 1)]
        padding = kernel[0] // 2, kernel[1] // 2
        layers[f"conv{number}"] = sequential(
            relu=nn.ReLU(),
            conv=nn.Conv2d(narrow, narrow, kernel, (strides[0], strides[1]), padding, bias=False),
            bn=nn.BatchNorm2d(narrow, affine=affine),
        )
    layers["expand"] = relu_conv_bn(narrow, channels, 1, 1, affine)
    return sequential(**layers)


def without_norm(module: nn.Module) -> nn.Module:
    """A convolution's module without its batch norm.

    It is the share that one of several concatenated maps has in a 1x1 convolution over all of them.
    """
    assert isinstance(module, FactorizedReduce | nn.Sequential)
    module.bn = nn.Identity()
    return module


def skip_connect(spec: OpSpec, affine: bool) -> nn.Module:
    """The identity at stride 1, FactorizedReduce at stride 2."""
    if spec.stride == 1:
        return nn.Identity()
    return FactorizedReduce(spec.c_in, spec.c_out, affine)


CELL_OPERATORS: dict[str, Builder] = {
    "max_pool_2x2": lambda s, affine: nn.MaxPool2d(2, s.stride, ceil_mode=True),
    "max_pool_3x3": lambda s, affine: nn.MaxPool2d(3, s.stride, padding=1),
    "max_pool_5x5": lambda s, affine: nn.MaxPool2d(5, s.stride, padding=2),
    "max_pool_7x7": lambda s, affine: nn.MaxPool2d(7, s.stride, padding=3),
    "avg_pool_3x3": lambda s, affine: nn.AvgPool2d(3, s.stride, padding=1, count_include_pad=False),
    "relu": lambda s, affine: nn.ReLU(),
    "shift_by_pixel": lambda s, affine: ShiftByPixel(),
    "skip_connect": skip_connect,
    "sep_conv_3x3": lambda s, affine: sep_conv(s.c_in, 3, s.stride, affine),
    "sep_conv_5x5": lambda s, affine: sep_conv(s.c_in, 5, s.stride, affine),
    "sep_conv_7x7": lambda s, affine: sep_conv(s.c_in, 7, s.stride, affine),
    "conv_3x3": lambda s, affine: bottleneck(s.c_in, [(3, 3)], s.stride, affine),
    "conv_1x3_3x1": lambda s, affine: bottleneck(s.c_in, [(1, 3), (3, 1)], s.stride, affine),
    "conv_1x7_7x1": lambda s, affine: bottleneck(s.c_in, [(1, 7), (7, 1)], s.stride, affine),
    "dil_conv_3x3": lambda s, affine: dil_conv(s.c_in, 3, s.stride, affine),
    "dil_conv_5x5": lambda s, affine: dil_conv(s.c_in, 5, s.stride, affine),
    "nor_conv_1x1": lambda s, affine: relu_conv_bn(s.c_in, s.c_out, 1, s.stride, affine),
    "nor_conv_3x3": lambda s, affine: relu_conv_bn(s.c_in, s.c_out, 3, s.stride, affine),
    "conv1x1-bn-relu": lambda s, affine: conv_bn_relu(s.c_in, s.c_out, 1, s.stride, affine),
    "conv3x3-bn-relu": lambda s, affine: conv_bn_relu(s.c_in, s.c_out, 3, s.stride, affine),
    "conv_bn_3x3": lambda s, affine: conv_bn(s.c_in, s.c_out, 3, s.stride),
    "factorized_reduce": lambda s, affine: FactorizedReduce(s.c_in, s.c_out, affine),
    "nor_conv_1x1_share": lambda s, affine: without_norm(
        relu_conv_bn(s.c_in, s.c_out, 1, s.stride, affine)
    ),
    "factorized_reduce_share": lambda s, affine: without_norm(
        FactorizedReduce(s.c_in, s.c_out, affine)
    ),
    "relu_classifier": lambda s, affine: relu_classifier(s.c_in, s.c_out, bias=True),
    "relu_classifier_share": lambda s, affine: relu_classifier(s.c_in, s.c_out, bias=False),
    "residual_reduction": lambda s, affine: ResidualReduction(s.c_in, s.c_out),
    "add": lambda s, affine: Add(),
    "concat": lambda s, affine: Concat(),
    "classifier": lambda s, affine: classifier(s.c_in, s.c_out),
    "bn_relu_classifier": lambda s, affine: bn_relu_classifier(s.c_in, s.c_out),
}
