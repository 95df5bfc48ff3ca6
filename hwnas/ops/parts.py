"""What operators of several families are made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from hwnas.latency_tables.table import OpSpec

Builder = Callable[[OpSpec, bool], nn.Module]
"""The module of a spec; the flag says whether batch norms scale and shift."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
}


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


def classifier(c_in: int, classes: int) -> nn.Sequential:
    """Global mean, flatten, linear layer."""
    return sequential(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(c_in, classes))
