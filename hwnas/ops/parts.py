"""Building blocks that several families of operators share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from hwnas.latency_tables.table import OpSpec

Builder = Callable[[OpSpec, bool], nn.Module]
"""Builds the module of a spec; the flag says whether its batch norms are affine."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
}


def out_size(size: int, stride: int) -> int:
    """The side of an operator's output, ceil(size / stride)."""
    return -(-size // stride)


def round_channels(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and at least 90 % of a number of channels.

    Mobile networks since MobileNetV2 round their channels by this rule.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def sequential(**modules: nn.Module) -> nn.Sequential:
    """A Sequential of named modules."""
    return nn.Sequential(OrderedDict(modules))


def classifier(c_in: int, classes: int) -> nn.Sequential:
    """Global average pooling and a linear layer, (N, c_in, H, W) to (N, classes)."""
    return sequential(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(c_in, classes))


def is_untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a function may take a module's place: nobody changed it, or listens to its calls.

    Hooks, pruning, and parametrisations such as `torch.nn.utils.spectral_norm` need the call.
    """
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return type(module) is kind and not any(getattr(module, name) for name in hooks)
