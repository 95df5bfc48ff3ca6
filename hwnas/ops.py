"""Operators as modules, by their published names; one `OpSpec` builds one module.

The DARTS operators are those of Liu et al., ICLR 2019 (arXiv 1806.09055), the `nor_conv` ones
of Dong & Yang, "NAS-Bench-201", ICLR 2020 (arXiv 2001.00326). Submodules have the names that
`hwnas.kernels` expects of a candidate's tensors. Of mobile networks
`mbconv_<k>x<k>_e<expansion>[_g2][_se]_<activation>` is an inverted bottleneck,
`ds_conv_3x3_<activation>` the one without expansion that they begin with, and
`conv_bn_<k>x<k>_<activation>` a plain convolution.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.kernels import dilated_depthwise_conv2d
from hwnas.latency_tables.table import OpSpec


def out_size(size: int, stride: int) -> int:
    """Side of an operator's output: ceil(size / stride)."""
    return -(-size // stride)


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and at most 10 % below: the rule of mobile networks."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def sequential(**modules: nn.Module) -> nn.Sequential:
    """A Sequential with named stages."""
    return nn.Sequential(OrderedDict(modules))


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


class FactorizedReduce(nn.Module):
    """Halve height and width: two strided 1x1 convolutions, one shifted by a pixel, joined.

    An odd side is padded with zeros at the right and the bottom, so the output side is
    ceil(side / 2). Shapes: (N, c_in, H, W) -> (N, c_out, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, stride=2, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        height, width = x.shape[-2:]
        shifted = F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        return self.bn(torch.cat((self.conv1(x), self.conv2(shifted)), dim=1))


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


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
}


class ChannelShuffle(nn.Module):
    """Channels of the groups in turn (Zhang et al., "ShuffleNet", CVPR 2018, section 3.1)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class SqueezeExcitation(nn.Module):
    """Channels scaled by a gate that reads their means, through a quarter of the channels.

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
        return x * self.gate(x)


class MBConv(nn.Sequential):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection without activation.

    Sandler et al., "MobileNetV2", CVPR 2018 (arXiv 1801.04381). The expansion is there at factor 1
    too, and both 1x1 convolutions may have groups: Wu et al., "FBNet", CVPR 2019 (arXiv
    1812.03443), section 3.1.

    Attributes:
        residual: whether the input is added, where it has the shape of the output.
    """

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
        """All but the last batch norm and the residual connection."""
        for child in list(self.children())[:-1]:
            x = child(x)
        return x

    def branch(self, x: Tensor) -> Tensor:
        """All but the residual connection."""
        return super().forward(x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return x + y if self.residual else y


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


def conv_bn_act(spec: OpSpec, affine: bool, *, kernel: int, activation: str) -> nn.Sequential:
    """First and last convolution of a mobile network: with batch norm and activation."""
    return sequential(
        conv=conv(spec.c_in, spec.c_out, kernel, spec.stride),
        bn=nn.BatchNorm2d(spec.c_out, affine=affine),
        act=ACTIVATIONS[activation](),
    )


def ds_conv(spec: OpSpec, affine: bool, *, activation: str) -> nn.Sequential:
    """Depthwise separable: an inverted bottleneck without expansion, the first of MobileNetV2."""
    return sequential(
        depthwise=conv(spec.c_in, spec.c_in, 3, spec.stride, groups=spec.c_in),
        bn1=nn.BatchNorm2d(spec.c_in, affine=affine),
        act=ACTIVATIONS[activation](),
        pointwise=conv(spec.c_in, spec.c_out, 1),
        bn2=nn.BatchNorm2d(spec.c_out, affine=affine),
    )


def classifier(c_in: int, classes: int) -> nn.Sequential:
    """Global mean, flatten, linear layer."""
    return sequential(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(c_in, classes))


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


Builder = Callable[[OpSpec, bool], nn.Module]


def _mobile_operators() -> dict[str, Builder]:
    """The operators of mobile networks, each with every activation."""
    operators: dict[str, Builder] = {}
    for activation in ACTIVATIONS:
        for kernel in (1, 3):
            plain = partial(conv_bn_act, kernel=kernel, activation=activation)
            operators[f"conv_bn_{kernel}x{kernel}_{activation}"] = plain
        operators[f"ds_conv_3x3_{activation}"] = partial(ds_conv, activation=activation)
        for kernel, (expansion, groups), squeeze in itertools.product(
            (3, 5, 7), ((1, 1), (1, 2), (3, 1), (6, 1)), (False, True)
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


OPERATORS: dict[str, Builder] = {
    "max_pool_3x3": lambda s, affine: nn.MaxPool2d(3, s.stride, padding=1),
    "avg_pool_3x3": lambda s, affine: nn.AvgPool2d(3, s.stride, padding=1, count_include_pad=False),
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
    **_mobile_operators(),
}
"""Every operator but `none`, which is never built: it is zero."""

SOURCES = frozenset({"conv_bn_3x3", *(f"conv_bn_3x3_{activation}" for activation in ACTIVATIONS)})
"""Operators that read the network's input."""


def build(spec: OpSpec, *, affine: bool = True) -> nn.Module:
    """The operator of a finished network; `affine` says whether batch norms scale and shift.

    Raises:
        KeyError: for a name that is not in `OPERATORS`.
    """
    return OPERATORS[spec.name](spec, affine)


def build_candidate(spec: OpSpec, *, normalise_pools: bool) -> nn.Module:
    """The operator as a candidate in a supernet: batch norms without scale and shift.

    Args:
        spec: what to build; the name may be `none`.
        normalise_pools: follow pools by a batch norm, as DARTS does in its search only.
    """
    if spec.name == "none":
        return nn.Identity()
    operator = build(spec, affine=False)
    if normalise_pools and spec.name in ("max_pool_3x3", "avg_pool_3x3"):
        return sequential(pool=operator, bn=nn.BatchNorm2d(spec.c_out, affine=False))
    return operator


def input_shapes(spec: OpSpec) -> list[tuple[int, int, int]]:
    """(C, H, W) of each input of an operator: two for `add`, several for `concat`."""
    inputs = {"add": 2, "concat": spec.c_out // max(spec.c_in, 1)}.get(spec.name, 1)
    return [(spec.c_in, spec.height, spec.width)] * inputs


@cache
def params_and_macs(spec: OpSpec) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image, of an operator.

    Multiply-accumulates are those of convolutions and linear layers, the usual convention of the
    field; they are counted by running the module on shapes alone.
    """
    if spec.name == "none":
        return 0, 0
    with torch.device("meta"):
        module = build(spec).eval()
        inputs = [torch.empty(1, *shape) for shape in input_shapes(spec)]
    macs = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            macs += layer.weight[0].numel() * output.numel()
        elif isinstance(layer, nn.Linear):
            macs += layer.weight.numel()

    for layer in module.modules():
        layer.register_forward_hook(count)
    module(*inputs)
    return sum(p.numel() for p in module.parameters()), macs


@cache
def registry_hash() -> str:
    """Hash of the operators' structure: a table measured on other definitions is told apart."""
    structures = [
        f"{name}: {build(OpSpec(name, 16, 16, 8, 8, stride))!r}"
        for name in sorted(OPERATORS)
        for stride in (1, 2)
    ]
    return hashlib.sha256("\n".join(structures).encode()).hexdigest()[:16]
