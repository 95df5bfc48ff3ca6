"""Operators of the layered networks that users describe; the name states the whole structure.

`conv_<k>x<k>[_w<width>]_<activation>[_<max|avg><reduction>]` is a convolution with batch norm and
activation; `separable_...` has a depthwise separable convolution instead. With a `width` the
convolution has that many channels, and a 1x1 convolution with batch norm maps them to the
operator's output channels. With a pool, which follows the activation, height and width are divided
by `reduction`. The stride is that of the first convolution.

`dense[_w<width>]_<activation>` is a linear layer over all input values with an activation, and
`linear` is the linear layer that computes the logits.
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
    """A convolution layer, as its name describes it.

    Attributes:
        kind: "conv" or "separable".
        kernel: side of the kernel, an odd number.
        width: channels of the convolution; None if they are the operator's output channels.
        activation: a key of `ACTIVATIONS`.
        pooling: "max", "avg", or None for no pool.
        reduction: the stride of the pool.
    """

    kind: str
    kernel: int
    width: int | None
    activation: str
    pooling: str | None = None
    reduction: int = 1

    @property
    def name(self) -> str:
        """The name of the operator."""
        pool = f"_{self.pooling}{self.reduction}" if self.pooling else ""
        kernel = f"{self.kernel}x{self.kernel}"
        return f"{self.kind}_{kernel}{_width(self.width)}_{self.activation}{pool}"

    def __call__(self, spec: OpSpec, affine: bool) -> nn.Module:
        """Build the module, which maps (N, c_in, H, W) to (N, c_out, OH, OW)."""
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
    """A dense layer, as its name describes it; the attributes are those of `ConvolutionLayer`."""

    width: int | None
    activation: str

    @property
    def name(self) -> str:
        """The name of the operator."""
        return f"dense{_width(self.width)}_{self.activation}"

    def __call__(self, spec: OpSpec, affine: bool) -> nn.Module:
        """Build the module, which maps (N, c_in, H, W) or (N, c_in) to (N, c_out)."""
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
    """The builder of an operator, from its name.

    Raises:
        KeyError: when the name does not describe an operator of layered networks.
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
    """The linear layer of the logits, (N, c_in, H, W) or (N, c_in) to (N, c_out)."""
    inputs = spec.c_in * spec.height * spec.width
    return sequential(flat=nn.Flatten(), fc=nn.Linear(inputs, spec.c_out))


def _pool(pooling: str, reduction: int) -> nn.Module:
    """A pool with overlapping windows, which maps every size n to ceil(n / reduction)."""
    kernel, padding = 2 * reduction - 1, reduction - 1
    if pooling == "max":
        return nn.MaxPool2d(kernel, reduction, padding)
    return nn.AvgPool2d(kernel, reduction, padding, count_include_pad=False)


def _width(width: int | None) -> str:
    return "" if width is None else f"_w{width}"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
