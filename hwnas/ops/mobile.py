"""Operators of mobile networks.

`mbconv_<k>x<k>_e<expansion>[_g2][_se]_<activation>` is an inverted bottleneck, with grouped 1x1
convolutions (`g2`) and squeeze-and-excitation (`se`) as options; `ds_conv_3x3_<activation>` is the
depthwise separable convolution at the beginning of mobile networks, and
`conv_bn_<k>x<k>_<activation>` a plain convolution.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import ACTIVATIONS, Builder, conv, round_channels, sequential


class ChannelShuffle(nn.Module):
    """Interleave the channels of groups (Zhang et al., "ShuffleNet", CVPR 2018, section 3.1)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from the channels' means.

    The gate has a bottleneck of a quarter of the channels.

    Howard et al., "Searching for MobileNetV3", ICCV 2019 (arXiv 1905.02244), section 5.3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels / 4)
        self.gate = sequential(
            pool=nn.AdaptiveAvgPool2d(1),
            squeeze=nn.Conv2d(channels, squeezed, 1),
            relu=nn.ReLU(),
            excite=nn.Conv2d(squeezed, channels, 1),
            sigmoid=nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(x)
        return y


class MBConv(nn.Sequential):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, linear 1x1 projection.

    Sandler et al., "MobileNetV2", CVPR 2018 (arXiv 1801.04381). At factor 1 there is an
    expansion too, and both 1x1 convolutions may be grouped: Wu et al., "FBNet", CVPR 2019 (arXiv
    1812.03443), section 3.1.

    Attributes:
        residual: whether the input is added to the output; it is if both have the same shape.
    """

    expand: nn.Conv2d
    bn1: nn.BatchNorm2d
    act1: nn.Module
    depthwise: nn.Conv2d
    bn2: nn.BatchNorm2d
    act2: nn.Module
    project: nn.Conv2d
    bn3: nn.BatchNorm2d

    def __init__(
        self,
        spec: OpSpec,
        affine: bool,
        *,
        kernel: int,
        expansion: int,
        groups: int,
        squeeze: bool,
        activation: str,
    ) -> None:
        hidden = expansion * spec.c_in
        act = ACTIVATIONS[activation]
        modules: OrderedDict[str, nn.Module] = OrderedDict(
            expand=conv(spec.c_in, hidden, 1, groups=groups),
            bn1=nn.BatchNorm2d(hidden, affine=affine),
            act1=act(),
        )
        if groups > 1:
            modules["shuffle"] = ChannelShuffle(groups)
        modules["depthwise"] = conv(hidden, hidden, kernel, spec.stride, groups=hidden)
        modules["bn2"] = nn.BatchNorm2d(hidden, affine=affine)
        modules["act2"] = act()
        if squeeze:
            modules["excitation"] = SqueezeExcitation(hidden)
        modules["project"] = conv(hidden, spec.c_out, 1, groups=groups)
        modules["bn3"] = nn.BatchNorm2d(spec.c_out, affine=affine)
        super().__init__(modules)
        self.residual = spec.stride == 1 and spec.c_in == spec.c_out

    def before_norm(self, x: Tensor) -> Tensor:
        """The block without its last batch norm and residual connection."""
        for child in list(self.children())[:-1]:
            x = child(x)
        return x

    def branch(self, x: Tensor) -> Tensor:
        """The block without its residual connection."""
        y: Tensor = self.bn3(self.before_norm(x))
        return y

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return x + y if self.residual else y


def conv_bn_act(spec: OpSpec, affine: bool, *, kernel: int, activation: str) -> nn.Sequential:
    """Convolution, batch norm, activation: the first and last convolution of mobile networks."""
    return sequential(
        conv=conv(spec.c_in, spec.c_out, kernel, spec.stride),
        bn=nn.BatchNorm2d(spec.c_out, affine=affine),
        act=ACTIVATIONS[activation](),
    )


def ds_conv(spec: OpSpec, affine: bool, *, activation: str) -> nn.Sequential:
    """A depthwise separable convolution with a linear projection: MobileNetV2's first block."""
    return sequential(
        depthwise=conv(spec.c_in, spec.c_in, 3, spec.stride, groups=spec.c_in),
        bn1=nn.BatchNorm2d(spec.c_in, affine=affine),
        act=ACTIVATIONS[activation](),
        pointwise=conv(spec.c_in, spec.c_out, 1),
        bn2=nn.BatchNorm2d(spec.c_out, affine=affine),
    )


def _operators() -> dict[str, Builder]:
    """Builders of the operators of mobile networks, each with every activation."""
    operators: dict[str, Builder] = {}
    for activation in ACTIVATIONS:
        for kernel in (1, 3):
            plain = partial(conv_bn_act, kernel=kernel, activation=activation)
            operators[f"conv_bn_{kernel}x{kernel}_{activation}"] = plain
        operators[f"ds_conv_3x3_{activation}"] = partial(ds_conv, activation=activation)
        for kernel, (expansion, groups), squeeze in itertools.product(
            (3, 5, 7), ((1, 1), (1, 2), (3, 1), (4, 1), (6, 1)), (False, True)
        ):
            options = "_g2" * (groups > 1) + "_se" * squeeze
            name = f"mbconv_{kernel}x{kernel}_e{expansion}{options}_{activation}"
            operators[name] = partial(
                MBConv,
                kernel=kernel,
                expansion=expansion,
                groups=groups,
                squeeze=squeeze,
                activation=activation,
            )
    return operators


MOBILE_OPERATORS = _operators()
