"""Layouts of mobile networks: the channels, strides, stem and head around the searched layers.

The layouts are those of Wu et al., "FBNet", CVPR 2019 (arXiv 1812.03443), and of Cai, Zhu & Han,
"ProxylessNAS", ICLR 2019 (arXiv 1812.00332): a chain of layers between a fixed stem and a fixed
head, with given channels and strides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import out_size, round_channels
from hwnas.spaces.options import SpaceOptions

IMAGENET = {"height": 224, "width": 224, "classes": 1000}
"""Input size and classes for which the papers report parameters and multiply-accumulates."""


@dataclass(frozen=True)
class Layout:
    """What a paper fixes before the search.

    Attributes:
        stem: channels of the first convolution, which has stride 2.
        first: channels of a depthwise separable convolution behind it; None if there is none.
        stages: for each stage the channels, the number of layers, and the first layer's stride.
        head: channels of the last 1x1 convolution.
        blocks: the options of a layer, apart from skipping it.
        activation: the activation of all layers.
    """

    stem: int
    first: int | None
    stages: tuple[tuple[int, int, int], ...]
    head: int
    blocks: tuple[str, ...]
    activation: str

    @property
    def halvings(self) -> int:
        """The number of strides of 2, including that of the first convolution."""
        return 1 + sum(stride == 2 for _, _, stride in self.stages)


LAYOUTS = {
    # Tables 1 and 2 of the paper; the head is that of FBNet-B and C.
    "fbnet": Layout(
        stem=16,
        first=None,
        stages=(
            (16, 1, 1),
            (24, 4, 2),
            (32, 4, 2),
            (64, 4, 2),
            (112, 4, 1),
            (184, 4, 2),
            (352, 1, 1),
        ),
        head=1984,
        blocks=tuple(f"mbconv_{k}x{k}_{e}" for k in (3, 5) for e in ("e1", "e1_g2", "e3", "e6")),
        activation="relu",
    ),
    # Section 4.2 of the paper; channels as in the authors' search.
    "proxylessnas": Layout(
        stem=32,
        first=16,
        stages=((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)),
        head=1280,
        blocks=tuple(f"mbconv_{k}x{k}_{e}" for k in (3, 5, 7) for e in ("e3", "e6")),
        activation="relu6",
    ),
    # The same blocks with fewer layers, for small images; a search takes minutes on a CPU.
    "small": Layout(
        stem=16,
        first=None,
        stages=((16, 2, 1), (32, 3, 2), (64, 3, 2)),
        head=256,
        blocks=tuple(f"mbconv_{k}x{k}_{e}" for k in (3, 5) for e in ("e1", "e3", "e6")),
        activation="relu",
    ),
}


class LayoutOptions(SpaceOptions):
    """Sizes of the networks; the defaults are FBNet's for ImageNet, at the size of the images."""

    layout: Literal["fbnet", "proxylessnas", "small"] = Field(
        "fbnet", description="stages, channels and strides"
    )
    width_multiplier: float = Field(1.0, gt=0, le=8, description="multiplies all channels")
    halvings: int | None = Field(
        None,
        ge=0,
        description="how often the size is halved: this many of the layout's last strides of 2 are "
        "kept, and the earlier ones become 1. By default all are kept",
    )
    stage_channels: list[int] | None = Field(
        None, description="channels of each stage, before the multiplier; the layout's by default"
    )
    stage_layers: int | None = Field(
        None, ge=1, description="largest number of layers of a stage; the layout's by default"
    )
    head_channels: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="channels of the last convolution, before the multiplier; the layout's by "
        "default",
    )
    activation: Literal["relu", "relu6", "hswish"] | None = Field(
        None, description="activation of all layers; the layout's by default"
    )

    @field_validator("halvings")
    @classmethod
    def _at_most_as_in_layout(cls, value: int | None, info: ValidationInfo) -> int | None:
        layout = LAYOUTS.get(info.data.get("layout", ""))
        if value is not None and layout is not None and value > layout.halvings:
            raise ValueError(f"expected at most {layout.halvings}, the layout's")
        return value

    @field_validator("stage_channels")
    @classmethod
    def _one_for_each_stage(cls, value: list[int] | None, info: ValidationInfo) -> list[int] | None:
        layout = LAYOUTS.get(info.data.get("layout", ""))
        if value is not None and layout is not None:
            if len(value) != len(layout.stages) or not all(1 <= c <= 65536 for c in value):
                raise ValueError(f"expected {len(layout.stages)} numbers of channels")
        return value

    @property
    def layout_activation(self) -> str:
        """The activation of all layers."""
        return self.activation or LAYOUTS[self.layout].activation


@dataclass(frozen=True)
class Layer:
    """The position of a layer in a network: name, input and output sizes, and stride.

    Attributes:
        c_in: input channels.
        c_out: output channels.
        height: of the input.
        width: of the input.
        stride: of the layer.
        name: of the layer's choice; "" for layers that are not searched.
        skippable: whether the layer can be left out. This depends on the channels and strides of
            the layout only, not on the width multiplier, so that spaces of any width have the same
            choices.
    """

    c_in: int
    c_out: int
    height: int
    width: int
    stride: int
    name: str = ""
    skippable: bool = False

    def spec(self, operator: str) -> OpSpec:
        """An operator with the sizes of this layer."""
        return OpSpec(operator, self.c_in, self.c_out, self.height, self.width, self.stride)


def lay_out(
    options: LayoutOptions, size: tuple[int, int]
) -> tuple[list[OpSpec], list[Layer], list[OpSpec]]:
    """Lay out a network.

    Args:
        options: layout, channels and strides.
        size: height and width of the first operator's input.

    Returns:
        The operators of the stem, the searched layers, and the operators of the head.
    """
    layout, activation = LAYOUTS[options.layout], options.layout_activation
    width = options.width_multiplier
    dropped = layout.halvings - (layout.halvings if options.halvings is None else options.halvings)
    channels = options.stage_channels or [stage[0] for stage in layout.stages]

    def advance(c_in: int, c_out: int, stride: int) -> Layer:
        """Append a layer; its stride of 2 becomes 1 while strides have to be dropped."""
        nonlocal size, dropped
        if stride == 2 and dropped:
            stride, dropped = 1, dropped - 1
        layer = Layer(c_in, c_out, *size, stride)
        size = (out_size(size[0], stride), out_size(size[1], stride))
        return layer

    c_out = round_channels(width * layout.stem)
    stem = advance(options.input_channels, c_out, 2)
    fixed = [stem.spec(f"conv_bn_3x3_{activation}")]
    if layout.first is not None:
        c_in, c_out = c_out, round_channels(width * layout.first)
        fixed.append(advance(c_in, c_out, 1).spec(f"ds_conv_3x3_{activation}"))
    layers = []
    before = layout.first or layout.stem
    stages = zip(channels, layout.stages, strict=True)
    for number, (stated, (_, count, stride)) in enumerate(stages, start=1):
        for index in range(min(count, options.stage_layers or count)):
            name = f"stage{number}/layer{index + 1}"
            skippable = index > 0 or (stride == 1 and before == stated)
            c_in, c_out = c_out, round_channels(width * stated)
            layer = advance(c_in, c_out, stride if index == 0 else 1)
            layers.append(replace(layer, name=name, skippable=skippable))
        before = stated
    # A multiplier below 1 leaves the head as it is (MobileNetV2, section 6.1).
    features = round_channels(max(width, 1.0) * (options.head_channels or layout.head))
    head = [
        advance(c_out, features, 1).spec(f"conv_bn_1x1_{activation}"),
        options.head_operator(features, *size),
    ]
    return fixed, layers, head
