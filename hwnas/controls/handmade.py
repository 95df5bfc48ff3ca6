"""Hand-made networks of any width, for the inputs and the head of a search space.

They are written from the papers that `FAMILIES` names. All of them halve the side of the input in
the same places: in the stem if it has at least `HALVED_SIDE` pixels, by a pool after the stem if it
has at least `POOLED_SIDE`, and in two of their stages. They read images and spectrograms, no tokens
and no rows of tables, and have every head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build
from hwnas.ops.parts import conv, out_size, sequential
from hwnas.spaces.darts import DartsOptions, DartsSpace
from hwnas.spaces.networks import Network
from hwnas.spaces.options import SpaceOptions

LEAST_SIDE, HALVED_SIDE, POOLED_SIDE = 8, 24, 64
"""Sides of the input in pixels: the least that the networks read, the least at which the stem has
stride 2, and the least at which a pool follows it."""

DARTS_V2 = {
    "normal": [
        ["sep_conv_3x3", 0],
        ["sep_conv_3x3", 1],
        ["sep_conv_3x3", 0],
        ["sep_conv_3x3", 1],
        ["sep_conv_3x3", 1],
        ["skip_connect", 0],
        ["skip_connect", 0],
        ["dil_conv_3x3", 2],
    ],
    "reduce": [
        ["max_pool_3x3", 0],
        ["max_pool_3x3", 1],
        ["skip_connect", 2],
        ["max_pool_3x3", 1],
        ["max_pool_3x3", 0],
        ["skip_connect", 2],
        ["skip_connect", 2],
        ["max_pool_3x3", 1],
    ],
}
"""The cells that the authors of DARTS found with second-order gradients."""


@dataclass(frozen=True)
class Family:
    """A hand-made network whose width can be scaled.

    Attributes:
        paper: authors, title, venue and number of the paper.
        build: builds the network of a width for the inputs and the head of a space's options.
        step: the widths are the multiples of this.
    """

    paper: str
    build: Callable[[SpaceOptions, int], Network]
    step: int = 1


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norms, added to their input.

    Where the shape changes, the input passes a 1x1 convolution (option B of the paper).
    Shapes: (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.branch = sequential(
            conv1=conv(c_in, c_out, 3, stride),
            bn1=nn.BatchNorm2d(c_out),
            relu1=nn.ReLU(),
            conv2=conv(c_out, c_out, 3),
            bn2=nn.BatchNorm2d(c_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = sequential(conv=conv(c_in, c_out, 1, stride), bn=nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class PlainNetwork(Network):
    """Layers in a row and a head."""

    def __init__(self, layers: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.layers(x))
        return outputs


def resnet(options: SpaceOptions, width: int) -> Network:
    """A ResNet of three stages with one block each, of 1, 2 and 4 times the width.

    With width 16 on images of less than 24 pixels it has the shape of the paper's networks for
    CIFAR-10 with n = 1.

    Raises:
        InputError: for inputs that it cannot read.
    """
    stem = _Stem(options, channels(width), "relu")
    layers, c_in = stem.layers, stem.channels
    height, width_px = stem.size
    for factor, stride in ((1, 1), (2, 2), (4, 2)):
        c_out = channels(factor * width)
        layers.append(ResidualBlock(c_in, c_out, stride))
        c_in, height, width_px = c_out, out_size(height, stride), out_size(width_px, stride)
    return PlainNetwork(layers, build(options.head_operator(c_in, height, width_px)))


def inverted_bottlenecks(options: SpaceOptions, width: int) -> Network:
    """A small MobileNetV2: a separable convolution, five inverted bottlenecks, a 1x1 convolution.

    The bottlenecks have 3x3 convolutions, expansion 6, and 1, 2 and 4 times the width, which is
    that of the stem.

    Raises:
        InputError: for inputs that it cannot read.
    """
    stem = _Stem(options, channels(width), "relu6")
    layers, c_in = stem.layers, stem.channels
    size = stem.size
    bottleneck = "mbconv_3x3_e6_relu6"
    for name, factor, stride in (
        ("ds_conv_3x3_relu6", 1, 1),
        (bottleneck, 1, 1),
        (bottleneck, 2, 2),
        (bottleneck, 2, 1),
        (bottleneck, 4, 2),
        (bottleneck, 4, 1),
        ("conv_bn_1x1_relu6", 16, 1),
    ):
        spec = OpSpec(name, c_in, channels(factor * width), *size, stride)
        layers.append(build(spec))
        c_in, size = spec.c_out, (out_size(size[0], stride), out_size(size[1], stride))
    return PlainNetwork(layers, build(options.head_operator(c_in, *size)))


def darts_v2(options: SpaceOptions, width: int) -> Network:
    """The published DARTS cells, with the width as the channels of the first cell.

    In a space of DARTS cells there are as many cells as that space has, and its stem. Elsewhere
    there are three cells, the last two of which halve the side.

    Raises:
        InputError: for inputs that it cannot read.
    """
    if isinstance(options, DartsOptions):
        sizes = options.model_copy(update={"channels": width, "nodes": 4})
    else:
        _require_image(options)
        stated = {name: getattr(options, name) for name in SpaceOptions.model_fields}
        sizes = DartsOptions(
            cells=3, channels=width, stem_multiplier=1, stem_stride=_stem_stride(options), **stated
        )
    space = DartsSpace(sizes)
    return space.network(space.from_genotype(DARTS_V2))


FAMILIES: dict[str, Family] = {
    "resnet": Family(
        "He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385",
        resnet,
    ),
    "inverted-bottlenecks": Family(
        "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, "
        "arXiv 1801.04381",
        inverted_bottlenecks,
    ),
    "darts-v2": Family(DartsSpace.paper, darts_v2, step=4),
}
"""The hand-made networks, by name."""


def channels(width: float) -> int:
    """The nearest multiple of 4 that is at least 4: runtimes are slow with other numbers."""
    return max(4, 4 * round(width / 4))


class _Stem:
    """The first layers: a convolution of stride 1 or 2, for large inputs a pool.

    Attributes:
        layers: the modules.
        channels: channels of their output.
        size: (height, width) of their output.
    """

    def __init__(self, options: SpaceOptions, c_out: int, activation: str) -> None:
        _require_image(options)
        stride = _stem_stride(options)
        size = options.height, options.width
        name = f"conv_bn_3x3_{activation}"
        specs = [OpSpec(name, options.input_channels, c_out, *size, stride)]
        size = out_size(size[0], stride), out_size(size[1], stride)
        if min(options.height, options.width) >= POOLED_SIDE:
            specs.append(OpSpec("max_pool_3x3", c_out, c_out, *size, 2))
            size = out_size(size[0], 2), out_size(size[1], 2)
        self.layers = [build(spec) for spec in specs]
        self.channels = c_out
        self.size = size


def _stem_stride(options: SpaceOptions) -> int:
    return 2 if min(options.height, options.width) >= HALVED_SIDE else 1


def _require_image(options: SpaceOptions) -> None:
    """Raises InputError for tokens, and for inputs that are too small to be halved."""
    reads_tokens = len(options.input_shape) == 1
    if reads_tokens or min(options.height, options.width) < LEAST_SIDE:
        raise InputError(
            "hand-made networks read images",
            expected=f"inputs of at least {LEAST_SIDE} x {LEAST_SIDE}",
            actual="tokens" if reads_tokens else f"{options.height} x {options.width}",
        )
