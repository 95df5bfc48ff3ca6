"""Operators of layered networks that a user describes; the names state all of their parts.

`conv_<k>x<k>[_w<width>]_<activation>[_<max|avg><reduction>]` is a convolution with batch norm and
activation, `separable_...` a depthwise separable one. Where `width` is stated the convolution has
so many channels, and a 1x1 convolution with batch norm leads to the operator's own. A pool behind
the activation divides the size by its reduction; the stride is the first convolution's.
`dense[_w<width>]_<activation>` is a linear layer of all values with activation, and `linear` the
one that gives the logits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import ACTIVATIONS, Builder, conv, sequential

LINEAR = "linear"

_ACTIVATION = f"({'|'.join(sorted(ACTIVATIONS))})"
_NUMBER = r"([1-9]\d{0,4})"
_CONVOLUTION = re.compile(
    rf"(conv|separable)_{_NUMBER}x\2(?:_w{_NUMBER})?_{_ACTIVATION}(?:_(max|avg){_NUMBER})?"
)
_DENSE = re.compile(rf"dense(?:_w{_NUMBER})?_{_ACTIVATION}")


@dataclass(frozen=True)
class ConvolutionLayer:
    """What the name of a convolution says.

    Attributes:
        kind: "conv" or "separable".
        kernel: side of the kernel, odd.
        width: channels of the convolution; None for those of the operator's output.
        activation: of `ACTIVATIONS`.
        pooling: "max", "avg", or None without a pool.
        reduction: the pool's stride.
    """

    kind: str
    kernel: int
    width: int | None
    activation: str
    pooling: str | None = None
    reduction: int = 1

    @property
    def name(self) -> str:
        """The operator's name."""
        pool = f"_{self.pooling}{self.reduction}" if self.pooling else ""
        kernel = f"{self.kernel}x{self.kernel}"
        return f"{self.kind}_{kernel}{_width(self.width)}_{self.activation}{pool}"

    def __call__(self, spec: OpSpec, affine: bool) -> nn.Module:
        """Build the module."""
        width = self.width or spec.c_out
        parts: dict[str, nn.Module] = {}
        if self.kind == "separable":
            parts["depthwise"] = conv(
                spec.c_in, spec.c_in, self.kernel, spec.stride, groups=spec.c_in
            )
            parts["depthwise_bn"] = nn.BatchNorm2d(spec.c_in, affine=affine)
            parts["depthwise_act"] = ACTIVATIONS[self.activation]()
            parts["conv"] = conv(spec.c_in, width, 1)
        else:
            parts["conv"] = conv(spec.c_in, width, self.kernel, spec.stride)
        parts["bn"] = nn.BatchNorm2d(width, affine=affine)
        parts["act"] = ACTIVATIONS[self.activation]()
        if self.pooling is not None:
            parts["pool"] = _pool(self.pooling, self.reduction)
        if self.width is not None:
            parts["project"] = conv(width, spec.c_out, 1)
            parts["project_bn"] = nn.BatchNorm2d(spec.c_out, affine=affine)
        return sequential(**parts)


@dataclass(frozen=True)
class DenseLayer:
    """What the name of a dense layer says; attributes as of `ConvolutionLayer`."""

    width: int | None
    activation: str

    @property
    def name(self) -> str:
        """The operator's name."""
        return f"dense{_width(self.width)}_{self.activation}"

    def __call__(self, spec: OpSpec, affine: bool) -> nn.Module:
        """Build the module; (N, c_in, H, W) or (N, c_in) in, (N, c_out) out."""
        width = self.width or spec.c_out
        parts = {
            "flat": nn.Flatten(),
            "fc": nn.Linear(spec.c_in * spec.height * spec.width, width),
            "act": ACTIVATIONS[self.activation](),
        }
        if self.width is not None:
            parts["project"] = nn.Linear(width, spec.c_out)
        return sequential(**parts)


def parsed_operator(name: str) -> Builder:
    """The builder of an operator's name.

    Raises:
        KeyError: for a name that is no operator of layered networks.
    """
    if name == LINEAR:
        return linear
    if match := _CONVOLUTION.fullmatch(name):
        kind, kernel, width, activation, pooling, reduction = match.groups()
        if int(kernel) % 2:
            return ConvolutionLayer(
                kind, int(kernel), _number(width), activation, pooling, int(reduction or 1)
            )
    if match := _DENSE.fullmatch(name):
        return DenseLayer(_number(match[1]), match[2])
    raise KeyError(name)


def linear(spec: OpSpec, affine: bool) -> nn.Module:
    """Logits of dense features, (N, c_in, H, W) or (N, c_in) in."""
    inputs = spec.c_in * spec.height * spec.width
    return sequential(flat=nn.Flatten(), fc=nn.Linear(inputs, spec.c_out))


def _pool(pooling: str, reduction: int) -> nn.Module:
    """A pool whose windows overlap, so that every size n gives ceil(n / reduction)."""
    kernel, padding = 2 * reduction - 1, reduction - 1
    if pooling == "max":
        return nn.MaxPool2d(kernel, reduction, padding)
    return nn.AvgPool2d(kernel, reduction, padding, count_include_pad=False)


def _width(width: int | None) -> str:
    return "" if width is None else f"_w{width}"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
