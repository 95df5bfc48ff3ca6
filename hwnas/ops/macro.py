"""Operators of the layered networks that users describe; the name states the whole structure.

`conv_<k>x<k>[_d<dilation>][_g<groups>][_w<width>]_<activation>[_bare][_<pool>][_residual]` is a
convolution with batch norm and activation; `separable_...` has a depthwise separable convolution
instead, and a `bare` layer has biases in place of batch norms. With a `width` the convolution has
that many channels, and a 1x1 convolution maps them to the operator's output channels. A pool,
`max<reduction>` or `avg<reduction>`, follows the activation and divides height and width by
`reduction`; `k<window>` behind it states the side of its windows. The stride is that of the first
convolution. A `residual` layer adds its input to its output.

`dense[_w<width>]_<activation>` is a linear layer over all input values with an activation, and
`linear` is the linear layer that computes the logits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import ACTIVATIONS, Builder, out_size, sequential

LINEAR = "linear"
LAYER_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    **ACTIVATIONS,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}
"""What may follow a layer, with PyTorch's default parameters."""

_ACTIVATION = f"({'|'.join(sorted(LAYER_ACTIVATIONS))})"
_NUMBER = r"([1-9]\d{0,4})"
_CONVOLUTION = re.compile(
    rf"(conv|separable)_{_NUMBER}x\2(?:_d{_NUMBER})?(?:_g{_NUMBER})?(?:_w{_NUMBER})?_{_ACTIVATION}"
    rf"(_bare)?(?:_(max|avg){_NUMBER}(?:k{_NUMBER})?)?(_residual)?"
)
_DENSE = re.compile(rf"dense(?:_w{_NUMBER})?_{_ACTIVATION}")


@dataclass(frozen=True)
class Pool:
    """A pool behind a layer, which divides height and width, rounding up.

    Attributes:
        kind: "max" or "avg"; an average counts the pixels of the map alone.
        reduction: its stride.
        window: side of its windows; None for 2 * reduction - 1, where each overlaps its neighbours
            by all pixels but one.
    """

    kind: str
    reduction: int
    window: int | None = None

    @property
    def name(self) -> str:
        """The pool's part of the operator's name."""
        return f"{self.kind}{self.reduction}" + (f"k{self.window}" if self.window else "")

    def __call__(self, height: int, width: int) -> nn.Module:
        """Build the module, (N, C, H, W) to (N, C, ceil(H / reduction), ceil(W / reduction))."""
        kernel = self.window or 2 * self.reduction - 1
        # Every window and side has a padding that gives this size, if not rounding down, then up.
        floor, ceil = (
            [
                [p for p in range(kernel // 2 + 1) if self._fits(size, p, ceil_mode)]
                for size in (height, width)
            ]
            for ceil_mode in (False, True)
        )
        ceil_mode = not all(floor)
        of_height, of_width = ceil if ceil_mode else floor
        padding = of_height[0], of_width[0]
        if self.kind == "max":
            return nn.MaxPool2d(kernel, self.reduction, padding, ceil_mode=ceil_mode)
        return nn.AvgPool2d(kernel, self.reduction, padding, ceil_mode, count_include_pad=False)

    def _fits(self, size: int, padding: int, ceil_mode: bool) -> bool:
        """Whether so many windows cover a side as the rounded quotient says (PyTorch's rule)."""
        kernel, stride = self.window or 2 * self.reduction - 1, self.reduction
        free = size + 2 * padding - kernel
        if free < 0 and not ceil_mode:
            return False
        count = (-(-free // stride) if ceil_mode else free // stride) + 1
        if ceil_mode and (count - 1) * stride >= size + padding:
            count -= 1
        return count == out_size(size, stride)


@dataclass(frozen=True)
class ConvolutionLayer:
    """A convolution layer, as its name describes it.

    Attributes:
        kind: "conv" or "separable".
        kernel: side of the kernel, an odd number.
        width: channels of the convolution; None if they are the operator's output channels.
        activation: a key of `LAYER_ACTIVATIONS`.
        pool: behind the activation, if any.
        dilation: of the convolution, the depthwise one if it is separable.
        groups: of the convolution; 1 if it is separable.
        norm: whether batch norms follow the convolutions, which have biases otherwise.
        residual: whether the input is added to the output.
    """

    kind: str
    kernel: int
    width: int | None
    activation: str
    pool: Pool | None = None
    dilation: int = 1
    groups: int = 1
    norm: bool = True
    residual: bool = False

    @property
    def name(self) -> str:
        """The name of the operator."""
        kernel = f"{self.kernel}x{self.kernel}"
        dilation = f"_d{self.dilation}" if self.dilation > 1 else ""
        groups = f"_g{self.groups}" if self.groups > 1 else ""
        norm = "" if self.norm else "_bare"
        pool = f"_{self.pool.name}" if self.pool else ""
        residual = "_residual" if self.residual else ""
        convolution = f"{self.kind}_{kernel}{dilation}{groups}{_width(self.width)}"
        return f"{convolution}_{self.activation}{norm}{pool}{residual}"

    def __call__(self, spec: OpSpec, affine: bool) -> nn.Module:
        """Build the module, which maps (N, c_in, H, W) to (N, c_out, OH, OW)."""
        width = self.width or spec.c_out
        activation = LAYER_ACTIVATIONS[self.activation]
        parts: dict[str, nn.Module] = {}
        if self.kind == "separable":
            parts["depthwise"] = self._conv(spec.c_in, spec.c_in, spec.stride, groups=spec.c_in)
            if self.norm:
                parts["depthwise_bn"] = nn.BatchNorm2d(spec.c_in, affine=affine)
            parts["depthwise_act"] = activation()
            parts["conv"] = nn.Conv2d(spec.c_in, width, 1, bias=not self.norm)
        else:
            parts["conv"] = self._conv(spec.c_in, width, spec.stride, groups=self.groups)
        if self.norm:
            parts["bn"] = nn.BatchNorm2d(width, affine=affine)
        parts["act"] = activation()
        if self.pool is not None:
            sides = out_size(spec.height, spec.stride), out_size(spec.width, spec.stride)
            parts["pool"] = self.pool(*sides)
        if self.width is not None:
            parts["project"] = nn.Conv2d(width, spec.c_out, 1, bias=not self.norm)
            if self.norm:
                parts["project_bn"] = nn.BatchNorm2d(spec.c_out, affine=affine)
        return Residual(parts) if self.residual else sequential(**parts)

    def _conv(self, c_in: int, c_out: int, stride: int, groups: int) -> nn.Conv2d:
        padding = self.dilation * (self.kernel // 2)
        sizes = self.kernel, stride, padding, self.dilation, groups
        return nn.Conv2d(c_in, c_out, *sizes, bias=not self.norm)


class Residual(nn.Module):
    """Layers whose input is added to their output."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = sequential(**parts)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = x + self.layers(x)
        return outputs


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
            "act": LAYER_ACTIVATIONS[self.activation](),
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
        kind, kernel, dilation, groups, width, activation, bare, *pool, residual = match.groups()
        pooling, reduction, window = pool
        operator = ConvolutionLayer(
            kind,
            int(kernel),
            _number(width),
            activation,
            Pool(pooling, int(reduction), _number(window)) if pooling else None,
            int(dilation or 1),
            int(groups or 1),
            not bare,
            bool(residual),
        )
        # Names that say what is understood, as `_d1`, describe nothing.
        if operator.kernel % 2 and operator.name == name and _is_sound(operator):
            return operator
    if match := _DENSE.fullmatch(name):
        return DenseLayer(_number(match[1]), match[2])
    raise KeyError(name)


def linear(spec: OpSpec, affine: bool) -> nn.Module:
    """The linear layer of the logits, (N, c_in, H, W) or (N, c_in) to (N, c_out)."""
    inputs = spec.c_in * spec.height * spec.width
    return sequential(flat=nn.Flatten(), fc=nn.Linear(inputs, spec.c_out))


def _is_sound(operator: ConvolutionLayer) -> bool:
    """Whether an operator states its parts in the one way that is used."""
    pool, grouped = operator.pool, operator.kind == "separable" and operator.groups > 1
    return not grouped and (pool is None or pool.window != 2 * pool.reduction - 1)


def _width(width: int | None) -> str:
    return "" if width is None else f"_w{width}"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
